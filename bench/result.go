// SPDX-License-Identifier: Apache-2.0

package bench

import "time"

// Result is what a run measured. Times are since the start of the run, including
// the warm-up.
type Result struct {
	Target   string    `json:"target"`
	OpenLoop bool      `json:"open_loop"`
	Callers  int       `json:"callers"`
	Started  time.Time `json:"started"`

	Warmup   time.Duration `json:"warmup_ns"`
	Duration time.Duration `json:"duration_ns"` // of the measured part

	// Counts are of the checks and reserves that were due in the measured part.
	Counts
	// Completed is the number of decisions that arrived in the measured part,
	// whenever their calls were due.
	Completed int64 `json:"in_time"`
	// HeldBack is the part of Counts.Refused that the target did not send.
	HeldBack int64 `json:"held_back"`
	// After is the part of Counts that was answered after the measured part. Series
	// and After add up to Counts.
	After Counts    `json:"after"`
	LLM   LLMCounts `json:"llm"`
	// Unfinished is the number of calls that had not ended when the run stopped
	// waiting for them.
	Unfinished int64 `json:"unfinished"`

	Latencies []Latency    `json:"latencies"`
	Series    []Interval   `json:"series"`
	Errors    []ErrorCount `json:"errors,omitempty"` // most frequent first
	Pacer     *Pacer       `json:"pacer,omitempty"`  // nil in a closed loop

	// ClientCPU is the user and system CPU time of this process in the measured
	// part, or 0 if it is unknown.
	ClientCPU time.Duration `json:"client_cpu_ns"`
}

// Rate returns the number of decisions per second in the measured part.
func (r *Result) Rate() float64 {
	if r.Duration <= 0 {
		return 0
	}
	return float64(r.Completed) / r.Duration.Seconds()
}

// Counts are numbers of checks and reserves. At the end of a run, Offered is the
// sum of the other counts, unless calls are unfinished.
type Counts struct {
	Offered  int64 `json:"offered"` // due; in a closed loop, sent
	Allowed  int64 `json:"allowed"`
	Degraded int64 `json:"degraded"`
	Denied   int64 `json:"denied"`
	Failed   int64 `json:"failed"`  // no decision was made
	Refused  int64 `json:"refused"` // by an overloaded limiter: nothing was decided or charged
	Dropped  int64 `json:"dropped"` // not sent, because too many were in flight or the schedule was late
}

// Achieved returns the number of decisions.
func (c Counts) Achieved() int64 { return c.Allowed + c.Degraded + c.Denied }

func (c *Counts) add(d Counts) {
	c.Offered += d.Offered
	c.Allowed += d.Allowed
	c.Degraded += d.Degraded
	c.Denied += d.Denied
	c.Failed += d.Failed
	c.Refused += d.Refused
	c.Dropped += d.Dropped
}

func (c *Counts) count(o Outcome) {
	switch o {
	case Allowed:
		c.Allowed++
	case Degraded:
		c.Degraded++
	case Denied:
		c.Denied++
	case Failed:
		c.Failed++
	case Refused:
		c.Refused++
	}
}

// LLMCounts are numbers of LLM calls that were due in the measured part.
type LLMCounts struct {
	Held     int64 `json:"held"`      // got a reservation
	Reported int64 `json:"reported"`  // progress reports that succeeded
	Settled  int64 `json:"settled"`   // final settles that succeeded
	CutShort int64 `json:"cut_short"` // ended early, with the run; also in Settled or SettlesFailed
	// SettlesFailed are failed final settles, and ReportsFailed failed progress reports.
	SettlesFailed int64 `json:"lost"`
	ReportsFailed int64 `json:"reports_failed"`
}

func (l *LLMCounts) add(m LLMCounts) {
	l.Held += m.Held
	l.Reported += m.Reported
	l.Settled += m.Settled
	l.CutShort += m.CutShort
	l.SettlesFailed += m.SettlesFailed
	l.ReportsFailed += m.ReportsFailed
}

// Interval is a part of a run. Offered and Dropped count the calls that were due in
// it, the other counts the answers that arrived in it.
type Interval struct {
	At     time.Duration `json:"at_ns"` // when it began
	Length time.Duration `json:"length_ns"`
	Warmup bool          `json:"warmup,omitempty"` // only in Options.OnInterval
	Counts
	InFlight int64 `json:"under_way"` // requests without an answer at its end
	Held     int64 `json:"held"`      // LLM calls between two requests at its end
	// P50 and P99 are latencies, from the due time, of the checks and reserves that
	// were answered in it. Refusals are no answers.
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
}

// ErrorCount is the number of failures with one message.
type ErrorCount struct {
	Op      Op     `json:"op"`
	Message string `json:"message"`
	Count   int64  `json:"count"`
}

// Pacer says how well the harness kept the schedule of an open loop.
type Pacer struct {
	// Lateness is how long after their due times calls were dispatched. It is part
	// of the latencies.
	Lateness Latency `json:"lateness"`
	// Missed is the number of calls that were not dispatched at all, because the
	// harness was later than Options.MaxLag, or more than a second late at the end. They
	// count as dropped too.
	Missed int64 `json:"missed"`
	// KeptRate is the rate at which calls were sent in the measured part. If the harness
	// kept the schedule, it is that of the schedule without the calls that were dropped
	// because too many were in flight.
	KeptRate float64 `json:"kept_per_second"`
}

// Late reports whether the harness failed to keep the schedule. The load was then
// not the configured one, and the latencies are partly its own.
func (p *Pacer) Late() bool { return p.Missed > 0 || p.Lateness.P99 > time.Millisecond }

// Find returns the latencies of one kind of answer, or nil if there were none. An
// empty route and outcome 0 mean all.
func (r *Result) Find(op Op, route string, outcome Outcome) *Latency {
	for i := range r.Latencies {
		if l := &r.Latencies[i]; l.Op == op && l.Route == route && l.Outcome == outcome && !l.ServiceTime {
			return l
		}
	}
	return nil
}

// Latency returns the latencies of all requests of an operation, measured from
// when they were due. It returns nil if there were none.
func (r *Result) Latency(op Op) *Latency { return r.Find(op, "", 0) }

// ServiceTime returns the latencies of all requests of an operation, measured from
// when they were sent. It returns nil if there were none.
func (r *Result) ServiceTime(op Op) *Latency { return r.findService(op, 0) }

// Refusals returns how long refusals of an operation took, from when the calls were sent.
// Calls that the target held back are not included. It returns nil if there were none.
func (r *Result) Refusals(op Op) *Latency { return r.findService(op, Refused) }

func (r *Result) findService(op Op, outcome Outcome) *Latency {
	for i := range r.Latencies {
		if l := &r.Latencies[i]; l.Op == op && l.Outcome == outcome && l.ServiceTime {
			return l
		}
	}
	return nil
}

// Overall returns the latencies of checks and reserves together.
func (r *Result) Overall() (Latency, error) {
	sum := newHistogram()
	for _, op := range []Op{OpCheck, OpReserve} {
		if l := r.Latency(op); l != nil {
			h, err := l.Histogram()
			if err != nil {
				return Latency{}, err
			}
			sum.Merge(h)
		}
	}
	return newLatency(sum)
}
