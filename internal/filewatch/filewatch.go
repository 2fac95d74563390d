// SPDX-License-Identifier: Apache-2.0

// Package filewatch reads the files of a configuration, and notices when they
// change.
//
// It watches directories, not files, because editors and Kubernetes replace
// files by renaming: the change of a ConfigMap is the swap of a symlink beside
// them. What counts is the content, so an event too many does no harm, and a
// slow poll makes up for events that never come (network file systems).
package filewatch

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// A File is one file with its content.
type File struct {
	Name   string
	Source []byte
}

// maxFile is more than the parser takes, so that it is the one to complain.
const maxFile = 1<<20 + 1

// Read returns a file, or the *.yaml files of a directory in the order of their
// names.
func Read(path string) ([]File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		f, err := readFile(path)
		return []File{f}, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, e := range entries {
		// Names with a dot in front are the business of editors and Kubernetes.
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

func readFile(path string) (File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return File{}, err
	}
	if !info.Mode().IsRegular() {
		return File{}, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	src, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return File{}, err
	}
	return File{Name: path, Source: src}, nil
}

// Digest tells contents, and the names of files, apart.
func Digest(files []File) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%q %d\n", f.Name, len(f.Source))
		h.Write(f.Source)
	}
	h.Sum(sum[:0])
	return sum
}
