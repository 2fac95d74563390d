// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

// Overload is how a target behaves when more is asked than it can answer.
type Overload struct {
	// Capacity is the highest rate per second, of those tried, at which the target
	// answered at least 99 % of the calls in time. 0 means that it answered none so.
	Capacity float64         `json:"capacity_per_second"`
	Probes   []OverloadProbe `json:"probes,omitempty"` // how it was found, in order
	Steps    []OverloadStep  `json:"steps"`            // by Times
}

// OverloadProbe is a rate that was tried to find the capacity.
type OverloadProbe struct {
	Offered  float64 `json:"offered_per_second"`
	Answered float64 `json:"answered_per_second"`
	Kept     bool    `json:"kept"` // at least 99 % were answered
}

// OverloadStep is a load at a multiple of the capacity, after a warm-up.
type OverloadStep struct {
	Times    float64       `json:"times"` // of the capacity
	Duration time.Duration `json:"duration_ns"`
	Offered  float64       `json:"offered_per_second"`
	// Sent is the rate that the harness really sent. It is lower than Offered if the
	// harness could not keep the schedule, or too many calls were in flight.
	Sent float64 `json:"sent_per_second"`
	// Answered is the goodput: the decisions per second that arrived in time.
	Answered float64   `json:"answered_per_second"`
	Calls    Counts    `json:"calls"`
	HeldBack int64     `json:"held_back,omitempty"`
	LLM      LLMCounts `json:"llm,omitzero"`

	// P50 and P99 are of answers, from the due times; SentP99 is from when they were sent.
	// They are zero if there was none.
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
	SentP99 time.Duration `json:"sent_p99_ns"`
	// RefusedP50 and RefusedP99 are of refusals, from when the calls were sent, without
	// those that were held back.
	RefusedP50 time.Duration `json:"refused_p50_ns,omitempty"`
	RefusedP99 time.Duration `json:"refused_p99_ns,omitempty"`
	// LateP99 is how late the harness sent calls, and Missed the number of those that it
	// did not send because they would have been too late.
	LateP99 time.Duration `json:"late_p99_ns"`
	Missed  int64         `json:"missed,omitempty"`

	// Watched is for how long the target was watched after the load, under half of its
	// capacity. Recovery is the time until it was back to normal, or -1 if it was not in
	// that time.
	Watched  time.Duration `json:"watched_ns,omitempty"`
	Recovery time.Duration `json:"recovery_ns,omitempty"`

	// CPU times in the step; zero if they are unknown.
	ClientCPU  time.Duration `json:"client_cpu_ns,omitempty"`
	ServersCPU time.Duration `json:"servers_cpu_ns,omitempty"`
}

// NeverNormal is the Recovery of a step after which the target was not back to normal.
const NeverNormal time.Duration = -1

// MinGoodput is the share of the peak below which goodput must not fall under overload.
const MinGoodput = 0.85

// Peak returns the highest goodput of all steps.
func (o *Overload) Peak() float64 {
	peak := 0.0
	for i := range o.Steps {
		peak = max(peak, o.Steps[i].Answered)
	}
	return peak
}

// Worst returns the step with the lowest goodput, as a share of the peak or of what was
// offered if that is less. It returns nil without steps.
func (o *Overload) Worst() (worst *OverloadStep, share float64) {
	peak := o.Peak()
	share = math.Inf(1)
	for i := range o.Steps {
		s := &o.Steps[i]
		possible := min(peak, s.Offered)
		got := 0.0
		if possible > 0 {
			got = s.Answered / possible
		}
		if got < share {
			worst, share = s, got
		}
	}
	return worst, share
}

// Collapsed reports whether goodput falls below MinGoodput.
func (o *Overload) Collapsed() bool {
	worst, share := o.Worst()
	return worst == nil || share < MinGoodput
}

// Summary returns the verdict as a sentence.
func (o *Overload) Summary() string {
	worst, share := o.Worst()
	if worst == nil {
		return "nothing was measured"
	}
	if o.Collapsed() {
		return fmt.Sprintf("COLLAPSED: goodput falls to %s of what is possible at %s", formatPercent(share), worst.load())
	}
	return fmt.Sprintf("goodput stays at %s of the peak or more", formatPercent(share))
}

func (o *Overload) class() string {
	if o.Collapsed() {
		return "bad"
	}
	return "good"
}

// load returns the multiple as text: 0.9x, 10x.
func (s *OverloadStep) load() string { return trimZeros(threeDigits(s.Times)) + "x" }

// due returns the calls of the step without those that the harness missed.
func (s *OverloadStep) due() int64 { return s.Calls.Offered - s.Missed }

// failed returns the calls that got neither a decision nor a refusal, or would have been
// one too many in flight.
func (s *OverloadStep) failed() int64 { return s.Calls.Failed + s.Calls.Dropped - s.Missed }

func (s *OverloadStep) recovery() string {
	switch {
	case s.Watched == 0:
		return "-"
	case s.Recovery == NeverNormal:
		return "> " + formatElapsed(s.Watched)
	}
	return formatDuration(s.Recovery)
}

// late returns a sentence if the harness sent less than was offered, or "".
func (s *OverloadStep) late() string {
	if s.Sent >= 0.99*s.Offered {
		return ""
	}
	why := "as too many were in flight"
	if s.Missed > s.Calls.Dropped/2 {
		why = "as it was too slow, up to " + formatDuration(s.LateP99) + " late (p99)"
	}
	return fmt.Sprintf("at %s the harness sent %s of %s calls/s, %s", s.load(), formatRate(s.Sent), formatRate(s.Offered), why)
}

// overloaded reports whether the run measured overload.
func (r *Run) overloaded() bool {
	for i := range r.Targets {
		if r.Targets[i].Overload != nil {
			return true
		}
	}
	return false
}

// overloadTable has a row for each step, in at most 80 columns.
func (o *Overload) table() table {
	t := table{head: []string{"load", "offered/s", "answered/s", "peak", "p99", "refused", "within", "failed", "back"}}
	peak := o.Peak()
	for i := range o.Steps {
		s := &o.Steps[i]
		t.rows = append(t.rows, []string{
			s.load(), formatRate(s.Offered), formatRate(s.Answered), formatPercent(math.Round(100*ratio(s.Answered, peak)) / 100),
			formatDuration(s.P99), shortPercent(share(s.Calls.Refused, s.due())), formatDuration(s.RefusedP99),
			shortPercent(share(s.failed(), s.due())), s.recovery(),
		})
	}
	return t
}

// overloadNote explains the columns of overloadTable.
const overloadNote = "load: times the capacity; peak: answered, as a share of the most\n" +
	"p99: of answers, since they were due; within: p99 of refusals, since sent\n" +
	"back: time until normal after the load"

func shortPercent(f float64) string {
	if f > 0 && f < 0.001 {
		return "< 0.1 %"
	}
	return formatPercent(math.Round(f*1000) / 1000)
}

func ratio(a, b float64) float64 {
	if !(b > 0) {
		return 0
	}
	return a / b
}

// overloadTiles are the numbers at the top of the page.
func overloadTiles(o *Overload) []tile {
	worst, lowest := o.Worst()
	list := []tile{
		{Name: "capacity", Value: formatRate(o.Capacity), Note: "calls/s, 99 % in time"},
		{Name: "peak", Value: formatRate(o.Peak()), Note: "answers/s"},
	}
	if worst == nil {
		return list
	}
	list = append(list, tile{Name: "lowest goodput", Value: formatPercent(lowest), Note: "at " + worst.load()})
	if o.Collapsed() {
		list[2].Class = "bad"
	}
	first, last := &o.Steps[0], &o.Steps[len(o.Steps)-1]
	return append(list,
		tile{Name: "p99 at " + first.load(), Value: formatDuration(first.P99)},
		tile{Name: "p99 at " + last.load(), Value: formatDuration(last.P99)},
		tile{Name: "refused at " + last.load(), Value: formatPercent(share(last.Calls.Refused, last.due())), Note: "p99 " + formatDuration(last.RefusedP99)},
	)
}

func (v *validator) overload(at string, o *Overload) {
	v.rate(at+".capacity_per_second", o.Capacity)
	if !v.size(at+".probes", len(o.Probes), 256) || !v.size(at+".steps", len(o.Steps), 64) {
		return
	}
	for i, p := range o.Probes {
		at := fmt.Sprintf("%s.probes[%d]", at, i)
		v.rate(at+".offered_per_second", p.Offered)
		v.rate(at+".answered_per_second", p.Answered)
	}
	last := 0.0
	for i := range o.Steps {
		at, s := fmt.Sprintf("%s.steps[%d]", at, i), &o.Steps[i]
		if !(s.Times > last && s.Times <= 1e6) {
			v.fail(at+".times", "must be above that of the step before, got %v", s.Times)
			return
		}
		last = s.Times
		v.rate(at+".offered_per_second", s.Offered)
		v.rate(at+".sent_per_second", s.Sent)
		v.rate(at+".answered_per_second", s.Answered)
		v.counts(at+".calls", &s.Calls)
		v.nonNegative(at+".held_back", s.HeldBack)
		v.nonNegative(at+".missed", s.Missed)
		v.llm(at+".llm", &s.LLM)
		for _, d := range []struct {
			name  string
			value time.Duration
		}{
			{"duration_ns", s.Duration},
			{"p50_ns", s.P50},
			{"p99_ns", s.P99},
			{"sent_p99_ns", s.SentP99},
			{"refused_p50_ns", s.RefusedP50},
			{"refused_p99_ns", s.RefusedP99},
			{"late_p99_ns", s.LateP99},
			{"watched_ns", s.Watched},
			{"client_cpu_ns", s.ClientCPU},
			{"servers_cpu_ns", s.ServersCPU},
		} {
			v.nonNegative(at+"."+d.name, int64(d.value))
		}
		if s.Recovery != NeverNormal {
			v.nonNegative(at+".recovery_ns", int64(s.Recovery))
		}
	}
}

// overloadSummary writes the steps of a target for people.
func (t *Target) overloadSummary(name bool) (head string, notes []string) {
	o := t.Overload
	head = "answers up to " + amount.Group(int64(math.Round(o.Capacity))) + " calls/s, 99 % of them in time"
	if name {
		head = clean(t.Name, 40) + ": " + head
	}
	for i := range o.Steps {
		if text := o.Steps[i].late(); text != "" {
			notes = append(notes, text)
		}
	}
	return head, notes
}
