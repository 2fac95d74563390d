// SPDX-License-Identifier: Apache-2.0

package usagelog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// file is the file of a log, which is moved away when it has reached a size, and made again
// when somebody else has moved or removed it. It is for one goroutine.
type file struct {
	path string
	max  int64 // bytes after which it is moved away; 0: never
	keep int   // how many of those that were moved away are kept; 0: all

	open  *os.File // nil after an error
	size  int64
	dirty bool // it has what may not be on disk
}

// openFile opens the file for appending. Only its owner may read it if it is new.
func openFile(path string, maxSize int64, keep int) (*file, error) {
	f := &file{path: path, max: maxSize, keep: keep}
	return f, f.reopen()
}

func (f *file) reopen() error {
	file, err := os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.path)
	}
	if err == nil {
		err = endLine(file, info.Size())
	}
	if err == nil {
		info, err = file.Stat()
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	f.open, f.size, f.dirty = file, info.Size(), true
	return nil
}

// endLine ends the last line of a file, which a machine that lost its power may have left
// torn, so that the next line is a line of its own.
func endLine(file *os.File, size int64) error {
	var last [1]byte
	if size == 0 {
		return nil
	}
	if _, err := file.ReadAt(last[:], size-1); err != nil || last[0] == '\n' {
		return err
	}
	_, err := file.Write([]byte{'\n'})
	return err
}

// write writes whole lines, and returns those that are still to be written, if there is an
// error. It cuts off what it has written of the next one.
func (f *file) write(lines []byte) (rest []byte, err error) {
	if f.open == nil {
		if err := f.reopen(); err != nil {
			return lines, err
		}
	}
	if f.max > 0 && f.size > 0 && f.size+int64(len(lines)) > f.max {
		if err := f.rotate(); err != nil {
			return lines, err
		}
	}
	n, err := f.open.Write(lines)
	f.dirty = f.dirty || n > 0
	f.size += int64(n)
	if err == nil {
		return nil, nil
	}
	whole := bytes.LastIndexByte(lines[:n], '\n') + 1
	if whole < n {
		f.size -= int64(n - whole)
		err = errors.Join(err, f.open.Truncate(f.size))
	}
	return lines[whole:], err
}

// sync puts what was written on disk.
func (f *file) sync() error {
	if f.open == nil || !f.dirty {
		return nil
	}
	if err := f.open.Sync(); err != nil {
		return err
	}
	f.dirty = false
	return nil
}

// follow makes the file again if it was moved or removed, as logrotate does.
func (f *file) follow() error {
	if f.open == nil {
		return nil
	}
	have, err := f.open.Stat()
	if err != nil {
		return err
	}
	if now, err := os.Stat(f.path); err == nil && os.SameFile(have, now) {
		f.size = now.Size() // it may have been cut off
		return nil
	}
	return errors.Join(f.close(), f.reopen())
}

// close closes the file, with all that was written on disk.
func (f *file) close() error {
	if f.open == nil {
		return nil
	}
	err := errors.Join(f.sync(), f.open.Close())
	f.open = nil
	return err
}

// rotatedFormat is the time in the name of a file that was moved away. Names are in the order
// of their times.
const rotatedFormat = "20060102T150405.000000000Z"

// rotate moves the file away, and begins another one.
func (f *file) rotate() error {
	if err := f.close(); err != nil {
		return err
	}
	extension := filepath.Ext(f.path)
	name := strings.TrimSuffix(f.path, extension) + "-" + time.Now().UTC().Format(rotatedFormat) + extension
	if err := os.Rename(f.path, name); err != nil && !errors.Is(err, os.ErrNotExist) { // else it was moved already
		return errors.Join(err, f.reopen())
	}
	return errors.Join(f.reopen(), f.removeOld())
}

// removeOld removes the oldest files that were moved away, except those that are kept.
func (f *file) removeOld() (err error) {
	if f.keep <= 0 {
		return nil
	}
	entries, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	extension := filepath.Ext(f.path)
	prefix := strings.TrimSuffix(filepath.Base(f.path), extension) + "-"
	var old []string
	for _, e := range entries {
		at, ok := strings.CutPrefix(e.Name(), prefix)
		if at, ok = cutSuffix(at, extension, ok); !ok {
			continue
		}
		if _, err := time.Parse(rotatedFormat, at); err == nil {
			old = append(old, e.Name())
		}
	}
	slices.Sort(old)
	for _, name := range old[:max(0, len(old)-f.keep)] {
		err = errors.Join(err, os.Remove(filepath.Join(filepath.Dir(f.path), name)))
	}
	return err
}

func cutSuffix(s, suffix string, ok bool) (string, bool) {
	if !ok {
		return s, false
	}
	return strings.CutSuffix(s, suffix)
}
