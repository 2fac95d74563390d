// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestWarnEnvironment(t *testing.T) {
	var out bytes.Buffer
	s := &streams{err: &out, environ: []string{"BUCKETRING_TEAM=a", "BUCKETRING_HTTP=:1", "BUCKETRING_SERVICE_HOST=10.0.0.1", "HOME=/"}}
	s.warnEnvironment(s.logger("json", "info"))
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `"environment variable is not a setting, ignored","name":"BUCKETRING_TEAM"`) {
		t.Errorf("logged %s, want one warning of BUCKETRING_TEAM", got)
	}
}

// TestOwnVariablesAreNotMisspelled: no variable that the files of deploy/, docker-compose.yml,
// the Makefile or tests have is taken for a misspelled setting.
func TestOwnVariablesAreNotMisspelled(t *testing.T) {
	var environ []string
	name := regexp.MustCompile(`\bBUCKETRING_[A-Z0-9_]*[A-Z0-9]\b`)
	read := func(path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range name.FindAllString(string(text), -1) {
			environ = append(environ, n+"=x")
		}
	}
	root := filepath.Join("..", "..")
	read(filepath.Join(root, "docker-compose.yml"))
	read(filepath.Join(root, "Makefile"))
	for _, dir := range []string{"deploy", "internal/e2e", "internal/node"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				read(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(environ) < 10 {
		t.Fatalf("found %d variables, want more", len(environ))
	}
	s := &streams{environ: environ}
	for _, v := range s.unknownVariables() {
		if v.Near != "" {
			t.Errorf("%s is taken for a misspelled %s", v.Name, v.Near)
		}
	}
}
