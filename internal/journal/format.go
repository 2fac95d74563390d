// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// A journal file is a header and blocks. All numbers are little-endian.
const (
	product = "bktjrnl" // begins the files of every version
	version = 1

	// headerSize is the size of the header: product, version, generation, generation and
	// end of the journal before it, salt, wall time, and the checksum of these.
	headerSize = len(product) + 1 + 6*8

	// blockHead is the size of the head of a block: its mark, the length of its payload,
	// its offset in the file, how much of the file was known to be on disk when it was
	// written, its wall time, and the checksum of the salt, the head and the payload.
	blockHead = 4 + 4 + 8 + 8 + 8 + 8
	blockMark = 0xB10C_4A52
	sumAt     = blockHead - 8
	maxBlock  = 1 << 31 // bytes of payload
)

// errBad means that there is no intact block at an offset.
var errBad = errors.New("no intact block")

// header is the first part of a journal file.
type header struct {
	generation uint64
	// previous is the generation of the journal that this one continues, and end its
	// size. 0 means that this one continues the snapshot of its own generation, and that
	// it is worth nothing without.
	previous uint64
	end      int64
	salt     uint64 // is part of the checksum of each block, so that none of another file is taken for one of this
	wall     int64
}

func (h *header) encode() []byte {
	b := append([]byte(product), version)
	for _, n := range [...]uint64{h.generation, h.previous, uint64(h.end), h.salt, uint64(h.wall)} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return binary.LittleEndian.AppendUint64(b, xxhash.Sum64(b))
}

// readHeader reads the header of the journal of a generation. The error is a
// [*DamageError] or of the file system.
func readHeader(f io.ReaderAt, name string, generation uint64) (h header, err error) {
	b := make([]byte, headerSize)
	switch n, err := f.ReadAt(b, 0); {
	case err != nil && !errors.Is(err, io.EOF):
		return h, fmt.Errorf("read %s: %w", name, err)
	case n < headerSize:
		return h, &DamageError{File: name, Problem: fmt.Sprintf("the file ends in its header of %d bytes", headerSize)}
	}
	if string(b[:len(product)]) != product {
		return h, &DamageError{File: name, Problem: "this is no journal"}
	}
	if v := b[len(product)]; v != version {
		return h, &VersionError{File: name, Version: int(v)}
	}
	if got, want := binary.LittleEndian.Uint64(b[headerSize-8:]), xxhash.Sum64(b[:headerSize-8]); got != want {
		return h, &DamageError{File: name, Problem: fmt.Sprintf("checksum %016x of the header, want %016x", got, want)}
	}
	var n [5]uint64
	for i := range n {
		n[i] = binary.LittleEndian.Uint64(b[len(product)+1+8*i:])
	}
	h = header{generation: n[0], previous: n[1], end: int64(n[2]), salt: n[3], wall: int64(n[4])}
	if h.generation != generation {
		return h, &DamageError{File: name, Problem: fmt.Sprintf("this is the journal of generation %d", h.generation)}
	}
	return h, nil
}

// beginBlock appends the room for the head of a block.
func beginBlock(buf []byte) []byte { return append(buf, make([]byte, blockHead)...) }

// endBlock fills the head of a block that takes all of buf.
func endBlock(buf []byte, salt uint64, offset, synced, wall int64) {
	binary.LittleEndian.PutUint32(buf, blockMark)
	binary.LittleEndian.PutUint32(buf[4:], uint32(len(buf)-blockHead))
	binary.LittleEndian.PutUint64(buf[8:], uint64(offset))
	binary.LittleEndian.PutUint64(buf[16:], uint64(synced))
	binary.LittleEndian.PutUint64(buf[24:], uint64(wall))
	binary.LittleEndian.PutUint64(buf[sumAt:], blockSum(salt, buf))
}

func blockSum(salt uint64, b []byte) uint64 {
	var sum xxhash.Digest
	sum.Reset()
	var s [8]byte
	binary.LittleEndian.PutUint64(s[:], salt)
	_, _ = sum.Write(s[:]) // these never fail
	_, _ = sum.Write(b[:sumAt])
	_, _ = sum.Write(b[blockHead:])
	return sum.Sum64()
}

// block is a block that was read.
type block struct {
	offset, next int64
	synced       int64
	wall         int64
	payload      []byte // until the next is read
}

// blockReader reads the blocks of a file of a size.
type blockReader struct {
	f    io.ReaderAt
	size int64
	salt uint64
	buf  []byte
}

// at reads the block at an offset. It returns io.EOF at the end of the file and errBad if
// there is no intact block.
func (r *blockReader) at(offset int64) (b block, err error) {
	switch left := r.size - offset; {
	case left == 0:
		return b, io.EOF
	case left < blockHead:
		return b, errBad
	}
	r.buf = slices.Grow(r.buf[:0], blockHead)[:blockHead]
	if _, err := r.f.ReadAt(r.buf, offset); err != nil && !errors.Is(err, io.EOF) {
		return b, err
	}
	length := int64(binary.LittleEndian.Uint32(r.buf[4:]))
	if binary.LittleEndian.Uint32(r.buf) != blockMark || int64(binary.LittleEndian.Uint64(r.buf[8:])) != offset ||
		length > maxBlock || length > r.size-offset-blockHead {
		return b, errBad
	}
	r.buf = slices.Grow(r.buf, int(length))[:blockHead+length]
	if _, err := r.f.ReadAt(r.buf[blockHead:], offset+blockHead); err != nil && !errors.Is(err, io.EOF) {
		return b, err
	}
	if binary.LittleEndian.Uint64(r.buf[sumAt:]) != blockSum(r.salt, r.buf) {
		return b, errBad
	}
	return block{
		offset: offset, next: offset + blockHead + length, synced: int64(binary.LittleEndian.Uint64(r.buf[16:])),
		wall: int64(binary.LittleEndian.Uint64(r.buf[24:])), payload: r.buf[blockHead:],
	}, nil
}

// provesSync reports whether an intact block after a bad one says that the bad one was
// on disk. If it was, it has been damaged since. If not, a crash has cut it off.
func (r *blockReader) provesSync(bad int64) (bool, error) {
	const window = 1 << 20
	chunk := make([]byte, window+blockHead)
	for at := bad + 1; at+blockHead <= r.size; at += window {
		n, err := r.f.ReadAt(chunk, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		for i := 0; i < window && i+blockHead <= n; i++ {
			if binary.LittleEndian.Uint32(chunk[i:]) != blockMark || int64(binary.LittleEndian.Uint64(chunk[i+8:])) != at+int64(i) {
				continue
			}
			switch b, err := r.at(at + int64(i)); {
			case err == nil && b.synced > bad:
				return true, nil
			case err != nil && !errors.Is(err, errBad):
				return false, err
			}
		}
	}
	return false, nil
}

// Kinds of blocks. The payload begins with the kind.
const (
	kindChanges = iota + 1 // number of sections, sections, message
	kindFull               // section, snapshot of its partition
	kindCleared            // partitions that have no copy any more
	kindEnd                // nothing: the process ended orderly, and all before is on disk
)

// Flags of a section.
const (
	flagComplete = 1 << iota // the copy has all records
	flagMessage              // the message has changes of the partition
	knownFlags   = 1<<iota - 1
)

// section says what a block has of a partition.
type section struct {
	partition   int
	flags       uint64
	origin, seq uint64
}

func (s *section) append(buf []byte) []byte {
	for _, n := range [...]uint64{uint64(s.partition), s.flags, s.origin, s.seq} {
		buf = binary.AppendUvarint(buf, n)
	}
	return buf
}

// payloadReader reads the numbers of a payload. After the first error all are 0.
type payloadReader struct {
	buf []byte
	bad bool
}

func (r *payloadReader) uint() uint64 {
	n, k := binary.Uvarint(r.buf)
	if k <= 0 {
		r.bad, r.buf = true, nil
		return 0
	}
	r.buf = r.buf[k:]
	return n
}

func (r *payloadReader) partition(partitions int) int {
	p := r.uint()
	if p >= uint64(partitions) {
		r.bad, r.buf = true, nil
		return 0
	}
	return int(p)
}

func (r *payloadReader) section(partitions int) section {
	s := section{partition: r.partition(partitions), flags: r.uint(), origin: r.uint(), seq: r.uint()}
	r.bad = r.bad || s.flags > knownFlags
	return s
}
