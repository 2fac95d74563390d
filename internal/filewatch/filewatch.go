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
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/internal/yamldoc"
)

// Read returns a file, or the *.yaml files of a directory in the order of their
// names. Files whose names begin with a dot are left out. Other files that look like YAML,
// such as *.yml, and directories with such files are problems. It returns the files that
// are read together with the [yamldoc.Problems].
func Read(path string) ([]yamldoc.File, error) { return readWhole(path, false, yamldoc.MaxBytes) }

// ReadAll is [Read] for directories that another program reads as a whole: whatever it
// leaves out is a problem. The entries of Kubernetes, which begin with two dots, and hidden
// files that are no YAML are left out.
func ReadAll(path string) ([]yamldoc.File, error) { return readWhole(path, true, yamldoc.MaxBytes) }

// ReadLarge is [Read] for files with row sections, which have up to
// [yamldoc.MaxFileBytes].
func ReadLarge(path string) ([]yamldoc.File, error) {
	return readWhole(path, false, yamldoc.MaxFileBytes)
}

// Parse parses what [Read] returned. Problems of the files that are read come with those of
// the files that are not.
func Parse[T any](files []yamldoc.File, unread error, parse func([]yamldoc.File) (*T, error)) (*T, error) {
	if unread == nil {
		return parse(files)
	}
	var problems, more yamldoc.Problems
	if len(files) > 0 && errors.As(unread, &problems) {
		if _, err := parse(files); errors.As(err, &more) {
			return nil, append(problems, more...)
		}
	}
	return nil, unread
}

// maxTotal bounds the bytes of all files of a directory.
const maxTotal = 2 * yamldoc.MaxFileBytes

// readWhole is Read, or ReadAll if all is set. It reads one byte more than most of a file.
func readWhole(path string, all bool, most int64) ([]yamldoc.File, error) {
	var problems yamldoc.Problems
	if entries, err := os.ReadDir(path); err == nil { // else it is a file, or read returns the error
		for _, e := range entries {
			if why := unread(path, e, all); why != "" {
				problems = append(problems, yamldoc.Problem{File: filepath.Join(path, e.Name()), Message: why})
			}
		}
	}
	files, err := read(path, most)
	if len(problems) > 0 {
		return files, problems
	}
	return files, err
}

// read returns a file, or the files of a directory that are read.
func read(path string, most int64) ([]yamldoc.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		f, err := readFile(path, most)
		return []yamldoc.File{f}, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []yamldoc.File
	total := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || filepath.Ext(e.Name()) != ".yaml" {
			continue
		}
		f, err := readFile(filepath.Join(path, e.Name()), most)
		if err != nil {
			return nil, err
		}
		if total += len(f.Source); total > maxTotal {
			return nil, fmt.Errorf("the *.yaml files of %s have more than %d bytes together", path, maxTotal)
		}
		files = append(files, f)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s has no *.yaml files", path)
	}
	return files, nil
}

// unread says why an entry of a directory cannot stay there, or nothing if it can.
func unread(directory string, e os.DirEntry, all bool) string {
	name := e.Name()
	path := filepath.Join(directory, name)
	isDir := e.IsDir()
	if info, err := os.Stat(path); err == nil { // a link may lead to a directory
		isDir = info.IsDir()
	}
	switch {
	case strings.HasPrefix(name, ".."), strings.HasPrefix(name, ".") && (isDir || !isYAML(name) || !all):
		return ""
	case isDir && (all || hasYAML(path)):
		return "is a directory, which is not read: move its files up"
	case isDir:
		return ""
	case strings.HasPrefix(name, "."):
		return "is not read, because its name begins with a dot: rename it, or move it away"
	case filepath.Ext(name) != ".yaml" && (all || isYAML(name)):
		return "is not read, because its name does not end in .yaml: rename it, or move it away"
	}
	return ""
}

// isYAML reports whether a file has YAML, or JSON, by its name.
func isYAML(name string) bool {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// hasYAML reports whether there is a file with YAML in a directory.
func hasYAML(directory string) bool {
	entries, err := os.ReadDir(directory)
	return err == nil && slices.ContainsFunc(entries, func(e os.DirEntry) bool { return isYAML(e.Name()) })
}

func readFile(path string, most int64) (yamldoc.File, error) {
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
	var src bytes.Buffer
	src.Grow(int(min(info.Size(), most)) + bytes.MinRead)
	if _, err := io.Copy(&src, io.LimitReader(f, most+1)); err != nil {
		return yamldoc.File{}, err
	}
	return yamldoc.File{Name: path, Source: src.Bytes()}, nil
}

// digest returns a hash of the names and contents of files.
func digest(files []yamldoc.File) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%q %d\n", f.Name, len(f.Source))
		// In parts, because the runtime cannot interrupt a hash function, and others wait.
		for part := range slices.Chunk(f.Source, 64<<10) {
			h.Write(part)
			runtime.Gosched()
		}
	}
	h.Sum(sum[:0])
	return sum
}
