// SPDX-License-Identifier: Apache-2.0

//go:build e2e

// Package e2e meets bucketring as its users do: as a static binary, and as an
// image in a container. `make e2e` builds both first.
package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	root     = "../.."
	image    = "bucketring:dev"
	patience = 30 * time.Second // bounds every wait
)

// run runs a command to its end and returns what it printed and its exit code.
func run(t *testing.T, name string, args ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// must is run for what has to succeed; it returns the output without space
// around it.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, code := run(t, name, args...)
	if code != 0 {
		t.Fatalf("%s %v = exit %d, want 0:\n%s", name, args, code, out)
	}
	return strings.TrimSpace(out)
}

// binary is the path of the static binary.
func binary(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, "bin/bucketring"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s, and not yet: %s", patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// answer is what the tests look at in the answer to a check.
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

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// writePolicy writes a policy that allows so many requests per minute, in the
// way of an editor: a new file takes the place of the old one.
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
