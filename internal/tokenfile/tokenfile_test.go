// SPDX-License-Identifier: Apache-2.0

package tokenfile

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	next := path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

func TestFileIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, "first\n")
	s, err := File(path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.now = func() time.Time { return now }
	want := func(token string) {
		t.Helper()
		if got, err := s.Token(); got != token || err != nil {
			t.Errorf("Token = %q, %v, want %q", got, err, token)
		}
	}
	want("first")
	write(t, path, "second\n")
	now = now.Add(interval / 2)
	want("first") // the file is looked at once in an interval
	now = now.Add(interval)
	want("second")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * interval)
	want("second") // the last one stays
	write(t, path, "two words")
	now = now.Add(2 * interval)
	want("second")
	write(t, path, "third")
	now = now.Add(2 * interval)
	want("third")
	if n := testing.AllocsPerRun(100, func() { _, _ = s.Token() }); n > 0 {
		t.Errorf("Token allocates %v times, want 0", n)
	}
}

// Of calls at once, none gets a token that was replaced before.
func TestReplacedTokenIsUsedByNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, "t0")
	s, err := File(path)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	s.now = func() time.Time { return now }
	for i := 1; i < 50; i++ {
		want := "t" + strconv.Itoa(i)
		write(t, path, want)
		now = now.Add(2 * interval)
		var callers sync.WaitGroup
		for range 8 {
			callers.Go(func() {
				if got, err := s.Token(); got != want || err != nil {
					t.Errorf("Token = %q, %v, want %q", got, err, want)
				}
			})
		}
		callers.Wait()
	}
}

func TestBadTokens(t *testing.T) {
	for _, text := range []string{"", " \n", "two words", "naïve"} {
		path := filepath.Join(t.TempDir(), "token")
		write(t, path, text)
		_, err := File(path)
		if err == nil || strings.TrimSpace(text) != "" && strings.Contains(err.Error(), strings.TrimSpace(text)) {
			t.Errorf("File with %q = %v, want an error without it", text, err)
		}
		if _, err := Static(text); err == nil {
			t.Errorf("Static(%q) = nil, want an error", text)
		}
	}
	if _, err := File(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("File of nothing = nil, want an error")
	}
}
