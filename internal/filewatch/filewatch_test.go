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

// TestRead checks that nothing in a directory that looks like a policy is left out in
// silence, and that of a directory which another program reads nothing at all is.
func TestRead(t *testing.T) {
	type wrong = map[string]string // what is said of a name
	for _, tt := range []struct {
		names   []string // those that end in / are directories
		read    string
		all     wrong
		similar wrong // of Read, if that differs from ReadAll
	}{
		{[]string{"a.yaml", "b.yaml"}, "a.yaml b.yaml", nil, nil},
		{[]string{"a.yaml", "b.yml"}, "a.yaml", wrong{"b.yml": "does not end in .yaml"}, nil},
		{[]string{"b.yml"}, "", wrong{"b.yml": "does not end in .yaml"}, nil},
		{[]string{"a.yaml", "b.json"}, "a.yaml", wrong{"b.json": "does not end in .yaml"}, nil},
		{
			[]string{"a.yaml", "B.YAML", "README", "a.yaml~"},
			"a.yaml",
			wrong{"B.YAML": ".yaml", "README": ".yaml", "a.yaml~": ".yaml"},
			wrong{"B.YAML": ".yaml"},
		},
		{[]string{"a.yaml", "README.md", "4913", "#a.yaml#"}, "a.yaml", wrong{"README.md": ".yaml", "4913": ".yaml", "#a.yaml#": ".yaml"}, wrong{}},
		{
			[]string{"a.yaml", "more/", "x.yaml/", "full/", "full/b.yml"},
			"a.yaml",
			wrong{"more": "is a directory", "x.yaml": "is a directory", "full": "is a directory"},
			wrong{"full": "is a directory"},
		},
		{[]string{"a.yaml", ".b.yaml", ".c.yml"}, "a.yaml", wrong{".b.yaml": "begins with a dot", ".c.yml": "begins with a dot"}, wrong{}},
		{[]string{"a.yaml", "..2026_11_28/", "..2026_11_28/a.yaml", ".git/", ".git/b.yaml", ".a.yaml.swp"}, "a.yaml", nil, nil},
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
		checkProblems(t, tt.names, "ReadAll", err, tt.all)
		similar := tt.all
		if tt.similar != nil {
			similar = tt.similar
		}
		_, err = Read(dir)
		checkProblems(t, tt.names, "Read", err, similar)
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

// checkProblems checks that the problems of a directory are those that are wanted.
func checkProblems(t *testing.T, names []string, call string, err error, want map[string]string) {
	t.Helper()
	var problems yamldoc.Problems
	if len(want) > 0 != errors.As(err, &problems) || len(problems) != len(want) {
		t.Errorf("%s of %v: %v, want %d problems", call, names, err, len(want))
	}
	for _, p := range problems {
		if want := want[filepath.Base(p.File)]; want == "" || !strings.Contains(p.String(), want) {
			t.Errorf("%s of %v: %s, want %q", call, names, p, want)
		}
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
	if _, err := Load(Options[int]{Path: dir, What: "policy", Parse: o.Parse}); err == nil || !strings.Contains(err.Error(), "b.yml: is not read") {
		t.Errorf("Load without All = %v, want that b.yml is not read", err)
	}
	if err := os.Rename(filepath.Join(dir, "b.yml"), filepath.Join(dir, "README")); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(Options[int]{Path: dir, What: "policy", Parse: o.Parse}); err != nil {
		t.Errorf("Load without All = %v, want it to read the rest", err)
	}
}
