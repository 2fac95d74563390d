// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/target"
)

func TestMarkdown(t *testing.T) {
	r := &Result{
		Environment: report.Environment{
			CPU: "AMD EPYC", Cores: 2, MemoryBytes: 24 << 30, OS: "linux/amd64", System: "Debian 13, kernel 6.12", Go: "go1.26.8", Commit: "8a29757", Modified: true,
			Versions: []report.Flag{{Name: "redis-lua://127.0.0.1:6379", Value: "Redis 7.0.15"}},
		},
		Command: "bucketring bench wire --rounds 3", Rounds: 3, Length: time.Second,
		Rows: []Row{
			{Name: echoRow, Callers: 16, ChecksPerSec: 20_000.4, OfEcho: 1, P50: 410 * time.Microsecond, P99: 12_340 * time.Microsecond, CPUPerMillion: 20_150 * time.Millisecond, KnownCPU: true},
			{Name: "redis-lua://127.0.0.1:6379, 1 limit", Callers: 2, ChecksPerSec: 5, P50: time.Millisecond, P99: time.Millisecond},
		},
		Edges: []Edge{{"exact", edgeLimit - 1}, {"not exact", edgeLimit + 7}},
	}
	want := `AMD EPYC, 2 cores, 24 GiB, Debian 13, kernel 6.12; go1.26.8; commit 8a29757 with changes. Medians of 3 rounds of 1s, order shuffled:

§redis-lua://127.0.0.1:6379§ is Redis 7.0.15.

§§§sh
bucketring bench wire --rounds 3
§§§

| what | callers | checks/s | of the echo | p50 | p99 | servers' CPU per million |
|---|---:|---:|---:|---:|---:|---:|
| echo of a check | 16 | 20000 | 1.00 | 410 us | 12.3 ms | 20.1 s |
| redis-lua://127.0.0.1:6379, 1 limit | 2 | 5 | - | 1000 us | 1000 us | - |

64 callers ask for one key with a limit of 10000 for 2s:

| what | admitted | beyond the limit |
|---|---:|---:|
| exact | 9999 | 0 |
| not exact | 10007 | 7 |
`
	if diff := cmp.Diff(strings.ReplaceAll(want, "§", "`"), r.Markdown()); diff != "" {
		t.Errorf("Markdown() differs (-want +got):\n%s", diff)
	}
}

func TestReplace(t *testing.T) {
	got, err := Replace("a\n<!-- wire -->\nold\n<!-- end of wire -->\nb\n", "new\n")
	if want := "a\n<!-- wire -->\nnew\n<!-- end of wire -->\nb\n"; err != nil || got != want {
		t.Errorf("Replace() = %q, %v, want %q", got, err, want)
	}
	for _, document := range []string{"", "<!-- wire -->\n", "<!-- end of wire -->\n<!-- wire -->\n"} {
		if _, err := Replace(document, "new\n"); err == nil {
			t.Errorf("Replace(%q) has no error", document)
		}
	}
}

// Time is virtual here: 4 callers whose calls take 1 ms make 4,000 calls a second.
func TestLoopCountsChecks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ask := func(context.Context, int, int) (int, error) {
			time.Sleep(time.Millisecond)
			return 5, nil
		}
		s, err := loop(t.Context(), ask, 4, 200*time.Millisecond, nil)
		if err != nil {
			t.Fatal(err)
		}
		if s.p50 != time.Millisecond || s.p99 != time.Millisecond || s.serverCPU != 0 || s.perSecond < 19_500 || s.perSecond > 20_000 {
			t.Errorf("sample %+v, want calls of 1 ms and about 20,000 checks a second", s)
		}
	})
}

func TestLoopFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		if _, err := loop(t.Context(), func(context.Context, int, int) (int, error) { return 0, broken }, 2, minLength, nil); !errors.Is(err, broken) {
			t.Errorf("loop() = %v, want %v", err, broken)
		}
		taking := func(d time.Duration) call {
			return func(context.Context, int, int) (int, error) {
				time.Sleep(d)
				return 1, nil
			}
		}
		if _, err := loop(t.Context(), taking(time.Hour), 1, minLength, nil); err == nil || !strings.Contains(err.Error(), "no call ended within 30.05s") {
			t.Errorf("loop() = %v, want that no call ended", err)
		}
		if s, err := loop(t.Context(), taking(time.Second), 1, minLength, nil); err != nil || s.p50 != time.Second {
			t.Errorf("sample %+v, %v, want one call of a second", s, err)
		}
	})
}

func TestMedian(t *testing.T) {
	got := median([]sample{{perSecond: 3, p50: 1, p99: 9}, {perSecond: 1, p50: 2, p99: 7}, {perSecond: 2, p50: 3, p99: 8}})
	if want := (sample{perSecond: 2, p50: 2, p99: 8}); got != want {
		t.Errorf("median() = %+v, want %+v", got, want)
	}
}

// The ratio to the echo is that of the same round.
func TestRatioToTheEcho(t *testing.T) {
	b := &run{rows: []*row{
		{name: echoRow, callers: 1, samples: []sample{{perSecond: 100}, {perSecond: 10}, {perSecond: 50}}},
		{name: "check", callers: 1, samples: []sample{{perSecond: 50}, {perSecond: 9}, {perSecond: 35}}},
		{name: "check", callers: 2, samples: []sample{{perSecond: 50}}},
	}}
	if got := b.ofEcho(b.rows[1]); got != 0.7 {
		t.Errorf("ratio %v, want 0.7", got)
	}
	if got := b.ofEcho(b.rows[2]); got != 0 {
		t.Errorf("ratio %v without an echo with as many callers, want 0", got)
	}
}

func TestAnswersThatAreNoMeasurement(t *testing.T) {
	for _, a := range []bench.Answer{{Outcome: bench.Denied, Reason: "limit_exceeded"}, {Outcome: bench.Allowed, Route: "fallback"}} {
		if admitted(a, nil) == nil {
			t.Errorf("admitted(%+v) has no error", a)
		}
	}
	if settled(bench.Answer{Route: "fallback"}, nil) == nil {
		t.Error("settled() of a settle in fallback has no error")
	}
	if err := settled(bench.Answer{Route: "local"}, nil); err != nil {
		t.Errorf("settled() = %v for a settle by the owner", err)
	}
	if err := admitted(bench.Answer{Outcome: bench.Allowed, Route: "forward"}, nil); err != nil {
		t.Error(err)
	}
}

func TestValidate(t *testing.T) {
	err := (&Options{Length: time.Millisecond, Versus: []string{"echo:", "nothing:", "resp://limits.example"}}).Validate()
	if err == nil {
		t.Fatal("Validate() has no error")
	}
	for _, want := range []string{"rounds: must be 1 or more, got 0", "for: must be at least 50ms, got 1ms", `target "nothing:": must be one of`, "is not a loopback address"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Validate() = %v, want %q in it", err, want)
		}
	}
	if err := (&Options{Rounds: 1, Length: time.Second, Versus: []string{"redis-lua://127.0.0.1", "throttle://127.0.0.1"}}).Validate(); err != nil {
		t.Error(err)
	}
}

// A target that somebody else runs has rows of its own, also for pipelines.
func TestVersusRows(t *testing.T) {
	b := &run{o: &Options{Rounds: 2, Length: minLength, Only: regexp.MustCompile("echo")}}
	defer func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := b.versusRows(t.Context(), "echo:", []string{"acme/alice", "acme/bob"}); err != nil {
		t.Fatal(err)
	}
	var progress int
	b.o.Progress = func(done, total int, _ string) {
		if done != progress || total != 10 {
			t.Errorf("progress %d of %d, want %d of 10", done, total, progress)
		}
		progress++
	}
	if err := b.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows := b.result().Rows
	if len(rows) != 5 || rows[0].Name != "echo:" || rows[4].Name != "echo:, 16 at once" || rows[4].Callers != 16 {
		t.Errorf("rows %+v, want 3 of echo: and 2 of 16 at once", rows)
	}
	for _, r := range rows {
		if r.ChecksPerSec <= 0 || r.KnownCPU {
			t.Errorf("row %+v, want checks, and no CPU time", r)
		}
	}
}

func TestOptionsOfTargets(t *testing.T) {
	o := &Options{Targets: target.Options{Insecure: true}}
	if got := o.targetOptions("redis-lua://127.0.0.1", 4); len(got.Limits) != 4 || !got.Insecure || got.Timeout != callTimeout {
		t.Errorf("options %+v, want four limits", got)
	}
	for spec, want := range map[string]bool{"redis-lua://h": true, "rediss-lua://h": true, "redis://h": false, "throttle://h": false} {
		if severalLimits(spec) != want {
			t.Errorf("severalLimits(%q) = %v, want %v", spec, !want, want)
		}
	}
}
