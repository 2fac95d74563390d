// SPDX-License-Identifier: Apache-2.0

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
	oldHead = 4 + 4 + 8        // of the header of a partition
	oldEnd  = 1<<32 - 1
	oldSum  = 8
	oldMax  = 1 << 31 // largest partition, in bytes
)


// A SnapshotFunc appends the state of a partition to buf. It returns the result and
// the wall time of the state in Unix nanoseconds. Empty data means no state.
type SnapshotFunc func(partition int, buf []byte) (data []byte, wall int64)

// A RestoreFunc restores the state of a partition. It must not retain data.
type RestoreFunc func(partition int, data []byte, wall int64) error

// Write replaces the file at path with the state of partitions 0 to partitions-1 and
// returns its size in bytes. The new file is synced to disk before it replaces the old
// one, so a crash leaves one of the two intact. Calls for the same path must not
// overlap.
func Write(path string, partitions int, snapshot SnapshotFunc) (size int64, err error) {
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

func encode(f io.Writer, partitions int, snapshot SnapshotFunc) (size int64, err error) {
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
		if len(buf) > oldMax {
			return 0, fmt.Errorf("partition %d has %d bytes, more than the maximum of %d", p, len(buf), oldMax)
		}
		head = binary.LittleEndian.AppendUint32(head[:0], uint32(p))
		head = binary.LittleEndian.AppendUint32(head, uint32(len(buf)))
		head = binary.LittleEndian.AppendUint64(head, uint64(wall))
		put(head)
		put(buf)
	}
	put(binary.LittleEndian.AppendUint32(nil, oldEnd))
	put(binary.LittleEndian.AppendUint64(nil, sum.Sum64()))
	return size, errors.Join(err, file.Flush())
}

// ReadOld verifies the file at path and then calls restore for each partition in it. If
// the file is damaged, Read restores nothing and returns an [ErrCorrupt]. If there is
// no file it returns an [os.ErrNotExist].
func ReadOld(path string, restore RestoreFunc) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	defer f.Close()
	if err := verifyOld(f); err != nil {
		return fmt.Errorf("read snapshot %s: %w", path, err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read snapshot %s: %w", path, err)
	}
	if err := decodeOld(bufio.NewReaderSize(f, 1<<16), restore); err != nil {
		return fmt.Errorf("read snapshot %s: %w", path, err)
	}
	return nil
}

// verifyOld checks the magic and the checksum of the whole file.
func verifyOld(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	body := info.Size() - oldSum
	if body < int64(len(magic))+4 {
		return fmt.Errorf("%w: file has only %d bytes", ErrCorrupt, info.Size())
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
	var stored [oldSum]byte
	if _, err := io.ReadFull(r, stored[:]); err != nil {
		return err
	}
	if want := binary.LittleEndian.Uint64(stored[:]); sum.Sum64() != want {
		return fmt.Errorf("%w: checksum %016x, want %016x", ErrCorrupt, sum.Sum64(), want)
	}
	return nil
}

func decodeOld(r io.Reader, restore RestoreFunc) error {
	var head [oldHead]byte
	if _, err := io.ReadFull(r, head[:len(magic)]); err != nil {
		return err
	}
	var data []byte
	for {
		if _, err := io.ReadFull(r, head[:4]); err != nil {
			return err
		}
		p := binary.LittleEndian.Uint32(head[:])
		if p == oldEnd {
			return nil
		}
		if _, err := io.ReadFull(r, head[4:]); err != nil {
			return err
		}
		size := int(binary.LittleEndian.Uint32(head[4:]))
		wall := int64(binary.LittleEndian.Uint64(head[8:]))
		if size > oldMax {
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

// ignore returns err unless it is target.
func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}
