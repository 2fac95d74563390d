// SPDX-License-Identifier: Apache-2.0

package filewatch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/internal/yamldoc"
)

func TestLoadSkipsUnchangedFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("good")
	l, err := Load(Options[string]{Path: path, What: "text", Parse: func(files []yamldoc.File) (*string, error) {
		text := string(files[0].Source)
		if text == "bad" {
			return nil, errors.New("is bad")
		}
		return &text, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		text   string
		loaded bool
		err    string
	}{
		{"good", false, ""}, {"bad", true, "reload text: is bad"}, {"bad", false, ""}, {"good", true, ""}, {"good", false, ""},
	} {
		write(c.text)
		loaded, err := l.load(false)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if loaded != c.loaded || got != c.err {
			t.Errorf("load of %q = %t, %q, want %t, %q", c.text, loaded, got, c.loaded, c.err)
		}
	}
	if st, v := l.Status(); st.Reloads != 1 || st.Failures != 1 || *v != "good" {
		t.Errorf("Status = %+v with %q, want 1 reload, 1 failure and the good text", st, *v)
	}
}

// TestUnreadFilesHideNoProblems: the problems of the files that are read come with those of the
// files that are not, at the first load and at later ones.
func TestUnreadFilesHideNoProblems(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parse := func(files []yamldoc.File) (*string, error) {
		text := string(files[0].Source)
		if text != "good" {
			return nil, yamldoc.Problems{{File: "a.yaml", Line: 1, Column: 1, Message: "is " + text}}
		}
		return &text, nil
	}
	const unread = "b.yml: is not read"
	write("a.yaml", "bad")
	write("b.yml", "")
	o := Options[string]{Path: dir, What: "text", Parse: parse}
	if _, err := Load(o); err == nil || !strings.Contains(err.Error(), unread) || !strings.Contains(err.Error(), "a.yaml:1:1: is bad") {
		t.Errorf("Load() = %v, want both problems", err)
	}
	write("a.yaml", "good")
	if _, err := Load(o); err == nil || !strings.Contains(err.Error(), unread) {
		t.Errorf("Load() = %v, want the file that is not read", err)
	}
	if err := os.Remove(filepath.Join(dir, "b.yml")); err != nil {
		t.Fatal(err)
	}
	l, err := Load(o)
	if err != nil {
		t.Fatal(err)
	}
	write("b.yml", "")
	for _, text := range []string{"bad", "worse"} {
		write("a.yaml", text)
		loaded, err := l.load(false)
		if !loaded || err == nil || !strings.Contains(err.Error(), unread) || !strings.Contains(err.Error(), "is "+text) {
			t.Errorf("load of %s = %t, %v, want both problems", text, loaded, err)
		}
	}
}

// TestReadFailureIsRetriedSoon changes a file while no file can be opened.
func TestReadFailureIsRetriedSoon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	var failures, reported atomic.Int64
	l, err := Load(Options[string]{
		Path: path, What: "text", Debounce: time.Millisecond, Poll: time.Hour,
		Parse:   func(files []yamldoc.File) (*string, error) { return new(string(files[0].Source)), nil },
		OnError: func(error) { reported.Add(1) },
	})
	if err != nil {
		t.Fatal(err)
	}
	var exhausted atomic.Bool
	l.readFiles = func(path string) ([]yamldoc.File, error) {
		if exhausted.Load() {
			failures.Add(1)
			return nil, &os.PathError{Op: "open", Path: path, Err: syscall.EMFILE}
		}
		return Read(path)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	defer func() { cancel(); <-done }()

	exhausted.Store(true)
	write("new")
	waittest.Until(t, "the change is seen, and reading fails", func() bool { return failures.Load() > 0 })
	exhausted.Store(false)
	waittest.Until(t, "the file is read", func() bool { return *l.Current() == "new" })
	if st, _ := l.Status(); st.LastError != "" || reported.Load() != 1 {
		t.Errorf("status = %+v after %d reported failures, want no error and 1", st, reported.Load())
	}
}
