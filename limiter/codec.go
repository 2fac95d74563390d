// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// An encoder appends values to buf, numbers as varints.
type encoder struct{ buf []byte }

func (e *encoder) uint(n uint64)   { e.buf = binary.AppendUvarint(e.buf, n) }
func (e *encoder) int(n int64)     { e.buf = binary.AppendVarint(e.buf, n) }
func (e *encoder) fixed(n uint64)  { e.buf = binary.LittleEndian.AppendUint64(e.buf, n) }
func (e *encoder) wide(w wide)     { e.int(w.hi); e.fixed(w.lo) }
func (e *encoder) bool(b bool)     { e.uint(uint64(boolInt(b))) }
func (e *encoder) string(s string) { e.uint(uint64(len(s))); e.buf = append(e.buf, s...) }

// setLength writes the length of what follows into the four bytes at a position.
func (e *encoder) setLength(at int) {
	binary.LittleEndian.PutUint32(e.buf[at:], uint32(len(e.buf)-at-4))
}

// A decoder reads what an encoder wrote. After its first error it returns zero
// values, so that a caller may check err once for several values.
type decoder struct {
	buf  []byte // not read yet
	size int    // of the whole input, for error messages
	what string // the input is, for error messages
	err  error
}

var errTruncated = errors.New("ends too early")

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%s: byte %d: %w", d.what, d.size-len(d.buf), fmt.Errorf(format, args...))
	}
	d.buf = nil
}

func (d *decoder) uint() uint64 {
	n, k := binary.Uvarint(d.buf)
	if k <= 0 {
		d.fail("%w", errTruncated)
		return 0
	}
	d.buf = d.buf[k:]
	return n
}

func (d *decoder) int() int64 {
	n, k := binary.Varint(d.buf)
	if k <= 0 {
		d.fail("%w", errTruncated)
		return 0
	}
	d.buf = d.buf[k:]
	return n
}

func (d *decoder) fixed() uint64 {
	if len(d.buf) < 8 {
		d.fail("%w", errTruncated)
		return 0
	}
	n := binary.LittleEndian.Uint64(d.buf)
	d.buf = d.buf[8:]
	return n
}

// wide reads a level. It must be far within 128 bits, or maxWide.
func (d *decoder) wide() wide {
	w := wide{d.int(), d.fixed()}
	if (w.hi > maxLevel || w.hi < -maxLevel) && w != maxWide {
		d.fail("level is out of range")
		return wide{}
	}
	return w
}

// maxLevel bounds the upper half of a level. It is far above twice the capacity of
// 2^53 units in 400 days.
const maxLevel = 1 << 56

// upTo reads a number and rejects it if it is above limit.
func (d *decoder) upTo(limit uint64, what string) uint64 {
	n := d.uint()
	if n > limit {
		d.fail("%s: must be at most %d, got %d", what, limit, n)
		return 0
	}
	return n
}

// count reads the length of a list whose elements take at least a byte each, so that
// a short input cannot cause a large allocation.
func (d *decoder) count(what string) int { return int(d.upTo(uint64(len(d.buf)), what)) }

// natural reads a sum of amounts, which is not negative.
func (d *decoder) natural(what string) int64 {
	n := d.int()
	if n < 0 || n > math.MaxInt64/2 {
		d.fail("%s: must be between 0 and 2^62, got %d", what, n)
		return 0
	}
	return n
}

// part returns a decoder of the next bytes, after their length.
func (d *decoder) part() decoder {
	if len(d.buf) < 4 || uint64(len(d.buf)-4) < uint64(binary.LittleEndian.Uint32(d.buf)) {
		d.fail("%w", errTruncated)
		return decoder{}
	}
	rest := d.buf[4:]
	n := binary.LittleEndian.Uint32(d.buf)
	d.buf = rest[n:]
	return decoder{buf: rest[:n], size: d.size - len(d.buf), what: d.what}
}

func (d *decoder) bool() bool { return d.upTo(1, "flag") == 1 }

// string reads a name of at most 256 bytes.
func (d *decoder) string(what string) string { return string(d.bytes(maxNameBytes, what)) }

// maxNameBytes bounds names of tiers, limits and zones.
const maxNameBytes = 256

// bytes reads a string without copying it.
func (d *decoder) bytes(limit int, what string) []byte {
	n := int(d.upTo(uint64(limit), what))
	if n > len(d.buf) {
		d.fail("%w", errTruncated)
		return nil
	}
	b := d.buf[:n]
	d.buf = d.buf[n:]
	return b
}
