// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// refusedRun is a run of a target that refused a third of the calls.
func refusedRun(tb testing.TB) *Run {
	tb.Helper()
	m := newMaker(tb, 21)
	r := faultRun(tb)
	t := m.target("local cluster of 3", 20_000, 24, 380*time.Microsecond, -1)
	for i := range t.Series {
		iv := &t.Series[i]
		iv.Refused = iv.Offered / 3
		iv.Achieved -= iv.Refused
	}
	t.Refused = t.Offered / 3
	t.HeldBack = t.Refused / 2
	l := m.latency("check", "", m.latencies(50*time.Microsecond, 0.5, 5_000))
	l.Outcome, l.ServiceTime = "refused", true
	due := m.latency("check", "", m.latencies(90*time.Microsecond, 0.5, 5_000))
	due.Outcome = "refused"
	t.Latencies = append(t.Latencies, due, l)
	t.Pacer = &Pacer{P50: time.Millisecond, P99: 9 * time.Millisecond, Max: 10 * time.Millisecond, Missed: 4_000, Late: true, KeptRate: 19_834}
	t.Audit = exactAudit()
	r.Targets = []Target{t}
	return r
}

func TestRefusedCallsAreShown(t *testing.T) {
	r := refusedRun(t)
	var text, page bytes.Buffer
	if err := WriteSummary(&text, r, TextOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := WriteHTML(&page, r); err != nil {
		t.Fatal(err)
	}
	const (
		refusals = "160,000 calls refused because of overload, 33.3 %; 80,000 of them not sent, after others were refused; refused within "
		load     = "the harness could not keep the schedule (p99 lateness 9.00 ms, 4,000 calls not sent): it sent 19,834 of 20,000 calls per second"
	)
	for _, want := range []string{"refused\n", refusals, load} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the summary lacks %q:\n%s", want, text.String())
		}
	}
	for _, want := range []string{"<dt>refused</dt><dd>33.3 %", "Overload of local cluster of 3", refusals, load[1:], ">refused</text>"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	// Refusals are not in the latency of answers.
	x := &r.Targets[0]
	if all := x.Overall(); all.Count != 26_000 {
		t.Errorf("%d answers overall, want 26,000", all.Count)
	}
	if l := x.refused(); l == nil || l.Count != 5_000 || l.at(50) > 60*time.Microsecond {
		t.Errorf("refusals: %+v, want the 5,000 since they were sent", l)
	}
}

// A harness that sent all calls, but late, has kept the rate.
func TestWarningOfTheSchedule(t *testing.T) {
	const late = "the harness sent calls late (p99 lateness 9.00 ms), and latencies are partly those of the harness"
	for _, tt := range []struct {
		kept   float64 // of 1,993 calls per second
		missed int64
		want   string
	}{
		{1_994, 0, late},
		{1_992.9, 0, late},
		{1_994, 3, "the harness could not keep the schedule (p99 lateness 9.00 ms, 3 calls not sent): it sent 1,994 of 1,993 calls per second, and latencies are partly those of the harness"},
		{1_800, 0, "the harness could not keep the schedule (p99 lateness 9.00 ms, 0 calls not sent): it sent 1,800 of 1,993 calls per second, and latencies are partly those of the harness"},
		{0, 0, "the harness could not keep the schedule (p99 lateness 9.00 ms, 0 calls not sent): the load was lower than configured, and latencies are partly those of the harness"},
	} {
		target := Target{Duration: 10 * time.Second, Counts: Counts{Offered: 19_930}, Pacer: &Pacer{P99: 9 * time.Millisecond, Missed: tt.missed, Late: true, KeptRate: tt.kept}}
		if got := target.warning(); got != tt.want {
			t.Errorf("kept %v, missed %d: %q, want %q", tt.kept, tt.missed, got, tt.want)
		}
	}
}

func TestMoreRefusalsAreARegression(t *testing.T) {
	before, after := refusedRun(t), refusedRun(t)
	x := &before.Targets[0]
	x.Refused = 0
	for i := range x.Series {
		x.Series[i].Refused = 0
	}
	c, err := Compare(before, after, CompareOptions{FailOver: 5, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	var found bool
	for _, d := range c.Deltas {
		if d.Metric == "refused" {
			found = d.Verdict == Worse && d.Finding == FindingWorse && *d.A == 0 && *d.B > 0.33
		}
	}
	if !found {
		t.Errorf("a third more refusals: %+v, want a regression", c.Deltas)
	}
	if c, err = Compare(before, before, CompareOptions{Seed: 1}); err != nil {
		t.Fatal(err)
	}
	for _, d := range c.Deltas {
		if d.Metric == "refused" {
			t.Errorf("two runs without refusals are compared by them: %+v", d)
		}
	}
}

// Documents from before refusals were counted stay readable.
func TestOldDocumentsAreReadable(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, refusedRun(t)); err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(b.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	x := document["targets"].([]any)[0].(map[string]any)
	delete(x, "refused")
	delete(x, "held_back")
	delete(x["pacer"].(map[string]any), "kept_per_second")
	for _, iv := range x["series"].([]any) {
		delete(iv.(map[string]any), "refused")
	}
	old, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Read(bytes.NewReader(old))
	if err != nil {
		t.Fatal(err)
	}
	if n := r.Targets[0].Refused; n != 0 {
		t.Errorf("%d refused, want 0", n)
	}
	if w := r.Targets[0].warning(); !strings.Contains(w, "the load was lower than configured") {
		t.Errorf("warning %q, want one without the rate that was kept", w)
	}
}

func TestRefusedCountsAreValidated(t *testing.T) {
	for field, spoil := range map[string]func(*Target){
		"targets[0].refused":               func(x *Target) { x.Refused = -1 },
		"targets[0].held_back":             func(x *Target) { x.HeldBack = -1 },
		"targets[0].series[0].refused":     func(x *Target) { x.Series[0].Refused = -1 },
		"targets[0].pacer.kept_per_second": func(x *Target) { x.Pacer.KeptRate = -1 },
	} {
		r := refusedRun(t)
		spoil(&r.Targets[0])
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s below 0: %v, want an error that names it", field, err)
		}
	}
}
