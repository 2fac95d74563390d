// SPDX-License-Identifier: Apache-2.0

// Package filewatch loads a configuration from files and loads it again when
// they change.
//
// It watches directories, not files, because editors and Kubernetes replace
// files by renaming: an update of a ConfigMap swaps a symlink next to them. It
// compares contents, so surplus events do no harm, and it also polls slowly, for
// file systems that send no events (network file systems).
package filewatch

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/bucketring/bucketring/internal/yamldoc"
)

// Read returns a file, or the *.yaml files of a directory in the order of their
// names. Files whose names begin with a dot are left out.
func Read(path string) ([]yamldoc.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		f, err := readFile(path)
		return []yamldoc.File{f}, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []yamldoc.File
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || filepath.Ext(e.Name()) != ".yaml" {
			continue
		}
		f, err := readFile(filepath.Join(path, e.Name()))
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no *.yaml files", path)
	}
	return files, nil
}

func readFile(path string) (yamldoc.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return yamldoc.File{}, err
	}
	if !info.Mode().IsRegular() {
		return yamldoc.File{}, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return yamldoc.File{}, err
	}
	defer f.Close()
	// One byte more than the parser accepts, so that the parser reports the size.
	src, err := io.ReadAll(io.LimitReader(f, yamldoc.MaxBytes+1))
	if err != nil {
		return yamldoc.File{}, err
	}
	return yamldoc.File{Name: path, Source: src}, nil
}

// digest returns a hash of the names and contents of files.
func digest(files []yamldoc.File) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%q %d\n", f.Name, len(f.Source))
		h.Write(f.Source)
	}
	h.Sum(sum[:0])
	return sum
}
