// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package e2e tests bucketring like a user: as a static binary, and as an image in
// a container. `make e2e` builds both first.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
)

const (
	root  = "../.."
	image = "bucketring:dev"
)

// run runs a command and returns its output and its exit code.
func run(t *testing.T, name string, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*waittest.Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// must runs a command that has to succeed and returns its trimmed output.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, code := run(t, name, args...)
	if code != 0 {
		t.Fatalf("%s %v = exit %d, want 0:\n%s", name, args, code, out)
	}
	return strings.TrimSpace(out)
}

// binary returns the path of the static binary.
func binary(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, "bin/bucketring"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// answer is the part of the answer to a check that the tests use.
type answer struct {
	status  int
	retry   string // Retry-After
	Outcome string
	Error   string
	Limits  []struct {
		Name      string
		Limit     int64
		Remaining int64
	}
}

func (a answer) limit(t *testing.T, name string) (limit, remaining int64) {
	t.Helper()
	for _, l := range a.Limits {
		if l.Name == name {
			return l.Limit, l.Remaining
		}
	}
	t.Fatalf("answer %+v has no limit %s", a, name)
	return 0, 0
}

// curl posts a check with the curl of this machine.
func curl(t *testing.T, address, body string) answer {
	t.Helper()
	out := must(t, "curl", "-s", "--max-time", "10", "-w", "\n%{http_code} %header{retry-after}", "http://"+address+"/v1/check", "-d", body)
	last := strings.LastIndexByte(out, '\n')
	if last < 0 {
		t.Fatalf("curl printed %q, want a body and a status", out)
	}
	var a answer
	if err := json.Unmarshal([]byte(out[:last]), &a); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	status, retry, _ := strings.Cut(out[last+1:], " ")
	var err error
	if a.status, err = strconv.Atoi(status); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	a.retry = retry
	return a
}

// writePolicy writes a policy that allows that many requests per minute. It
// replaces the file, like an editor.
func writePolicy(t *testing.T, dir string, requests int) {
	t.Helper()
	text := fmt.Sprintf(`
tiers:
  free:
    zone: America/New_York
    requests: %d/min
    spend: $1/day
default_tier: free
prices:
  "*": { input: 1.00, output: 3.00 }
`, requests)
	draft := filepath.Join(dir, ".draft")
	if err := os.WriteFile(draft, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(draft, filepath.Join(dir, "policy.yaml")); err != nil {
		t.Fatal(err)
	}
}
