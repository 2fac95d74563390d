// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"slices"
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

	Control *OverloadControl `json:"control,omitempty"` // nil if it was not measured
	Bare    *OverloadBare    `json:"bare,omitempty"`    // nil unless the target is called over unary gRPC
}

// OverloadControl is the same load again, of which only a part is sent to the target. The
// harness refuses the rest itself, at once. So its goodput is what the harness and the
// machine leave for a limiter whose refusals cost it next to nothing.
type OverloadControl struct {
	ToTarget float64 `json:"to_target_per_second"` // the part: the peak until then
	Sent     float64 `json:"sent_per_second"`      // by the harness, with what it refused
	Answered float64 `json:"answered_per_second"`

	P99        time.Duration `json:"p99_ns"` // of answers, from the due times
	ClientCPU  time.Duration `json:"client_cpu_ns,omitempty"`
	ServersCPU time.Duration `json:"servers_cpu_ns,omitempty"`
}

// OverloadBare is the same load on gRPC servers without a limiter, which refuse every call:
// as many processes as the target has nodes, and as many calls in flight.
type OverloadBare struct {
	Refused float64       `json:"refused_per_second"`
	P50     time.Duration `json:"p50_ns"` // of refusals, from when the calls were sent
	P99     time.Duration `json:"p99_ns"`
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
	if s.Control != nil {
		why += "; " + formatRate(s.Control.Sent) + " in the control"
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

// controls has a row for each step with a control, in at most 80 columns.
func (o *Overload) controls() table {
	t := table{head: []string{"load", "answered/s", "control/s", "share", "cores", "control"}}
	bare := slices.ContainsFunc(o.Steps, func(s OverloadStep) bool { return s.Bare != nil })
	if bare {
		t.head = append(t.head, "within", "bare/s", "bare")
	}
	for i := range o.Steps {
		s := &o.Steps[i]
		if s.Control == nil && s.Bare == nil {
			continue
		}
		row := append([]string{s.load(), formatRate(s.Answered)}, s.control()...)
		if bare {
			row = append(append(row, formatDuration(s.RefusedP99)), s.bare()...)
		}
		t.rows = append(t.rows, row)
	}
	return t
}

// control returns the goodput of the control, that of the step as a share of it, and the
// processors that the harness and the servers used in both.
func (s *OverloadStep) control() []string {
	if s.Control == nil {
		return []string{"-", "-", "-", "-"}
	}
	cores := func(client, servers time.Duration) string {
		text := fmt.Sprintf("%.1f", ratio(client.Seconds(), s.Duration.Seconds()))
		if servers > 0 {
			text += fmt.Sprintf("+%.1f", ratio(servers.Seconds(), s.Duration.Seconds()))
		}
		return text
	}
	return []string{
		formatRate(s.Control.Answered), formatPercent(math.Round(100*ratio(s.Answered, s.Control.Answered)) / 100),
		cores(s.ClientCPU, s.ServersCPU), cores(s.Control.ClientCPU, s.Control.ServersCPU),
	}
}

// bare returns the refusals per second of bare servers, and their p99.
func (s *OverloadStep) bare() []string {
	if s.Bare == nil {
		return []string{"-", "-"}
	}
	return []string{formatRate(s.Bare.Refused), formatDuration(s.Bare.P99)}
}

// controlsNote and bareNote explain the columns of controls.
const controlsNote = "control: the same load, of which only the peak is sent to the target and the\n" +
	"harness refuses the rest; share: answered, of that; cores: of harness and nodes"

const bareNote = "bare: p99 of refusals of gRPC servers without a limiter, under the same load"

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
		if c := s.Control; c != nil {
			v.rate(at+".control.to_target_per_second", c.ToTarget)
			v.rate(at+".control.sent_per_second", c.Sent)
			v.rate(at+".control.answered_per_second", c.Answered)
			v.nonNegative(at+".control.p99_ns", int64(c.P99))
			v.nonNegative(at+".control.client_cpu_ns", int64(c.ClientCPU))
			v.nonNegative(at+".control.servers_cpu_ns", int64(c.ServersCPU))
		}
		if b := s.Bare; b != nil {
			v.rate(at+".bare.refused_per_second", b.Refused)
			v.nonNegative(at+".bare.p50_ns", int64(b.P50))
			v.nonNegative(at+".bare.p99_ns", int64(b.P99))
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
