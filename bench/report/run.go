// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"time"
)

// FormatVersion is the version of the document that this package writes, and
// the only one that it reads.
const FormatVersion = 2

// Run is everything that is known about one run.
type Run struct {
	FormatVersion int         `json:"format_version"`
	Started       time.Time   `json:"started"`
	Command       string      `json:"command"` // as it can be typed again
	Flags         []Flag      `json:"flags,omitempty"`
	Seed          uint64      `json:"seed"`
	Load          Load        `json:"load"`
	Environment   Environment `json:"environment"`
	Harness       *Harness    `json:"harness,omitempty"` // nil: it was not measured
	Targets       []Target    `json:"targets"`
	Pairing       *Pairing    `json:"pairing,omitempty"`
}

// Flag is one setting of the run, also one that was left at its default.
type Flag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Load says what was asked of every target.
type Load struct {
	Loop          string        `json:"loop"`               // open, closed
	Arrivals      string        `json:"arrivals,omitempty"` // of an open loop: constant, poisson, trace
	RatePerSecond float64       `json:"rate_per_second,omitempty"`
	Callers       int64         `json:"callers,omitempty"`  // of a closed loop
	Workload      string        `json:"workload,omitempty"` // its text specification
	Warmup        time.Duration `json:"warmup_ns"`
	Duration      time.Duration `json:"duration_ns"` // planned, without the warm-up
}

// Target is one limiter and what was measured of it.
type Target struct {
	Name        string        `json:"name"` // unique in a run
	Description string        `json:"description,omitempty"`
	Duration    time.Duration `json:"duration_ns"` // measured, without the warm-up
	Counts                    // of what was due in the measured part
	// InTime are the decisions that came in the measured part, whenever they were
	// due: what the target got done.
	InTime     int64 `json:"in_time"`
	Unfinished int64 `json:"unfinished,omitempty"` // had no end when the bench stopped waiting
	LLM        LLM   `json:"llm,omitzero"`
	// Streams: it made the LLM calls itself. A reserve is there with the first byte
	// of an answer, and a settle takes as long as the rest.
	Streams   bool         `json:"streams,omitempty"`
	Pacer     *Pacer       `json:"pacer,omitempty"` // of an open loop
	Errors    []ErrorCount `json:"errors,omitempty"`
	Latencies []Latency    `json:"latencies"`
	Series    []Interval   `json:"series,omitempty"` // in the order of time
	Marks     []Mark       `json:"marks,omitempty"`
	Resources *Resources   `json:"resources,omitempty"`
	Audit     *Audit       `json:"audit,omitempty"`
}

// Counts are numbers of questions (checks and reserves).
type Counts struct {
	Offered  int64 `json:"offered"`  // the schedule had them
	Achieved int64 `json:"achieved"` // a decision came: allowed, degraded or denied
	Denied   int64 `json:"denied"`
	Degraded int64 `json:"degraded"`
	Failed   int64 `json:"failed"`  // sent, and no decision came
	Dropped  int64 `json:"dropped"` // never sent: too many were under way
}

// LLM are numbers of LLM calls.
type LLM struct {
	Held          int64 `json:"held"`     // got a reservation
	Reported      int64 `json:"reported"` // progress reports that were taken
	Settled       int64 `json:"settled"`  // final settles that were taken
	CutShort      int64 `json:"cut_short"`
	Lost          int64 `json:"lost"` // the final settle failed
	ReportsFailed int64 `json:"reports_failed"`
}

// Pacer says how well the bench itself kept its schedule: how long after their
// due times calls were handed out. That is a part of every latency.
type Pacer struct {
	P50    time.Duration `json:"p50_ns"`
	P99    time.Duration `json:"p99_ns"`
	Max    time.Duration `json:"max_ns"`
	Missed int64         `json:"missed"` // were not handed out at all
	// Late: so much that the load was not what was asked for.
	Late bool `json:"late"`
}

// warning says that the numbers are partly those of the bench; empty if not.
func (t *Target) warning() string {
	if t.Pacer == nil || !t.Pacer.Late {
		return ""
	}
	return fmt.Sprintf("the bench itself could not keep the schedule (99 %% of calls were sent within %s, %s never): the load was not what was asked for, and latencies are partly those of the bench",
		duration(t.Pacer.P99), plural(t.Pacer.Missed, "call"))
}

// ErrorCount is how often one kind of failure was seen.
type ErrorCount struct {
	Message string `json:"message"`
	Count   int64  `json:"count"`
}

// Interval is a short part of a run, usually a second.
type Interval struct {
	At     time.Duration `json:"at_ns"` // its begin
	Length time.Duration `json:"length_ns"`
	Counts
	// Of what was answered in it, since the intended time; zero if nothing was.
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
}

// Mark is something that was done to the target during the run.
type Mark struct {
	At   time.Duration `json:"at_ns"`
	Kind string        `json:"kind"` // kill, pause, resume, leave, join, restart
	What string        `json:"what,omitempty"`
}

// Resources are what a target and the bench itself consumed.
type Resources struct {
	Client  Process   `json:"client"`
	Servers []Process `json:"servers,omitempty"` // only of targets on this machine
	// CPU time of each side for a million decisions; zero if it is not known.
	ClientCPUPerMillion time.Duration `json:"client_cpu_per_million_ns"`
	ServerCPUPerMillion time.Duration `json:"server_cpu_per_million_ns"`
}

// Process is what one process consumed during the measured part.
type Process struct {
	Name    string        `json:"name"`
	CPU     time.Duration `json:"cpu_ns"` // user and system
	PeakRSS int64         `json:"peak_rss_bytes"`
	Samples []Sample      `json:"samples,omitempty"` // in the order of time
}

// Sample is the state of a process at one moment.
type Sample struct {
	At  time.Duration `json:"at_ns"`
	CPU time.Duration `json:"cpu_ns"` // since the begin of the measured part
	RSS int64         `json:"rss_bytes"`
}

// Pairing is how targets took turns under the same load.
type Pairing struct {
	Baseline string  `json:"baseline"` // the target that the others are compared with
	Rounds   []Round `json:"rounds"`
}

// Round is one turn of every target.
type Round struct {
	Turns []Turn `json:"turns"` // in the order in which they ran
}

// Turn is what one target did in one round.
type Turn struct {
	Target        string        `json:"target"`
	RatePerSecond float64       `json:"rate_per_second"` // achieved
	P50           time.Duration `json:"p50_ns"`
	P99           time.Duration `json:"p99_ns"`
	CPUPerMillion time.Duration `json:"cpu_per_million_ns,omitempty"` // of the servers, if it is known
}

// PerMillion fills in the CPU time for a million decisions, of which there were
// n.
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

// Rate is the number of decisions per second in the measured part.
func (t *Target) Rate() float64 { return perSecond(t.InTime, t.Duration) }

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
