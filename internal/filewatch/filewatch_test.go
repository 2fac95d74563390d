// SPDX-License-Identifier: Apache-2.0

package filewatch

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/yamldoc"
)

// TestReadAll checks that nothing in a directory is left out in silence.
func TestReadAll(t *testing.T) {
	for _, tt := range []struct {
		names []string // those that end in / are directories
		read  string
		wrong map[string]string // what is said of a name
	}{
		{[]string{"a.yaml", "b.yaml"}, "a.yaml b.yaml", nil},
		{[]string{"a.yaml", "b.yml"}, "a.yaml", map[string]string{"b.yml": "does not end in .yaml"}},
		{[]string{"b.yml"}, "", map[string]string{"b.yml": "does not end in .yaml"}},
		{[]string{"a.yaml", "B.YAML", "README", "a.yaml~"}, "a.yaml", map[string]string{"B.YAML": ".yaml", "README": ".yaml", "a.yaml~": ".yaml"}},
		{[]string{"a.yaml", "more/", "x.yaml/"}, "a.yaml", map[string]string{"more": "is a directory", "x.yaml": "is a directory"}},
		{[]string{"a.yaml", ".b.yaml", ".c.yml"}, "a.yaml", map[string]string{".b.yaml": "begins with a dot", ".c.yml": "begins with a dot"}},
		{[]string{"a.yaml", "..2026_11_28/", ".git/", ".a.yaml.swp"}, "a.yaml", nil},
	} {
		dir := t.TempDir()
		for _, name := range tt.names {
			path := filepath.Join(dir, name)
			var err error
			if strings.HasSuffix(name, "/") {
				err = os.Mkdir(path, 0o700)
			} else {
				err = os.WriteFile(path, []byte("domain: d"), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		// A ConfigMap of Kubernetes links ..data to a directory, and its files to that.
		if slices.Contains(tt.names, "..2026_11_28/") {
			if err := os.Symlink("..2026_11_28", filepath.Join(dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		files, err := ReadAll(dir)
		var problems yamldoc.Problems
		if len(tt.wrong) > 0 != errors.As(err, &problems) || len(problems) != len(tt.wrong) || len(tt.wrong) == 0 && err != nil {
			t.Errorf("ReadAll of %v: %v, want %d problems", tt.names, err, len(tt.wrong))
		}
		for _, p := range problems {
			if want := tt.wrong[filepath.Base(p.File)]; want == "" || !strings.Contains(p.String(), want) {
				t.Errorf("ReadAll of %v: %s, want %q", tt.names, p, want)
			}
		}
		var read []string
		for _, f := range files {
			if f.Source != nil {
				read = append(read, filepath.Base(f.Name))
			}
		}
		if got := strings.Join(read, " "); got != tt.read && !slices.Contains(tt.names, "x.yaml/") {
			t.Errorf("ReadAll of %v read %s, want %s", tt.names, got, tt.read)
		}
	}
	if _, err := ReadAll(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadAll of nothing = %v, want that it does not exist", err)
	}
	path := filepath.Join(t.TempDir(), "one.yml")
	if err := os.WriteFile(path, []byte("domain: d"), 0o600); err != nil {
		t.Fatal(err)
	}
	if files, err := ReadAll(path); err != nil || len(files) != 1 {
		t.Errorf("ReadAll of a file = %v, %v, want the file, whatever its name", files, err)
	}
}

// TestLoadOfAWholeDirectory checks that a loader refuses a directory that it cannot read
// as a whole, at the start and later.
func TestLoadOfAWholeDirectory(t *testing.T) {
	dir := t.TempDir()
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("domain: "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := Options[int]{Path: dir, All: true, What: "rules", Parse: func(files []yamldoc.File) (*int, error) { return new(len(files)), nil }}
	write("a.yaml")
	l, err := Load(o)
	if err != nil {
		t.Fatal(err)
	}
	write("b.yml")
	if err := l.Reload(); err == nil || !strings.Contains(err.Error(), "b.yml: is not read") || *l.Current() != 1 {
		t.Errorf("Reload = %v with %d files, want that b.yml is not read, and the old value", err, *l.Current())
	}
	if _, err := Load(o); err == nil || !strings.Contains(err.Error(), "b.yml: is not read") {
		t.Errorf("Load = %v, want that b.yml is not read", err)
	}
	if _, err := Load(Options[int]{Path: dir, What: "policy", Parse: o.Parse}); err != nil {
		t.Errorf("Load without All = %v, want it to read the rest", err)
	}
}
