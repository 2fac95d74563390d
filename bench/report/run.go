// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

// FormatVersion is the format version that this package writes, and the only one that it
// reads.
const FormatVersion = 2

// Run is the document of one run.
type Run struct {
	FormatVersion int         `json:"format_version"`
	Started       time.Time   `json:"started"`
	Command       string      `json:"command"` // the command line, quoted for a shell
	Flags         []Flag      `json:"flags,omitempty"`
	Seed          uint64      `json:"seed"`
	Load          Load        `json:"load"`
	Environment   Environment `json:"environment"`
	Harness       *Harness    `json:"harness,omitempty"` // nil if it was not measured
	Targets       []Target    `json:"targets"`
	Pairing       *Pairing    `json:"pairing,omitempty"`
}

// Flag is one setting of the run, including defaults.
type Flag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Load is the load on every target.
type Load struct {
	Loop          string        `json:"loop"`               // open or closed
	Arrivals      string        `json:"arrivals,omitempty"` // of an open loop: constant, poisson or trace
	RatePerSecond float64       `json:"rate_per_second,omitempty"`
	Callers       int64         `json:"callers,omitempty"`  // of a closed loop
	Workload      string        `json:"workload,omitempty"` // its specification
	Warmup        time.Duration `json:"warmup_ns"`
	Duration      time.Duration `json:"duration_ns"` // planned, without the warm-up
}

// Target is one limiter and its measurements.
type Target struct {
	Name        string        `json:"name"` // unique in a run
	Description string        `json:"description,omitempty"`
	Duration    time.Duration `json:"duration_ns"` // of the measured part
	Counts                    // of the requests that were due in the measured part
	// Completed is the number of decisions that arrived in the measured part, whenever
	// their requests were due.
	Completed int64 `json:"in_time"`
	// HeldBack is the part of Counts.Refused that the target did not send, because the
	// limiter had refused others.
	HeldBack   int64     `json:"held_back,omitempty"`
	Unfinished int64     `json:"unfinished,omitempty"` // calls that had not ended when the run stopped waiting
	LLM        LLMCounts `json:"llm,omitzero"`
	// CallsModel says that the target made LLM calls itself: a reserve returned with the
	// first byte of the model's answer, and its settle with the last.
	CallsModel bool         `json:"streams,omitempty"`
	Pacer      *Pacer       `json:"pacer,omitempty"` // nil in a closed loop
	Errors     []ErrorCount `json:"errors,omitempty"`
	Latencies  []Latency    `json:"latencies"`
	Series     []Interval   `json:"series,omitempty"` // by time
	Marks      []Mark       `json:"marks,omitempty"`
	Resources  *Resources   `json:"resources,omitempty"`
	Audit      *Audit       `json:"audit,omitempty"`
	// Overload is nil unless the run measured it. The other numbers are then those of all
	// its steps together.
	Overload *Overload `json:"overload,omitempty"`
}

// Counts are numbers of checks and reserves.
type Counts struct {
	Offered  int64 `json:"offered"`  // due
	Achieved int64 `json:"achieved"` // decided: allowed, degraded or denied
	Denied   int64 `json:"denied"`
	Degraded int64 `json:"degraded"`
	Failed   int64 `json:"failed"` // sent, but no decision arrived
	// Refused calls met an overloaded limiter: nothing was decided or charged.
	Refused int64 `json:"refused,omitempty"`
	Dropped int64 `json:"dropped"` // not sent: too many in flight, or the schedule was late
}

// LLMCounts are numbers of LLM calls.
type LLMCounts struct {
	Held          int64 `json:"held"`     // got a reservation
	Reported      int64 `json:"reported"` // progress reports that succeeded
	Settled       int64 `json:"settled"`  // final settles that succeeded
	CutShort      int64 `json:"cut_short"`
	SettlesFailed int64 `json:"lost"`
	ReportsFailed int64 `json:"reports_failed"`
}

// Pacer says how well the harness kept its schedule: how long after their due times calls
// were dispatched. That is part of every latency.
type Pacer struct {
	P50    time.Duration `json:"p50_ns"`
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"`
	Missed int64         `json:"missed"` // calls that were not dispatched at all
	// Late says that the load was therefore not the configured one.
	Late bool `json:"late"`
	// KeptRate is the rate per second at which calls were sent; 0 in older documents.
	KeptRate float64 `json:"kept_per_second,omitempty"`
}

// warning returns a warning if the harness did not keep its schedule, or "".
func (t *Target) warning() string {
	if t.Pacer == nil || !t.Pacer.Late {
		return ""
	}
	load := "the load was lower than configured"
	if t.Pacer.KeptRate > 0 {
		configured := perSecond(t.Offered, t.Duration)
		kept, due := formatRate(t.Pacer.KeptRate), formatRate(configured)
		if t.Pacer.Missed == 0 && (t.Pacer.KeptRate >= configured || kept == due) {
			return fmt.Sprintf("the harness sent calls late (p99 lateness %s), and latencies are partly those of the harness", formatDuration(t.Pacer.P99))
		}
		load = fmt.Sprintf("it sent %s of %s calls per second", kept, due)
	}
	return fmt.Sprintf("the harness could not keep the schedule (p99 lateness %s, %s not sent): %s, and latencies are partly those of the harness",
		formatDuration(t.Pacer.P99), amount.Plural(t.Pacer.Missed, "call"), load)
}

// refusals returns a sentence about refused calls, or "" if there are none.
func (t *Target) refusals() string {
	if t.Refused == 0 {
		return ""
	}
	text := amount.Plural(t.Refused, "call") + " refused because of overload, " + formatPercent(share(t.Refused, t.Offered))
	if t.HeldBack > 0 {
		text += "; " + amount.Group(t.HeldBack) + " of them not sent, after others were refused"
	}
	if l := t.refused(); l != nil {
		text += fmt.Sprintf("; refused within %s (p50), %s (p99)", formatDuration(l.at(50)), formatDuration(l.at(99)))
	}
	return text
}

// ErrorCount is the number of failures with one message.
type ErrorCount struct {
	Message string `json:"message"`
	Count   int64  `json:"count"`
}

// Interval is a part of a run, usually a second.
type Interval struct {
	At     time.Duration `json:"at_ns"` // when it began
	Length time.Duration `json:"length_ns"`
	Counts
	// P50 and P99 are latencies, from the due time, of what was answered in it. They are
	// zero if nothing was.
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
}

// Mark is a fault or another event during the run.
type Mark struct {
	At     time.Duration `json:"at_ns"`
	Kind   string        `json:"kind"` // kill, pause, resume, leave, join, restart
	Detail string        `json:"what,omitempty"`
}

// Resources are what a target and the harness consumed.
type Resources struct {
	Client  Process   `json:"client"`
	Servers []Process `json:"servers,omitempty"` // only for the local cluster
	// CPU time of each side per million decisions; zero if it is unknown.
	ClientCPUPerMillion time.Duration `json:"client_cpu_per_million_ns"`
	ServerCPUPerMillion time.Duration `json:"server_cpu_per_million_ns"`
}

// Process is what one process consumed in the measured part.
type Process struct {
	Name    string        `json:"name"`
	CPU     time.Duration `json:"cpu_ns"` // user and system
	PeakRSS int64         `json:"peak_rss_bytes"`
	Samples []Sample      `json:"samples,omitempty"` // by time
}

// Sample is the usage of a process at one time.
type Sample struct {
	At  time.Duration `json:"at_ns"`
	CPU time.Duration `json:"cpu_ns"` // since the start of the measured part
	RSS int64         `json:"rss_bytes"`
}

// Pairing is how targets were measured in turns under the same load.
type Pairing struct {
	Baseline string  `json:"baseline"` // the target that the others are compared with
	Rounds   []Round `json:"rounds"`
}

// Round is one turn of each target.
type Round struct {
	Turns []Turn `json:"turns"` // in the order in which they ran
}

// Turn is the result of one target in one round.
type Turn struct {
	Target        string        `json:"target"`
	RatePerSecond float64       `json:"rate_per_second"` // achieved
	P50           time.Duration `json:"p50_ns"`
	P99           time.Duration `json:"p99_ns"`
	CPUPerMillion time.Duration `json:"cpu_per_million_ns,omitempty"` // of the servers; zero if it is unknown
}

// PerMillion sets the CPU times per million decisions, for n decisions.
func (r *Resources) PerMillion(n int64) {
	perMillion := func(d time.Duration) time.Duration {
		if n <= 0 {
			return 0
		}
		return nanoseconds(float64(d) / float64(n) * 1e6)
	}
	var servers time.Duration
	for i := range r.Servers {
		servers += r.Servers[i].CPU
	}
	r.ClientCPUPerMillion, r.ServerCPUPerMillion = perMillion(r.Client.CPU), perMillion(servers)
}

// Rate returns the number of decisions per second in the measured part.
func (t *Target) Rate() float64 { return perSecond(t.Completed, t.Duration) }

func perSecond(n int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

func share(part, whole int64) float64 {
	if whole <= 0 {
		return 0
	}
	return float64(part) / float64(whole)
}
