// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/internal/waittest"
)

// benchRun is the result of a run of the bench.
type benchRun struct {
	stdout, stderr string
	code           int
	target         *report.Target
}

// readRun reads the document of a run.
func readRun(t *testing.T, path string) *report.Run {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	run, err := report.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	return run
}

// runBench runs the bench with three nodes and a small load.
func runBench(t *testing.T, args ...string) *benchRun {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 6*waittest.Limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), append([]string{
		"bench", "run", "--local", "3", "--warmup", "500ms", "--rate", "200", "--out", "run.json", "--report", "run.html",
	}, args...)...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	r := &benchRun{stdout: out.String(), stderr: errs.String(), code: cmd.ProcessState.ExitCode()}
	document := filepath.Join(dir, "run.json")
	if _, err := os.Stat(document); err != nil {
		t.Fatalf("%v = exit %d, and no document:\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	r.target = &readRun(t, document).Targets[0]
	page, err := os.ReadFile(filepath.Join(dir, "run.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.target.Marks {
		if !bytes.Contains(page, []byte(m.Kind)) {
			t.Errorf("the page does not show %q", m.Kind)
		}
	}
	t.Logf("%v = exit %d\n%s%s", args, r.code, r.stdout, r.stderr)
	return r
}

// marks returns the faults that happened, such as "leave bench-2".
func (r *benchRun) marks() (all []string) {
	for _, m := range r.target.Marks {
		what, _, _ := strings.Cut(m.Detail, ",")
		all = append(all, what)
	}
	return all
}

// want checks that the faults happened in order and took effect, and that the load
// continued and was audited.
func (r *benchRun) want(t *testing.T, marks ...string) {
	t.Helper()
	code := 0
	if a := r.target.Audit; a != nil && a.Verdict == report.Violated {
		code = 1
	}
	if r.code != code {
		t.Errorf("exit %d, want %d", r.code, code)
	}
	if got := r.marks(); !slices.Equal(got, marks) {
		t.Errorf("marks are %q, want %q", got, marks)
	}
	for _, m := range r.target.Marks {
		if !strings.Contains(m.Detail, "in effect after") {
			t.Errorf("%s: did not take effect", m.Detail)
		}
		if what, _, _ := strings.Cut(m.Detail, ","); !strings.Contains(r.stderr, "s: "+what+"\n") {
			t.Errorf("standard error has no message for %q", what)
		}
	}
	a := r.target.Audit
	if r.target.Achieved < r.target.Offered*9/10 || a == nil || a.Calls == 0 || a.Verdict == report.NotAudited {
		t.Errorf("%d of %d calls were answered, audit %+v: want nearly all, and a verdict", r.target.Achieved, r.target.Offered, a)
	}
	for _, want := range []string{"Bench of local:3", "\naudit: ", "\nreport: run.html\n"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("the summary has no %q", strings.TrimSpace(want))
		}
	}
}

// TestBenchFaults runs the bench with each fault.
func TestBenchFaults(t *testing.T) {
	t.Run("leave", func(t *testing.T) {
		r := runBench(t, "--for", "14s", "--leave", "2@2s")
		r.want(t, "leave bench-2")
		// It leaves the ring first, so no call waits for it.
		if r.target.Failed > 0 {
			t.Errorf("%d calls failed while a node left, want none", r.target.Failed)
		}
	})
	t.Run("pause, kill and join", func(t *testing.T) {
		r := runBench(t, "--for", "16s", "--pause", "1@1s+1s", "--kill", "2@4s", "--join", "2@10s,@11s")
		r.want(t, "pause bench-1 for 1s", "kill bench-2", "join bench-2", "join bench-4")
		var names []string
		for _, s := range r.target.Resources.Servers {
			names = append(names, s.Name)
		}
		if want := []string{"bench-1", "bench-2", "bench-3", "bench-4"}; !slices.Equal(names, want) {
			t.Errorf("processor time is that of %q, want %q", names, want)
		}
	})
	t.Run("rolling restart", func(t *testing.T) {
		r := runBench(t, "--for", "45s", "--llm", "20%", "--restart", "rolling@2s")
		r.want(t, "restart bench-1", "restart bench-2", "restart bench-3")
		for i := 1; i < len(r.target.Marks); i++ {
			if gap := r.target.Marks[i].At - r.target.Marks[i-1].At; gap < 100*time.Millisecond {
				t.Errorf("%s came %v after the one before: they must take turns", r.target.Marks[i].Detail, gap)
			}
		}
	})
}

// TestBenchIsInterrupted checks that an interrupted run exits with 1 and keeps what
// it has measured.
func TestBenchIsInterrupted(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary(t), "bench", "run", "--local", "3", "--for", "10m", "--warmup", "0s", "--rate", "200",
		"--kill", "1@1s", "--out", "run.json", "--report", "", "-o", "json")
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Stdout = dir, &out
	cmd.Env = append(os.Environ(), "TMPDIR="+dir) // appears in the arguments of the nodes
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Interrupt the bench after the kill has taken effect.
	seen := make(chan struct{}) // closed when the kill has taken effect
	read := make(chan struct{})
	go func() {
		defer close(read)
		buffer, once := make([]byte, 4096), false
		for {
			n, err := stderr.Read(buffer)
			errs.Write(buffer[:n])
			if !once && strings.Contains(errs.String(), "kill bench-1: has taken effect") {
				once = true
				close(seen)
			}
			if err != nil {
				return
			}
		}
	}()
	select {
	case <-seen:
	case <-time.After(2 * waittest.Limit):
		t.Error("the kill has not taken effect")
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-read
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(errs.String(), "interrupted: the result has only what was measured so far") {
		t.Errorf("an interrupt = exit %d, want 1 and a message:\n%s", code, &errs)
	}
	var document struct {
		Targets []struct{ Achieved int64 }
	}
	if err := json.Unmarshal(out.Bytes(), &document); err != nil || len(document.Targets) != 1 || document.Targets[0].Achieved == 0 {
		t.Errorf("standard output is no document of what was measured: %v", err)
	}
	if marks := readRun(t, filepath.Join(dir, "run.json")).Targets[0].Marks; len(marks) != 1 || marks[0].Kind != "kill" {
		t.Errorf("the file has the marks %v, want one of the kill", marks)
	}
	if left, _ := exec.CommandContext(t.Context(), "pgrep", "-af", "--", "--policy "+dir).Output(); len(left) > 0 {
		t.Errorf("processes are left:\n%s", left)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || !slices.Equal(left, []string{filepath.Join(dir, "run.json")}) {
		t.Errorf("files are left: %v, %v, want run.json alone", left, err)
	}
}
