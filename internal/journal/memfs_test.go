// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"syscall"
)

// memFS is a file system in memory, which knows what would be there after a power
// loss, and fails when asked to.
type memFS struct {
	mu      sync.Mutex
	names   map[string]*memFile
	durable map[string]*memFile
	ops     []func(map[string]*memFile) // since the last Sync

	// fault is asked before each operation, with its name and that of the file. For a
	// write, n bytes of size are written before the error.
	fault func(op, name string, size int) (n int, err error)
	chaos func(n int) int // a random number below n
}

// memFile has the content that processes see, and what is on disk.
type memFile struct {
	fs      *memFS
	name    string
	data    []byte
	durable []byte
	writes  []memWrite // since the last Sync
}

// memWrite is a write, or a truncation if data is nil.
type memWrite struct {
	at   int64
	data []byte
}

func newMemFS() *memFS {
	return &memFS{names: map[string]*memFile{}, durable: map[string]*memFile{}, chaos: func(int) int { return 0 }}
}

func (f *memFS) ask(op, name string, size int) (int, error) {
	if f.fault == nil {
		return size, nil
	}
	n, err := f.fault(op, name, size)
	if err != nil {
		return n, fmt.Errorf("%s %s: %w", op, name, err)
	}
	return size, nil
}

func (f *memFS) do(op func(map[string]*memFile)) {
	op(f.names)
	f.ops = append(f.ops, op)
}

func (f *memFS) List() ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for name := range f.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (f *memFS) Create(name string) (File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.ask("create", name, 0); err != nil {
		return nil, err
	}
	file := &memFile{fs: f, name: name}
	f.do(func(names map[string]*memFile) { names[name] = file })
	return file, nil
}

func (f *memFS) Open(name string) (File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file := f.names[name]
	if file == nil {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	return file, nil
}

func (f *memFS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.ask("rename", from, 0); err != nil {
		return err
	}
	file := f.names[from]
	if file == nil {
		return fmt.Errorf("rename %s: %w", from, fs.ErrNotExist)
	}
	file.name = to
	f.do(func(names map[string]*memFile) {
		delete(names, from)
		names[to] = file
	})
	return nil
}

func (f *memFS) Remove(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.ask("remove", name, 0); err != nil {
		return err
	}
	if f.names[name] == nil {
		return fmt.Errorf("remove %s: %w", name, fs.ErrNotExist)
	}
	f.do(func(names map[string]*memFile) { delete(names, name) })
	return nil
}

func (f *memFS) Sync() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.ask("sync directory", "", 0); err != nil {
		return err
	}
	for _, op := range f.ops {
		op(f.durable)
	}
	f.ops = nil
	return nil
}

func (m *memFile) Close() error { return nil }

func (m *memFile) Size() (int64, error) {
	m.fs.mu.Lock()
	defer m.fs.mu.Unlock()
	return int64(len(m.data)), nil
}

func (m *memFile) ReadAt(b []byte, at int64) (int, error) {
	m.fs.mu.Lock()
	defer m.fs.mu.Unlock()
	if at >= int64(len(m.data)) {
		return 0, io.EOF
	}
	n := copy(b, m.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memFile) WriteAt(b []byte, at int64) (int, error) {
	m.fs.mu.Lock()
	defer m.fs.mu.Unlock()
	n, err := m.fs.ask("write", m.name, len(b))
	w := memWrite{at, bytes.Clone(b[:n])}
	m.data = w.apply(m.data)
	m.writes = append(m.writes, w)
	return n, err
}

func (m *memFile) Truncate(size int64) error {
	m.fs.mu.Lock()
	defer m.fs.mu.Unlock()
	if _, err := m.fs.ask("truncate", m.name, 0); err != nil {
		return err
	}
	w := memWrite{at: size}
	m.data = w.apply(m.data)
	m.writes = append(m.writes, w)
	return nil
}

func (w *memWrite) apply(to []byte) []byte {
	if w.data == nil {
		return slices.Clone(to[:min(w.at, int64(len(to)))])
	}
	if grow := int(w.at) + len(w.data) - len(to); grow > 0 {
		to = append(to, make([]byte, grow)...)
	}
	copy(to[w.at:], w.data)
	return to
}

// Sync makes the content durable. If it fails, some of what was written never reaches the
// disk, as in Linux, and the next Sync does not say so.
func (m *memFile) Sync() error {
	m.fs.mu.Lock()
	defer m.fs.mu.Unlock()
	_, err := m.fs.ask("sync", m.name, 0)
	for _, w := range m.writes {
		if err == nil || m.fs.chaos(2) == 1 {
			m.durable = w.apply(m.durable)
		}
	}
	m.writes = nil
	return err
}

// killed returns the files as the next process sees them if this one is killed.
func (f *memFS) killed() *memFS {
	return f.copy(f.names, f.ops, func(m, to *memFile) { to.data = slices.Clone(m.data) })
}

// powerLost returns the files after a power loss. A random prefix of what was not synced
// is there, and perhaps zeros instead of some blocks of it, since disks write in any
// order.
func (f *memFS) powerLost() *memFS {
	f.mu.Lock()
	names := maps.Clone(f.durable)
	for _, op := range f.ops[:f.chaos(len(f.ops)+1)] {
		op(names)
	}
	f.mu.Unlock()
	return f.copy(names, nil, func(m, to *memFile) {
		to.data = slices.Clone(m.durable)
		for _, w := range m.writes[:f.chaos(len(m.writes)+1)] {
			if w.data != nil && f.chaos(4) == 0 {
				w.data = slices.Clone(w.data)
				clear(w.data[f.chaos(len(w.data)+1):])
			}
			if w.data != nil && f.chaos(4) == 0 {
				w.data = w.data[:f.chaos(len(w.data)+1)]
			}
			if w.data != nil || w.at < int64(len(to.data)) {
				to.data = w.apply(to.data)
			}
		}
		to.durable, to.writes = slices.Clone(to.data), nil
	})
}

// copy returns a file system with copies of files, whose data is set by content.
func (f *memFS) copy(names map[string]*memFile, ops []func(map[string]*memFile), content func(m, to *memFile)) *memFS {
	f.mu.Lock()
	defer f.mu.Unlock()
	to := newMemFS()
	to.chaos = f.chaos
	copies := map[*memFile]*memFile{}
	copyOf := func(name string, m *memFile) *memFile {
		if copies[m] == nil {
			c := &memFile{fs: to, name: name, durable: slices.Clone(m.durable), writes: slices.Clone(m.writes)}
			content(m, c)
			copies[m] = c
		}
		return copies[m]
	}
	for name, m := range names {
		to.names[name] = copyOf(name, m)
	}
	if ops == nil {
		to.durable = maps.Clone(to.names)
		return to
	}
	for name, m := range f.durable {
		to.durable[name] = copyOf(name, m)
	}
	for _, op := range ops {
		to.ops = append(to.ops, func(names map[string]*memFile) {
			was := map[string]*memFile{}
			for name, m := range names {
				for original, c := range copies {
					if c == m {
						was[name] = original
					}
				}
			}
			op(was)
			clear(names)
			for name, m := range was {
				names[name] = copyOf(name, m)
			}
		})
	}
	return to
}

var (
	errFull = syscall.ENOSPC
	errIO   = syscall.EIO
)
