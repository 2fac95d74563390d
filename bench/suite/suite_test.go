// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/bench/workload"
	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

func TestValidate(t *testing.T) {
	replay, err := workload.Parse("replay=10x")
	if err != nil {
		t.Fatal(err)
	}
	retried, err := workload.Parse("retries=1%")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		o    Options
		want string // part of the error; empty: none
	}{
		{"fine", Options{LocalNodes: 3, Rate: 100, Duration: time.Second}, ""},
		{"replay", Options{LocalNodes: 3, Workload: replay, Duration: time.Second}, ""},
		{"replay to its end", Options{LocalNodes: 3, Workload: replay, Duration: time.Hour}, ""},
		{"replay in rounds beyond its end", Options{LocalNodes: 3, Workload: replay, Duration: 350 * time.Second, Warmup: time.Second, Rounds: 5}, "for: must fit in the trace, which lasts 5m50.2s at this speed, got 5m51s"},
		{"closed loop", Options{Target: "null:", Callers: 4, Duration: time.Second}, ""},
		{"no target", Options{Rate: 100, Duration: time.Second}, "target: must not be empty"},
		{"no load", Options{LocalNodes: 1, Duration: time.Second}, "rate: must be set"},
		{"two rates", Options{LocalNodes: 1, Rate: 1, Workload: replay, Duration: time.Second}, "rate: must not be set for a replay"},
		{"arrivals", Options{LocalNodes: 1, Rate: 1, Duration: time.Second, Arrivals: "often"}, `arrivals: must be poisson or constant, got "often"`},
		{"short", Options{LocalNodes: 1, Rate: 1, Duration: time.Second, Rounds: 20}, "for: must be at least 100ms per round"},
		{"no ids to repeat", Options{LocalNodes: 1, Rate: 1, Duration: time.Second, Targets: target.Options{NoIDs: true}, Workload: retried}, "no-ids: must not be set together with retries"},
		{"warmup", Options{LocalNodes: 1, Rate: 1, Duration: time.Second, Warmup: -1}, "warmup: must not be negative"},
		{
			"faults elsewhere",
			Options{Target: "null:", Rate: 1, Duration: time.Second, Faults: []local.Fault{{Kind: local.Kill, Node: 1}}},
			"faults: must only be set for a local cluster",
		},
		{
			"faults in rounds",
			Options{LocalNodes: 2, Rate: 1, Duration: 5 * time.Second, Versus: []string{"null:"}, Faults: []local.Fault{{Kind: local.Kill, Node: 1}}},
			"faults: need one target and one round, got 2 targets and 5 rounds",
		},
		{
			"fault of nobody",
			Options{LocalNodes: 2, Rate: 1, Duration: 5 * time.Second, Faults: []local.Fault{{Kind: local.Kill, Node: 7}}},
			"unknown node 7",
		},
	} {
		err := c.o.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got error %v, want %q", c.name, err, c.want)
		}
	}
}

// What is measured of a model is its time to the first byte, and the rest.
func TestModelsAreCalled(t *testing.T) {
	mock, err := mockllm.New(mockllm.Options{CallerHeader: target.DefaultKeyHeader})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(mock)
	defer server.Close()
	spec, err := workload.Parse("keys=uniform:20 tokens=fixed:30+9 llm=60%:max=exact")
	if err != nil {
		t.Fatal(err)
	}
	run, err := Run(t.Context(), Options{
		Target: "openai:" + server.URL, Versus: []string{"anthropic:" + server.URL}, Rounds: 1,
		Workload: spec, Rate: 100, Duration: time.Second, Timeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	var calls, streams int64
	for _, x := range run.Targets {
		if x.Failed+x.Denied+x.LLM.SettlesFailed > 0 || x.LLM.Settled == 0 || x.LLM.Settled != x.LLM.Held || x.Achieved == x.LLM.Held || !x.CallsModel {
			t.Errorf("%s: %+v %+v", x.Name, x.Counts, x.LLM)
		}
		if x.Audit.Text != "the answers of a model do not say what was charged" {
			t.Errorf("%s: %s", x.Name, x.Audit.Text)
		}
		calls += x.Achieved
		streams += x.LLM.Settled
	}
	if err := mock.Ledger().Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	var done, streamed int64
	for _, e := range mock.Ledger().Entries() {
		if e.Outcome != mockllm.Finished || e.Input != 30 || e.Generated != 9 {
			t.Errorf("the model did %+v, want 30 and 9 tokens to the end", e)
		}
		done++
		if e.Stream {
			streamed++
		}
	}
	if done != calls || streamed != streams {
		t.Errorf("the model had %d calls, %d streamed, want %d and %d", done, streamed, calls, streams)
	}
	var text strings.Builder
	if err := report.WriteSummary(&text, run, report.TextOptions{}); err != nil || strings.Count(text.String(), "  streams: ") != 2 {
		t.Errorf("%v in a summary of\n%s", err, text.String())
	}
}

func TestOfPolicy(t *testing.T) {
	const text = `
tiers:
  free:
    estimate: input
    limits:
      - { dimension: requests, limit: 10, window: 1m, burst: 20 }
      - { name: daily, dimension: tokens, limit: 500, window: day }
      - { name: quiet, dimension: tokens, limit: 1, window: 1m, mode: shadow }
  org: { tokens: 1_000/min, concurrent: 3 }
default_tier: free
assign:
  - { key: "acme", tier: org }
prices:
  "*": { input: 1.00, output: 3.00 }
`
	p, err := policy.Parse("test.yaml", []byte(text), limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	started := time.Now().Truncate(24 * time.Hour).Add(-time.Minute) // a midnight has been since
	o := PolicyAuditOptions(p, started, true)
	got := o.LimitsOf("acme/alice", "", "small")
	want := []audit.Limit{
		{Scope: "acme", Dimension: "tokens", Name: "tokens", Algorithm: audit.TokenBucket, Amount: 1_000, Window: time.Minute},
		{Scope: "acme", Dimension: "concurrent", Name: "concurrent", Algorithm: audit.Concurrency, Amount: 3},
		{Scope: "acme/alice", Dimension: "requests", Name: "requests", Algorithm: audit.TokenBucket, Amount: 10, Burst: 20, Window: time.Minute, Estimate: audit.EstimateInput},
		{
			Scope: "acme/alice", Dimension: "tokens", Name: "daily", Algorithm: audit.FixedWindow, Amount: 500,
			Window: 25 * time.Hour, Resets: []time.Duration{time.Minute}, Estimate: audit.EstimateInput,
		},
	}
	for i := range want {
		want[i].Fallback = audit.FallbackShare
	}
	slices.SortFunc(want, func(a, b audit.Limit) int { return strings.Compare(a.Scope+a.Dimension, b.Scope+b.Dimension) })
	slices.SortFunc(got, func(a, b audit.Limit) int { return strings.Compare(a.Scope+a.Dimension, b.Scope+b.Dimension) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("limits differ (-want +got):\n%s", diff)
	}
	if got := o.LimitsOf("acme/alice", "gold", ""); got != nil {
		t.Errorf("limits of a tier that is not there: got %v", got)
	}
	if l := PolicyAuditOptions(p, started, false).LimitsOf("bob", "free", "")[0:]; slices.ContainsFunc(l, func(l audit.Limit) bool { return l.Resets != nil }) {
		t.Errorf("the resets of another clock are told: %v", l)
	}
	units := audit.Units{Requests: 2, Input: 1_001, Output: 500}
	for dimension, want := range map[string]int64{
		audit.Requests: 2, audit.InputTokens: 1_001, audit.OutputTokens: 500, audit.Tokens: 1_501, audit.Spend: 2_501, "images": 0,
	} {
		if got := o.Cost(&audit.Limit{Dimension: dimension}, units); got != want {
			t.Errorf("cost in %s: got %d, want %d", dimension, got, want)
		}
	}
}

func TestNext(t *testing.T) {
	at := time.Date(2026, 3, 28, 22, 30, 0, 0, time.UTC) // a Saturday
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	for _, c := range []struct {
		l    limiter.Limit
		want string
	}{
		{limiter.Limit{Window: 10 * time.Minute}, "2026-03-28T22:40:00Z"},
		{limiter.Limit{Calendar: limiter.Hour}, "2026-03-28T23:00:00Z"},
		{limiter.Limit{Calendar: limiter.Day}, "2026-03-29T00:00:00Z"},
		{limiter.Limit{Calendar: limiter.Day, Zone: berlin}, "2026-03-28T23:00:00Z"},
		{limiter.Limit{Calendar: limiter.Week}, "2026-03-30T00:00:00Z"},
		{limiter.Limit{Calendar: limiter.Month}, "2026-04-01T00:00:00Z"},
		{limiter.Limit{Calendar: limiter.Day, StartMinute: 9 * 60}, "2026-03-29T09:00:00Z"},
		{limiter.Limit{Calendar: limiter.Day, StartMinute: 23 * 60}, "2026-03-28T23:00:00Z"},
		{limiter.Limit{Calendar: limiter.Day, StartMinute: 9 * 60, Zone: berlin}, "2026-03-29T07:00:00Z"},
		{limiter.Limit{Calendar: limiter.Month, StartDay: 15}, "2026-04-15T00:00:00Z"},
		{limiter.Limit{Calendar: limiter.Month, StartDay: 31}, "2026-03-31T00:00:00Z"},
		{limiter.Limit{Calendar: limiter.Year}, "2027-01-01T00:00:00Z"},
	} {
		if got := nextWindow(&c.l, at).UTC().Format(time.RFC3339); got != c.want {
			t.Errorf("next of %+v: got %s, want %s", c.l, got, c.want)
		}
	}
}

func TestVerdict(t *testing.T) {
	which := audit.LimitRef{Scope: "acme/alice", Dimension: "tokens", Name: "tokens", Limit: 100}
	found := &audit.Report{
		Calls: 10, Answers: audit.Answers{Fallback: 2},
		Dimensions: []audit.DimensionSummary{{Name: "tokens", Limits: 5, OverLimits: 1, Over: 30, Possible: 40, Excess: 7}, {Name: "spend", Missing: 1_250_000}},
		Over:       []audit.OverAdmission{{LimitRef: which, Admitted: 130, Amount: 30, WithFallback: 30}},
		Under:      []audit.WrongDenial{{LimitRef: which, Calls: 1, Cost: 12}},
		Charges:    []audit.ChargeMismatch{{LimitRef: which, Excess: 7, Suspects: []audit.Suspect{{ID: "1", Why: "sent 2 times"}, {ID: "2", Why: "1 of 1 settles failed"}, {ID: "3", Why: "its usage had not reached the owner"}}}},
	}
	got := NewAudit(found)
	want := &report.Audit{
		Verdict: report.Violated, Calls: 10, Limits: 5, OverAdmitted: 1, UnderAdmitted: 1, DoubleCharges: 1, LostSettles: 1,
		Text:  "Charges were lost: $1.250000 of spend. Charged twice or not given back: 7 tokens. Without the owner, fallback admitted 2 calls.",
		Worst: []report.LimitResult{{Key: "acme/alice", Dimension: "tokens", Limit: "tokens", Allowed: 100, Admitted: 130, Over: 30, Under: 12}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdict differs (-want +got):\n%s", diff)
	}
	for want, d := range map[report.Verdict]audit.DimensionSummary{
		report.Exact: {}, report.WithinMargin: {Possible: 3}, report.Violated: {Missing: 1},
	} {
		if got := NewAudit(&audit.Report{Dimensions: []audit.DimensionSummary{d}}).Verdict; got != want {
			t.Errorf("verdict on %+v: got %s, want %s", d, got, want)
		}
	}
}

// TestVerdictOnFallback: what limits declare is a part of the verdict, and said.
func TestVerdictOnFallback(t *testing.T) {
	which := audit.LimitRef{Scope: "acme/alice", Dimension: "requests", Name: "rpm", Limit: 100}
	got := NewAudit(&audit.Report{
		Answers:    audit.Answers{Fallback: 60},
		Dimensions: []audit.DimensionSummary{{Name: "requests", Limits: 1, WithFallback: 60, Fallback: 60, BeyondBound: 27}},
		Over:       []audit.OverAdmission{{LimitRef: which, Admitted: 160, WithFallback: 60, Fallback: 60, Declared: audit.FallbackShare, BeyondBound: 27}},
	})
	want := &report.Audit{
		Verdict: report.Violated, Limits: 1,
		Text:  "Without the owner, fallback admitted 60 calls, more than the limits declare: 27 requests.",
		Worst: []report.LimitResult{{Key: "acme/alice", Dimension: "requests", Limit: "rpm", Allowed: 100, Margin: 33, Admitted: 160, Over: 27}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("verdict differs (-want +got):\n%s", diff)
	}
}

// TestCoursesSinceTheWarmUp: the times of a document begin after it.
func TestCoursesSinceTheWarmUp(t *testing.T) {
	const s = time.Second
	which := audit.LimitRef{Scope: "acme", Dimension: "requests", Name: "rpm", Algorithm: audit.TokenBucket, Limit: 100, Burst: 20}
	points := []audit.Point{{At: 1 * s, Used: 9}, {At: 2 * s, Used: 8}, {At: 4 * s, Used: 7}}
	got := NewAudit(&audit.Report{UsageSeries: []audit.UsageSeries{
		{LimitRef: which, Calls: 5, Admitted: 6, Step: s, Used: points, WithFallback: append(points[:2:2], audit.Point{At: 3 * s, Used: 1}, audit.Point{At: 4 * s, Used: 30})},
		{LimitRef: audit.LimitRef{Scope: "b", Limit: 3}, Step: s, Used: points[:1]},
	}})
	shiftUsage(got, 2*s)
	want := []report.UsageSeries{{
		Key: "acme", Dimension: "requests", Limit: "rpm", Allowed: 20, Calls: 5, Admitted: 6, Step: s,
		Points: []report.UsagePoint{{At: 0, Used: 8, WithFallback: 8}, {At: s, Used: 0, WithFallback: 1}, {At: 2 * s, Used: 7, WithFallback: 30}},
	}}
	if diff := cmp.Diff(want, got.UsageSeries); diff != "" {
		t.Errorf("courses differ (-want +got):\n%s", diff)
	}
}

func TestMembers(t *testing.T) {
	kill, leave, restart := local.Fault{Kind: local.Kill, Node: 1}, local.Fault{Kind: local.Leave, Node: 2}, local.Fault{Kind: local.Restart}
	for _, c := range []struct {
		faults []local.Fault
		want   int
	}{
		{nil, 3},
		{[]local.Fault{kill, {Kind: local.Join}, {Kind: local.Pause, Node: 2}}, 3},
		{[]local.Fault{leave}, 2},
		{[]local.Fault{restart, leave}, 1},
		{[]local.Fault{leave, leave, leave, restart}, 1},
	} {
		if got := (&Options{LocalNodes: 3, Faults: c.faults}).members(); got != c.want {
			t.Errorf("members after %v: got %d, want %d", c.faults, got, c.want)
		}
	}
}

// TestPromisesOfFallback: the modes of a policy reach the auditor.
func TestPromisesOfFallback(t *testing.T) {
	p, err := policy.Parse("p.yaml", []byte("tiers:\n  t:\n    limits:\n"+
		"      - { name: a, dimension: requests, limit: 9, window: 1m }\n"+
		"      - { name: b, dimension: requests, limit: 9, window: 1m, unreachable: closed }\n"+
		"      - { name: c, dimension: requests, limit: 9, window: 1m, unreachable: open }\ndefault_tier: t\n"), limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]audit.FallbackMode{}
	for _, l := range PolicyAuditOptions(p, time.Now(), true).LimitsOf("k", "", "") {
		got[l.Name] = l.Fallback
	}
	want := map[string]audit.FallbackMode{"a": audit.FallbackShare, "b": audit.FallbackClosed, "c": audit.FallbackOpen}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("modes differ (-want +got):\n%s", diff)
	}
}

// Two targets that do nothing take turns, and the document is good.
func TestRunTakesTurns(t *testing.T) {
	var turns []string
	run, err := Run(t.Context(), Options{
		Target: "null:", Versus: []string{"null:", "null:1ms"}, Rounds: 2, Rate: 500, Duration: 400 * time.Millisecond, Warmup: 20 * time.Millisecond,
		OnTurnStart: func(name string) { turns = append(turns, name) },
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"null:", "null: #2", "null:1ms", "null:1ms", "null: #2", "null:"}
	if diff := cmp.Diff(want, turns); diff != "" {
		t.Errorf("turns differ (-want +got):\n%s", diff)
	}
	if run.Pairing == nil || run.Pairing.Baseline != "null:" || len(run.Pairing.Rounds) != 2 || len(run.Pairing.Rounds[0].Turns) != 3 {
		t.Errorf("pairing: got %+v, want 2 rounds of 3 turns", run.Pairing)
	}
	for i := range run.Targets {
		target := &run.Targets[i]
		if target.Duration != 400*time.Millisecond || target.Offered == 0 || target.Offered != run.Targets[0].Offered || target.Failed != 0 {
			t.Errorf("%s: got %s and %+v, want as many calls as the others", target.Name, target.Duration, target.Counts)
		}
		if l := target.Overall(); l == nil || l.Count != target.Achieved {
			t.Errorf("%s: latencies are not those of all %d calls: %+v", target.Name, target.Achieved, l)
		}
		if target.Audit == nil || target.Audit.Verdict != report.NotAudited {
			t.Errorf("%s: got audit %+v, want none", target.Name, target.Audit)
		}
	}
}

// In a pair, targets see the same stretch of a trace, and the next pair the next
// one.
func TestReplayGoesOnInRounds(t *testing.T) {
	calls, err := workload.Parse("replay=100x llm=0% seed=3")
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Target: "null:", Versus: []string{"null:1ms"}, Workload: calls, Rounds: 3, Duration: 3 * time.Second, Warmup: 500 * time.Millisecond}
	r := &runner{o: o.withDefaults(), began: time.Now()}
	for round := range 3 {
		var tokens [2][]int64
		var times [2][]time.Duration
		for i, letter := range []string{"a", "b"} {
			w, err := r.workload(&measuredTarget{letter: letter, kind: "null"}, round)
			if err != nil {
				t.Fatal(err)
			}
			times[i] = w.Times()
			for c := (bench.Call{}); w.Next(&c); {
				tokens[i] = append(tokens[i], c.InputTokens)
			}
		}
		if !slices.Equal(tokens[0], tokens[1]) || !slices.Equal(times[0], times[1]) {
			t.Errorf("round %d: the targets see different calls", round)
		}
		// The trace has 35 s, and each round begins a second later.
		if last := times[0][len(times[0])-1].Round(time.Second); last != time.Duration(35-round)*time.Second {
			t.Errorf("round %d: the last call is due at %v", round, last)
		}
	}
}

func TestRunEndsEarly(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	run, err := Run(ctx, Options{
		Target: "null:", Rate: 500, Duration: time.Hour,
		OnInterval: func(report.Interval) { cancel(enough) },
	})
	if !errors.Is(err, enough) || run == nil || run.Targets[0].Achieved == 0 {
		t.Errorf("got %v, %v, want what was measured and the cause", run, err)
	}
}

func TestRunFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte("tiers: {free: {requets: 1/min}}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Target: "nul:", Rate: 1, Duration: time.Second}, "must be one of client:"},
		{Options{Target: "null:", Rate: 1, Duration: time.Second, Policy: path}, "requets"},
		{Options{Target: "null:", Rate: 1, Duration: time.Second, Targets: target.Options{Timeout: -1}}, "timeout: must not be negative"},
	} {
		if run, err := Run(t.Context(), c.o); run != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, %v, want an error with %q", run, err, c.want)
		}
	}
}
