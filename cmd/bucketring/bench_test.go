// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/bench/report"
)

// TestBenchLocal runs the benchmark like a new user, with a cluster of its own. In a second
// run one of the nodes crashes, and the two runs are compared.
func TestBenchLocal(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of processes, twice")
	}
	dir := t.TempDir()
	binary := filepath.Join(dir, "bucketring")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	bucketring := func(args ...string) (stdout, stderr string, err error) {
		var out, errs bytes.Buffer
		cmd := exec.CommandContext(t.Context(), binary, args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &errs
		err = cmd.Run()
		return out.String(), errs.String(), err
	}
	read := func(name string) *report.Run {
		file, err := os.Open(filepath.Join(dir, name))
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

	stdout, stderr, err := bucketring("bench", "run", "--local", "3", "--for", "2s", "--warmup", "500ms", "--rate", "500", "--llm", "20%", "--retries", "1%", "--out", "a.json")
	if err != nil {
		t.Fatalf("run: %v\n%s%s", err, stdout, stderr)
	}
	page := ""
	for line := range strings.Lines(stdout) {
		if path, ok := strings.CutPrefix(line, "report: "); ok {
			page = strings.TrimSpace(path)
		}
	}
	if html, err := os.ReadFile(filepath.Join(dir, page)); err != nil || !bytes.Contains(html, []byte("<svg")) {
		t.Errorf("no page at %q: %v\n%s", page, err, stdout)
	}
	a := read("a.json").Targets[0]
	if a.Name != "local:3" || a.Achieved == 0 || a.Denied == 0 || a.Denied == a.Achieved {
		t.Errorf("%s: got %+v, want admissions and denials", a.Name, a.Counts)
	}
	if a.Audit == nil || a.Audit.Calls == 0 || a.Audit.Limits == 0 || a.Audit.Verdict == report.NotAudited {
		t.Errorf("audit: got %+v, want a verdict", a.Audit)
	}
	if a.Audit != nil && a.Audit.OverAdmitted > 0 {
		t.Errorf("audit of a cluster that nothing happened to: %s", a.Audit.Summary())
	}

	stdout, stderr, err = bucketring("bench", "run", "--local", "3", "--for", "3s", "--warmup", "0s", "--rate", "500", "--kill", "1@1s", "--out", "b.json", "--report", "")
	b := read("b.json").Targets[0]
	if (err != nil) != (b.Audit.Verdict == report.Violated) {
		t.Fatalf("run whose audit says %s: %v\n%s%s", b.Audit.Verdict, err, stdout, stderr)
	}
	if len(b.Marks) == 0 || b.Marks[0].Kind != "kill" || b.Marks[0].At.Seconds() < 1 {
		t.Errorf("marks: got %v, want the kill at 1 s", b.Marks)
	}

	// Several at once; internal/e2e has longer ones.
	stdout, stderr, err = bucketring("bench", "run", "--local", "3", "--for", "5s", "--warmup", "0s", "--rate", "200", "--pause", "1@500ms+500ms", "--leave", "2@1s", "--join", "@1500ms", "--out", "c.json", "--report", "")
	c := read("c.json").Targets[0]
	if (err != nil) != (c.Audit.Verdict == report.Violated) {
		t.Fatalf("run whose audit says %s: %v\n%s%s", c.Audit.Verdict, err, stdout, stderr)
	}
	var marks []string
	for _, m := range c.Marks {
		what, _, _ := strings.Cut(m.Detail, ",")
		marks = append(marks, m.Kind+": "+what)
	}
	if diff := cmp.Diff([]string{"pause: pause bench-1 for 500ms", "leave: leave bench-2", "join: join bench-4"}, marks); diff != "" {
		t.Errorf("marks differ (-want +got):\n%s\n%s", diff, stderr)
	}

	stdout, stderr, _ = bucketring("bench", "compare", "a.json", "b.json")
	if !strings.Contains(stdout, "local:3") || !strings.Contains(stdout, "p99") {
		t.Errorf("compare: got %s%s", stdout, stderr)
	}
}

// Mistakes in the flags of an overload run, and of faults, are found before anything starts.
func TestBenchOverloadMistakes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--overload", "--rounds", "2"}, "overload: needs one round, got 2"},
		{[]string{"--overload", "--trace", "azure"}, "overload: must not be set for a replay"},
		{[]string{"--overload", "--for", "1s"}, "for: must be at least 500ms for each of 5 loads, got 1s"},
		{[]string{"--overload", "--busy", "8@1s+2s"}, "overload: must not be set together with faults"},
		{[]string{"--busy", "8@29s+2s"}, "--busy 8@29s+2s: must end within the run, which takes 30s"},
		{[]string{"--busy", "8@9s"}, "busy: must be PROCESSES@TIME+TIME"},
		{[]string{"--pause", "1@1s+300ms/100ms"}, "the interval must be longer than the pause"},
	} {
		stdout, stderr, code := inProcess(t, append([]string{"bench", "run", "--local", "1", "--out", "", "--report", ""}, c.args...)...)
		if code != 2 || !strings.Contains(stderr, c.want) {
			t.Errorf("%v = exit %d, want 2 with %q:\n%s%s", c.args, code, c.want, stdout, stderr)
		}
	}
}

// TestDefaultRunIsLongEnough: what the program advises for runs to compare, its default is.
func TestDefaultRunIsLongEnough(t *testing.T) {
	if defaultBenchTime < report.MinComparable {
		t.Errorf("--for is %s by default, want at least %s, for bench compare", defaultBenchTime, report.MinComparable)
	}
}
