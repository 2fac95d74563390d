// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

// reports is the directory for the committed reports of `make bench-reports`. Without
// it, the test makes short runs in a temporary directory.
var (
	reports = flag.String("reports", "", "write the reports of docs/bench to this directory, which takes twenty minutes")
	again   = flag.Bool("again", false, "with -reports: measure nothing, and write the reports again from the existing documents")
)

// maxPage is the size limit of a committed page, in bytes.
const maxPage = 300 << 10

// replays are the runs of docs/bench. The trace is 58 minutes long, and begins with a pause,
// so that the short form leaves out a speed.
var replays = []struct {
	speed       string
	full, short time.Duration
}{
	{"1", 3 * time.Minute, 0},
	{"10", 2 * time.Minute, 2 * time.Second},
	{"100", 32 * time.Second, 2 * time.Second}, // to its end
}

// redisServer runs a Redis without persistence on a free port. It is started by a command,
// if there is one.
func redisServer(t *testing.T, by ...string) (address string) {
	t.Helper()
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal("redis-server is not installed (Debian: apt-get install redis-server)")
	}
	address = freeport.Test(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	command := append(by, path, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it must not outlive the tests
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("output of redis-server:\n%s", &log)
		}
	})
	waittest.Until(t, "redis-server listens", func() bool {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
	return address
}

// TestBenchReports replays the Azure trace against three nodes and against Redis in
// turns. It writes a page, a picture and a document for each speed, and a README with
// the machine and the commands.
func TestBenchReports(t *testing.T) {
	dir, full := t.TempDir(), *reports != ""
	if full {
		var err error
		if dir, err = filepath.Abs(*reports); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	redis := ""
	if !*again {
		redis = redisServer(t)
	}
	var readme strings.Builder
	for _, r := range replays {
		name, length, warmup := "azure-"+r.speed+"x", r.full, 2*time.Second
		if !full && r.short == 0 {
			continue
		}
		if !full {
			length, warmup = r.short, 200*time.Millisecond
		}
		if !*again {
			// Run in dir, so that the recorded command has no path of this machine.
			bucketring(t, dir, 2*time.Minute+4*length, "bench", "run", "--local", "3",
				"--vs", "redis://"+redis, "--vs", "redis-lua://"+redis,
				"--trace", "azure", "--speed", r.speed, "--for", length.String(), "--warmup", warmup.String(), "--calibrate",
				"--out", name+".json.gz", "--report", "")
		}
		bucketring(t, dir, waittest.Limit, "bench", "report", name+".json.gz", "--out", name+".html")
		bucketring(t, dir, waittest.Limit, "bench", "report", name+".json.gz", "--svg", name+".svg")
		summary := bucketring(t, dir, waittest.Limit, "bench", "report", name+".json.gz")
		run := readPacked(t, filepath.Join(dir, name+".json.gz"))
		checkReplay(t, dir, name, run)
		if readme.Len() == 0 {
			intro(&readme, run)
		}
		chapter(t, &readme, name, r.speed, summary, run)
	}
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(readme.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if text := readme.String(); strings.Contains(text, dir) || strings.Contains(text, "/tmp/") {
		t.Errorf("the README names a path of this machine:\n%s", text)
	}
}

// bucketring runs the binary in a directory and returns its standard output.
func bucketring(t *testing.T, dir string, limit time.Duration, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets it stop its nodes
	cmd.WaitDelay = waittest.Limit
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("bucketring %s: %v\n%s%s", strings.Join(args, " "), err, &out, &errs)
	}
	t.Logf("bucketring %s\n%s", strings.Join(args, " "), &out)
	return out.String()
}

func readPacked(t *testing.T, path string) *report.Run {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	run, err := report.Read(z)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return run
}

// checkReplay checks that all targets got the same calls, and the sizes of the files.
func checkReplay(t *testing.T, dir, name string, run *report.Run) {
	t.Helper()
	if len(run.Targets) != 3 || run.Pairing == nil || len(run.Pairing.Rounds) != 5 || run.Harness == nil {
		t.Fatalf("%s: %d targets, pairing %v, harness %v: want 3 in 5 rounds, and what the bench costs", name, len(run.Targets), run.Pairing, run.Harness)
	}
	for i := range run.Targets {
		target := &run.Targets[i]
		if target.Offered == 0 || target.Offered != run.Targets[0].Offered || target.Duration != run.Load.Duration {
			t.Errorf("%s: %s was asked %d times in %v, want as often as the others in %v", name, target.Name, target.Offered, target.Duration, run.Load.Duration)
		}
		if target.Audit == nil || target.Audit.Verdict == report.Violated || target.Audit.Verdict == report.NotAudited {
			t.Errorf("%s: audit of %s: %s", name, target.Name, target.Audit.Summary())
		}
	}
	for _, suffix := range []string{".html", ".svg", ".json.gz"} {
		info, err := os.Stat(filepath.Join(dir, name+suffix))
		if err != nil {
			t.Error(err)
		} else if info.Size() == 0 || info.Size() > maxPage {
			t.Errorf("%s has %d bytes, want at most %d", info.Name(), info.Size(), maxPage)
		}
	}
}

// intro writes the beginning of the README.
func intro(b *strings.Builder, run *report.Run) {
	e := &run.Environment
	built := e.Version + ", commit " + e.Commit
	if e.Commit == "" { // git describe has it
		built = "commit " + e.Version
	}
	if e.Modified {
		built += ", with uncommitted changes"
	}
	b.WriteString(`# The Azure trace against a cluster and against Redis

` + "`make bench-reports`" + ` generates this page.

The Azure LLM inference trace is replayed at 1, 10 and 100 times its speed, against three nodes on one machine and against
one Redis with the two limiters that people commonly write on it. All calls are checks, because Redis has no reservations.
The targets take turns. In each of five rounds all of them get the same part of the trace; the next round continues after it.
Clients and servers share the machine, so the numbers include both.

The targets do not do the same work. A node checks requests, tokens, concurrency and spend of a key and its parents, once
per request id. Redis checks one limit on requests.

`)
	fmt.Fprintf(b, "| | |\n|---|---|\n| machine | %s, %d cores, %d GiB |\n| system | %s, %s |\n| bucketring | %s, %s |\n",
		e.CPU, e.Cores, (e.MemoryBytes+1<<29)>>30, e.System, e.OS, built, e.Go)
	seen := map[string]bool{}
	for _, v := range e.Versions {
		if !seen[v.Value] {
			fmt.Fprintf(b, "| compared with | %s |\n", v.Value)
		}
		seen[v.Value] = true
	}
}

// chapter writes the section of one run.
func chapter(t *testing.T, b *strings.Builder, name, speed, summary string, run *report.Run) {
	t.Helper()
	alt, err := report.Alt(run, report.LatencyPicture)
	if err != nil {
		t.Fatal(err)
	}
	title := speed + " times as fast"
	if speed == "1" {
		title = "Original speed"
	}
	fmt.Fprintf(b, "\n## %s\n\nOn %s, %s of each target. [Page](%s.html), [document](%s.json.gz).\n\n", title,
		run.Started.UTC().Format("2 January 2006, 15:04 UTC"), run.Load.Duration, name, name)
	fmt.Fprintf(b, "```sh\n%s\n```\n\n![%s](%s.svg)\n\n```\n%s```\n", run.Command, strings.NewReplacer("[", "(", "]", ")").Replace(alt), name, summary)
}
