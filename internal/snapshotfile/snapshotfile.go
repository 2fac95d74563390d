// SPDX-License-Identifier: Apache-2.0

// Package snapshotfile keeps the state of all partitions in one file that is
// replaced whole or not at all, and is read back only if every byte of it is
// the byte that was written.
//
// The file is, in little-endian order: an 8-byte magic; for each partition with
// state its number and its length (uint32), the wall clock of its snapshot in
// Unix nanoseconds (int64) and its bytes; then 0xFFFFFFFF and the xxhash64 of
// all that went before.
package snapshotfile

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/cespare/xxhash/v2"
)

const (
	magic    = "bktrng\x00\x01" // the last byte is the version of this layout
	headSize = 4 + 4 + 8        // of a partition
	endMark  = 1<<32 - 1
	sumSize  = 8
	maxPart  = 1 << 31 // bytes of one partition
)

var (
	// ErrCorrupt is a file that is not what Write wrote.
	ErrCorrupt = errors.New("corrupt snapshot")
	// ErrLocked is a file that another process has locked.
	ErrLocked = errors.New("in use by another process")
)

// Snapshot appends the state of a partition to buf, and says at what wall clock
// it was taken. No bytes means no state.
type Snapshot func(partition int, buf []byte) (data []byte, wall int64)

// Restore takes the state of a partition back. It must not keep data.
type Restore func(partition int, data []byte, wall int64) error

// Write replaces the file at path with the state of partitions 0, 1, and so on.
// The new file is on disk, synced, before it takes the place of the old one, so
// a crash leaves one of the two. Only one Write for a path may run at a time.
func Write(path string, partitions int, snapshot Snapshot) (size int64, err error) {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("write snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignore(f.Close(), os.ErrClosed), ignore(os.Remove(temp), os.ErrNotExist))
		}
	}()
	if size, err = encode(f, partitions, snapshot); err != nil {
		return 0, fmt.Errorf("write snapshot: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, fmt.Errorf("write snapshot: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return 0, fmt.Errorf("write snapshot: %w", err)
	}
	return size, syncDir(filepath.Dir(path))
}

func encode(f io.Writer, partitions int, snapshot Snapshot) (size int64, err error) {
	sum := xxhash.New()
	file := bufio.NewWriterSize(f, 1<<16)
	w := io.MultiWriter(file, sum)
	put := func(b []byte) {
		if err == nil {
			var n int
			n, err = w.Write(b)
			size += int64(n)
		}
	}
	put([]byte(magic))
	var buf, head []byte
	for p := range partitions {
		var wall int64
		if buf, wall = snapshot(p, buf[:0]); len(buf) == 0 {
			continue
		}
		if len(buf) > maxPart {
			return 0, fmt.Errorf("partition %d has %d bytes, more than a file can hold", p, len(buf))
		}
		head = binary.LittleEndian.AppendUint32(head[:0], uint32(p))
		head = binary.LittleEndian.AppendUint32(head, uint32(len(buf)))
		head = binary.LittleEndian.AppendUint64(head, uint64(wall))
		put(head)
		put(buf)
	}
	put(binary.LittleEndian.AppendUint32(nil, endMark))
	put(binary.LittleEndian.AppendUint64(nil, sum.Sum64()))
	return size, errors.Join(err, file.Flush())
}

// Read verifies the file at path and then hands each partition in it to
// restore. Nothing is restored from a file that fails the check: an
// [ErrCorrupt]. A missing file is an [os.ErrNotExist].
func Read(path string, restore Restore) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	defer f.Close()
	if err := verify(f); err != nil {
		return fmt.Errorf("read snapshot %s: %w", path, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read snapshot %s: %w", path, err)
	}
	if err := decode(bufio.NewReaderSize(f, 1<<16), restore); err != nil {
		return fmt.Errorf("read snapshot %s: %w", path, err)
	}
	return nil
}

// verify checks the magic and the checksum of the whole file.
func verify(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	body := info.Size() - sumSize
	if body < int64(len(magic))+4 {
		return fmt.Errorf("%w: only %d bytes long", ErrCorrupt, info.Size())
	}
	sum, r := xxhash.New(), bufio.NewReaderSize(f, 1<<16)
	if head, err := r.Peek(len(magic)); err != nil {
		return err
	} else if string(head) != magic {
		return fmt.Errorf("%w: not a snapshot of this version", ErrCorrupt)
	}
	if _, err := io.CopyN(sum, r, body); err != nil {
		return err
	}
	var stored [sumSize]byte
	if _, err := io.ReadFull(r, stored[:]); err != nil {
		return err
	}
	if want := binary.LittleEndian.Uint64(stored[:]); sum.Sum64() != want {
		return fmt.Errorf("%w: checksum %016x, want %016x", ErrCorrupt, sum.Sum64(), want)
	}
	return nil
}

func decode(r io.Reader, restore Restore) error {
	var head [headSize]byte
	if _, err := io.ReadFull(r, head[:len(magic)]); err != nil {
		return err
	}
	var data []byte
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
		wall := int64(binary.LittleEndian.Uint64(head[8:]))
		if size > maxPart {
			return fmt.Errorf("%w: partition %d has %d bytes", ErrCorrupt, p, size)
		}
		data = slices.Grow(data[:0], size)[:size]
		if _, err := io.ReadFull(r, data); err != nil {
			return err
		}
		if err := restore(int(p), data, wall); err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
	}
}

// syncDir makes a rename in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("write snapshot: sync %s: %w", dir, err)
	}
	return nil
}

func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}
