// SPDX-License-Identifier: Apache-2.0

package filewatch

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

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
