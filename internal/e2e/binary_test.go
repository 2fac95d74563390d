// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

func TestBinaryIsStatic(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED, nothing was tested: not an ELF system")
	}
	file, err := elf.Open(binary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary has a %v segment, want a static one", p.Type)
		}
	}
}

// serve runs a node until stop is called or the test ends.
func serve(t *testing.T, args ...string) (stop func() (log string)) {
	t.Helper()
	var log bytes.Buffer
	cmd := exec.Command(binary(t), args...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no node outlives the tests
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() string {
		if stopped {
			return log.String()
		}
		stopped = true
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("stop the node: %v", err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("after SIGTERM the node ended with %v, want exit 0:\n%s", err, &log)
		}
		return log.String()
	}
	t.Cleanup(func() { stop() })
	return stop
}

func ready(t *testing.T, address string) {
	t.Helper()
	waittest.Until(t, "the node to be ready", func() bool {
		_, code := run(t, binary(t), "health", "--ready", "--http", address)
		return code == 0
	})
}

// TestUsageSurvivesARestart spends, restarts and compares the remaining amounts.
func TestUsageSurvivesARestart(t *testing.T) {
	data, policies := t.TempDir(), t.TempDir()
	writePolicy(t, policies, 3)
	http, grpc, gossip := freeport.Test(t), freeport.Test(t), freeport.Test(t)
	start := func() func() string {
		stop := serve(t, "serve", "--http", http, "--grpc", grpc, "--gossip", gossip, "--policy", policies, "--data", data)
		ready(t, http)
		return stop
	}
	const body = `{"key":"acme/alice","input_tokens":100000}` // ten cents
	stop := start()
	_, before := curl(t, http, body).limit(t, "spend")
	if before != 900_000 {
		t.Errorf("after the first call %d micros are left, want 900000", before)
	}
	if log := stop(); !strings.Contains(log, "shutting down") {
		t.Errorf("the log says nothing of a shutdown:\n%s", log)
	}

	stop = start()
	if _, left := curl(t, http, body).limit(t, "spend"); left != 800_000 {
		t.Errorf("after a restart and a second call %d micros are left, want 800000", left)
	}
	stop()
}

// TestAsANewUser runs the first commands of the README, on the ports that it names, at
// the pace of somebody who reads what comes back: a bucket refills in that time.
func TestAsANewUser(t *testing.T) {
	readme, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var commands []string
	for line := range strings.Lines(string(readme)) {
		if command, ok := strings.CutPrefix(line, "$ curl "); ok {
			commands = append(commands, "curl "+strings.TrimSpace(command))
		}
	}
	want := []string{
		`{"outcome":"allowed","request_id":"call-1"`,
		`{"outcome":"allowed","request_id":"call-2"`,
		`{"outcome":"denied","error":"rate_limit_exceeded"`,
		`{"request_id":"call-1","status":"settled"`,
		`{"outcome":"allowed","request_id":"call-3"`,
	}
	if len(commands) < len(want) {
		t.Fatalf("the README has %d curl commands, want at least %d", len(commands), len(want))
	}
	serve(t, "dev")
	ready(t, "127.0.0.1:6470")
	const reading = 6 * time.Second
	for i, text := range want {
		if i > 0 {
			time.Sleep(reading) // not a wait for something: time must pass
		}
		got := must(t, "sh", "-c", commands[i])
		if !strings.Contains(got, text) {
			t.Errorf("%s\n= %s\nwant %s", commands[i], got, text)
		}
		if strings.Contains(text, "denied") && !strings.HasPrefix(got, "HTTP/1.1 429 ") {
			t.Errorf("%s\n= %s\nwant status 429", commands[i], got)
		}
	}
}
