// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// FS is the directory of a journal, with the operations that it needs. Names have no
// directory.
type FS interface {
	// List returns the names of all files.
	List() ([]string, error)
	// Create creates an empty file, or empties it.
	Create(name string) (File, error)
	// Open opens a file for reading and [File.Sync].
	Open(name string) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// Sync makes what was created, renamed and removed durable.
	Sync() error
}

// File is an open file.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
}

// directory is the FS of the operating system.
type directory string

func (d directory) path(name string) string { return filepath.Join(string(d), name) }

func (d directory) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, fmt.Errorf("list files: %w", err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func (d directory) Create(name string) (File, error) {
	f, err := os.OpenFile(d.path(name), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create file: %w", err)
	}
	return osFile{f}, nil
}

func (d directory) Open(name string) (File, error) {
	f, err := os.Open(d.path(name))
	if err != nil {
		return nil, fmt.Errorf("open file: %w", err)
	}
	return osFile{f}, nil
}

func (d directory) Rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }

func (d directory) Remove(name string) error { return os.Remove(d.path(name)) }

func (d directory) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", d, err)
	}
	return nil
}

type osFile struct{ *os.File }

// Size returns the length of the file in bytes.
func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
