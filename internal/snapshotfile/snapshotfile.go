// SPDX-License-Identifier: Apache-2.0

// Package snapshotfile encodes the state of all partitions as one file that is
// protected by a checksum. It does not open files, except that Lock does.
//
// The layout is, in little-endian order: an 8-byte magic and the number of the
// generation (uint64); for each partition its number and the length of its data
// (uint32), the fields of its [Section] (5 x 64 bits) and its data; then 0xFFFFFFFF
// and the xxHash64 of everything before.
package snapshotfile

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cespare/xxhash/v2"
)

const (
	product  = "bktrng\x00" // begins every version of this layout
	version  = 2
	headSize = len(product) + 1 + 8
	metaSize = 4 + 4 + 5*8 // of a section
	endMark  = 1<<32 - 1
	sumSize  = 8
	maxPart  = 1 << 31 // largest partition, in bytes
)

var (
	// ErrCorrupt means that a file is not what a Writer wrote.
	ErrCorrupt = errors.New("corrupt snapshot")
	// ErrVersion means that another version of this program wrote the file.
	ErrVersion = errors.New("snapshot of another version")
	// ErrLocked means that another process has locked the file.
	ErrLocked = errors.New("in use by another process")
)

// Section is the state of one partition.
type Section struct {
	Partition int
	Wall      int64  // when it was the state, in Unix nanoseconds
	Position  uint64 // the first byte of the journal that the state does not include
	Origin    uint64 // the host's name for the history that Seq counts
	Seq       uint64 // number of the last change that the state includes
	Complete  bool   // false: a copy that does not have all records
	Data      []byte
}

// A Writer writes one snapshot. It is not safe for concurrent use.
type Writer struct {
	file *bufio.Writer
	sum  *xxhash.Digest
	size int64
	head []byte
	err  error
}

// NewWriter returns a Writer of the snapshot of a generation.
func NewWriter(w io.Writer, generation uint64) *Writer {
	s := &Writer{file: bufio.NewWriterSize(w, 1<<16), sum: xxhash.New()}
	s.put(binary.LittleEndian.AppendUint64(append([]byte(product), version), generation))
	return s
}

func (w *Writer) put(b []byte) {
	if w.err == nil {
		_, w.err = w.file.Write(b)
		_, _ = w.sum.Write(b) // never fails
		w.size += int64(len(b))
	}
}

// Add writes a partition. It does not retain its data.
func (w *Writer) Add(s *Section) error {
	if len(s.Data) > maxPart {
		return fmt.Errorf("partition %d has %d bytes, more than the maximum of %d", s.Partition, len(s.Data), maxPart)
	}
	flags := uint64(0)
	if s.Complete {
		flags = 1
	}
	w.head = binary.LittleEndian.AppendUint32(w.head[:0], uint32(s.Partition))
	w.head = binary.LittleEndian.AppendUint32(w.head, uint32(len(s.Data)))
	for _, n := range [...]uint64{uint64(s.Wall), s.Position, s.Origin, s.Seq, flags} {
		w.head = binary.LittleEndian.AppendUint64(w.head, n)
	}
	w.put(w.head)
	w.put(s.Data)
	return w.err
}

// Finish writes the end and returns the size of the snapshot in bytes.
func (w *Writer) Finish() (size int64, err error) {
	w.put(binary.LittleEndian.AppendUint32(nil, endMark))
	w.put(binary.LittleEndian.AppendUint64(nil, w.sum.Sum64()))
	return w.size, errors.Join(w.err, w.file.Flush())
}

// Read verifies the snapshot of a generation in r, of that size in bytes, and then
// calls restore for each partition, which must not retain the data. If the snapshot is
// damaged, Read restores nothing and returns an [ErrCorrupt] or an [ErrVersion].
func Read(r io.ReaderAt, size int64, generation uint64, restore func(*Section) error) error {
	if err := verify(r, size, generation); err != nil {
		return err
	}
	return decode(bufio.NewReaderSize(io.NewSectionReader(r, 0, size), 1<<16), restore)
}

// verify checks the head and the checksum of the whole file.
func verify(f io.ReaderAt, size int64, generation uint64) error {
	sum, r := xxhash.New(), bufio.NewReaderSize(io.NewSectionReader(f, 0, size), 1<<16)
	body := size - sumSize
	if body < int64(headSize)+4 {
		return fmt.Errorf("%w: the file has only %d bytes", ErrCorrupt, size)
	}
	head, err := r.Peek(headSize)
	if err != nil {
		return err
	}
	if string(head[:len(product)]) != product {
		return fmt.Errorf("%w: byte 0: this is no snapshot", ErrCorrupt)
	}
	if v := head[len(product)]; v != version {
		return fmt.Errorf("%w: byte %d: version %d, want %d", ErrVersion, len(product), v, version)
	}
	if got := binary.LittleEndian.Uint64(head[len(product)+1:]); got != generation {
		return fmt.Errorf("%w: byte %d: generation %d, want %d", ErrCorrupt, len(product)+1, got, generation)
	}
	if _, err := io.CopyN(sum, r, body); err != nil {
		return err
	}
	var stored [sumSize]byte
	if _, err := io.ReadFull(r, stored[:]); err != nil {
		return err
	}
	if want := binary.LittleEndian.Uint64(stored[:]); sum.Sum64() != want {
		return fmt.Errorf("%w: checksum %016x of bytes 0 to %d, want %016x", ErrCorrupt, sum.Sum64(), body, want)
	}
	return nil
}

func decode(r io.Reader, restore func(*Section) error) error {
	var head [metaSize]byte
	if _, err := io.ReadFull(r, head[:headSize]); err != nil {
		return err
	}
	var s Section
	for {
		if _, err := io.ReadFull(r, head[:4]); err != nil {
			return err
		}
		p := binary.LittleEndian.Uint32(head[:])
		if p == endMark {
			return nil
		}
		if _, err := io.ReadFull(r, head[4:]); err != nil {
			return err
		}
		size := int(binary.LittleEndian.Uint32(head[4:]))
		if size > maxPart {
			return fmt.Errorf("%w: partition %d has %d bytes", ErrCorrupt, p, size)
		}
		var n [5]uint64
		for i := range n {
			n[i] = binary.LittleEndian.Uint64(head[8+8*i:])
		}
		s = Section{Partition: int(p), Wall: int64(n[0]), Position: n[1], Origin: n[2], Seq: n[3], Complete: n[4]&1 != 0, Data: slices.Grow(s.Data[:0], size)[:size]}
		if _, err := io.ReadFull(r, s.Data); err != nil {
			return err
		}
		if err := restore(&s); err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
	}
}
