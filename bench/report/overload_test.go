// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// steps are the loads on a target of a capacity. kept is the share of its peak that it
// still answers at 10x.
func overloadSteps(capacity, kept float64) *Overload {
	o := &Overload{Capacity: capacity, Probes: []OverloadProbe{{Offered: capacity, Answered: capacity, Kept: true}, {Offered: 2 * capacity, Answered: capacity}}}
	for _, times := range []float64{0.9, 1, 2, 4, 10} {
		s := OverloadStep{
			Times: times, Duration: 5 * time.Second, Offered: times * capacity, Sent: times * capacity,
			P50: 900 * time.Microsecond, P99: 7 * time.Millisecond, SentP99: 6 * time.Millisecond, LateP99: 300 * time.Microsecond,
			ServersCPU: 6 * time.Second, ClientCPU: 3 * time.Second,
		}
		s.Answered = min(s.Offered, capacity*(1-(1-kept)*math.Log10(max(times, 1))))
		s.Calls = Counts{Offered: int64(5 * s.Offered), Achieved: int64(5 * s.Answered)}
		if times > 1 {
			s.Calls.Refused = s.Calls.Offered - s.Calls.Achieved
			s.HeldBack = s.Calls.Refused / 2
			s.RefusedP50, s.RefusedP99 = 20*time.Microsecond, 2*time.Millisecond
			s.P50, s.P99, s.SentP99 = 4*time.Millisecond, 12*time.Millisecond, 9*time.Millisecond
			s.Watched, s.Recovery = 2*time.Second, 50*time.Millisecond
			s.Control = &OverloadControl{
				ToTarget: capacity, Sent: s.Sent, Answered: 0.99 * capacity, P99: 8 * time.Millisecond,
				ServersCPU: 6 * time.Second, ClientCPU: 2900 * time.Millisecond,
			}
		}
		if times == 10 {
			s.Sent, s.LateP99 = 0.6*s.Offered, 9800*time.Microsecond
			s.Missed = int64(2 * s.Offered)
			s.Calls.Refused -= s.Missed
			s.Calls.Dropped = s.Missed
			s.Recovery = NeverNormal
		}
		o.Steps = append(o.Steps, s)
	}
	return o
}

// overloadedRun is a run of two targets, of which the second collapses.
func overloadedRun(tb testing.TB) *Run {
	tb.Helper()
	r := versusRun(tb)
	r.Pairing, r.Load.RatePerSecond = nil, 0
	r.Targets[0].Overload, r.Targets[1].Overload = overloadSteps(41_200, 0.93), overloadSteps(23_000, 0.2)
	return r
}

func TestOverloadVerdict(t *testing.T) {
	for kept, want := range map[float64]string{
		0.93: "goodput stays at 93 % of the peak or more",
		0.85: "goodput stays at 85 % of the peak or more",
		0.84: "COLLAPSED: goodput falls to 84 % of what is possible at 10x",
	} {
		o := overloadSteps(10_000, kept)
		if got := o.Summary(); got != want || o.Collapsed() != (kept < MinGoodput) {
			t.Errorf("kept %v: %q, collapsed %t, want %q", kept, got, o.Collapsed(), want)
		}
	}
	// What was offered is all that can be answered: the peak may be at a higher load.
	o := &Overload{Steps: []OverloadStep{{Times: 0.9, Offered: 900, Answered: 890}, {Times: 2, Offered: 2000, Answered: 1400}}}
	if worst, share := o.Worst(); o.Collapsed() || worst.Times != 0.9 || share < 0.98 {
		t.Errorf("lowest %v at %vx, want 0.99 at 0.9x", share, worst.Times)
	}
	if o := (&Overload{}); !o.Collapsed() || o.Summary() != "nothing was measured" {
		t.Errorf("without steps: %q", o.Summary())
	}
}

func TestOverloadFitsATerminal(t *testing.T) {
	var b bytes.Buffer
	r := overloadedRun(t)
	r.Targets[0].Overload = overloadSteps(412_345, 0.9)
	for i := range r.Targets[0].Overload.Steps {
		r.Targets[0].Overload.Steps[i].Bare = &OverloadBare{Refused: 412_345, P50: 1500 * time.Microsecond, P99: 12_300 * time.Microsecond}
	}
	if err := WriteSummary(&b, r, TextOptions{}); err != nil {
		t.Fatal(err)
	}
	table := false
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSuffix(line, "\n")
		table = table && line != "" || strings.HasPrefix(line, "load ") || strings.HasPrefix(line, "load:")
		if n := utf8.RuneCountInString(line); table && n > 80 && !strings.HasPrefix(line, "warning") {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if want := "10x      371,111    408,222   91 %  0.6+1.2  0.6+1.2  2.00 ms  412,345  12.3 ms\n"; !strings.Contains(b.String(), want) {
		t.Errorf("the summary lacks the controls at 10x, %q:\n%s", want, b.String())
	}
	if n := strings.Count(b.String(), "warning: at 10x the harness sent "); n != 2 {
		t.Errorf("%d warnings that the harness was late, want one for each target:\n%s", n, b.String())
	}
	if !strings.Contains(b.String(), "as it was too slow, up to 9.80 ms late (p99)") {
		t.Errorf("the summary does not say why:\n%s", b.String())
	}
}

// A harness that has too many calls in flight is not too slow.
func TestWhyTheHarnessSentLess(t *testing.T) {
	s := OverloadStep{Times: 4, Offered: 1000, Sent: 500, Calls: Counts{Dropped: 2000}, Missed: 10}
	if got := s.late(); got != "at 4x the harness sent 500 of 1,000 calls/s, as too many were in flight" {
		t.Error(got)
	}
	if s.Sent = 995; s.late() != "" {
		t.Error(s.late())
	}
}

func TestOverloadIsValidated(t *testing.T) {
	for field, spoil := range map[string]func(*Overload){
		"capacity_per_second":                  func(o *Overload) { o.Capacity = -1 },
		"probes[0].offered_per_second":         func(o *Overload) { o.Probes[0].Offered = math.NaN() },
		"steps[1].times":                       func(o *Overload) { o.Steps[1].Times = 0.5 },
		"steps[0].times":                       func(o *Overload) { o.Steps[0].Times = math.NaN() },
		"steps[2].answered_per_second":         func(o *Overload) { o.Steps[2].Answered = math.Inf(1) },
		"steps[2].calls.refused":               func(o *Overload) { o.Steps[2].Calls.Refused = -1 },
		"steps[3].recovery_ns":                 func(o *Overload) { o.Steps[3].Recovery = -2 },
		"steps[3].missed":                      func(o *Overload) { o.Steps[3].Missed = -2 },
		"steps[3].llm":                         func(o *Overload) { o.Steps[3].LLM.Held = -2 },
		"steps[4].p99_ns":                      func(o *Overload) { o.Steps[4].P99 = -1 },
		"steps[2].control.answered_per_second": func(o *Overload) { o.Steps[2].Control.Answered = math.NaN() },
		"steps[2].control.client_cpu_ns":       func(o *Overload) { o.Steps[2].Control.ClientCPU = -1 },
		"steps[2].bare.p99_ns":                 func(o *Overload) { o.Steps[2].Bare = &OverloadBare{P99: -1} },
	} {
		r := overloadedRun(t)
		spoil(r.Targets[0].Overload)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), "targets[0].overload."+field) {
			t.Errorf("%s: %v, want an error that names it", field, err)
		}
	}
	if err := overloadedRun(t).Validate(); err != nil {
		t.Error(err)
	}
}

// The page of one target has tiles instead of a table of all.
func TestOverloadPageOfOneTarget(t *testing.T) {
	r := overloadedRun(t)
	r.Targets = r.Targets[:1]
	var b bytes.Buffer
	if err := WriteHTML(&b, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<dt>capacity</dt><dd>41,200", "<dt>lowest goodput</dt><dd>93 %<small>at 10x", "<h3>Overload of bucketring</h3>", `id="overload"`, ">85 % of the peak</text>"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}
