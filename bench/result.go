// SPDX-License-Identifier: Apache-2.0

package bench

import "time"

// Result is what a run measured. Times are since the start of the run, the
// warm-up included.
type Result struct {
	Target   string    `json:"target"`
	OpenLoop bool      `json:"open_loop"`
	Callers  int       `json:"callers"`
	Started  time.Time `json:"started"`

	Warmup   time.Duration `json:"warmup_ns"`
	Duration time.Duration `json:"duration_ns"` // measured, without the warm-up

	// Counts are of the checks and reserves that were due in the measured part.
	Counts
	// InTime are the decisions that came in the measured part, whenever they were
	// due: what the target got done.
	InTime int64 `json:"in_time"`
	// After is the part of Counts that came after the measured part. Series and
	// After add up to Counts.
	After Counts `json:"after"`
	LLM   LLM    `json:"llm"`
	// Unfinished are calls that had no end when the run stopped waiting for them.
	Unfinished int64 `json:"unfinished"`

	Latencies []Latency    `json:"latencies"`
	Series    []Interval   `json:"series"`
	Errors    []ErrorCount `json:"errors,omitempty"` // the most frequent first
	Pacer     *Pacer       `json:"pacer,omitempty"`  // of an open loop

	// ClientCPU is what this process used in the measured part, user and system.
	// 0 if that is not known.
	ClientCPU time.Duration `json:"client_cpu_ns"`
}

// Rate is the number of decisions per second in the measured part.
func (r *Result) Rate() float64 {
	if r.Duration <= 0 {
		return 0
	}
	return float64(r.InTime) / r.Duration.Seconds()
}

// Counts are numbers of checks and reserves. When a run is over, Offered is the
// sum of the others, but for the unfinished.
type Counts struct {
	Offered  int64 `json:"offered"` // were due; in a closed loop: were sent
	Allowed  int64 `json:"allowed"`
	Degraded int64 `json:"degraded"`
	Denied   int64 `json:"denied"`
	Failed   int64 `json:"failed"`  // no decision: an error
	Dropped  int64 `json:"dropped"` // never sent: too many were under way
}

// Achieved is the number of decisions.
func (c Counts) Achieved() int64 { return c.Allowed + c.Degraded + c.Denied }

func (c *Counts) add(d Counts) {
	c.Offered += d.Offered
	c.Allowed += d.Allowed
	c.Degraded += d.Degraded
	c.Denied += d.Denied
	c.Failed += d.Failed
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
	}
}

// LLM counts LLM calls that were due in the measured part.
type LLM struct {
	Held     int64 `json:"held"`      // got a reservation
	Reported int64 `json:"reported"`  // progress reports that were taken
	Settled  int64 `json:"settled"`   // final settles that were taken
	CutShort int64 `json:"cut_short"` // of those and the lost: ended before their time, with the run
	// Lost: the final settle failed. ReportsFailed: progress that did.
	Lost          int64 `json:"lost"`
	ReportsFailed int64 `json:"reports_failed"`
}

func (l *LLM) add(m LLM) {
	l.Held += m.Held
	l.Reported += m.Reported
	l.Settled += m.Settled
	l.CutShort += m.CutShort
	l.Lost += m.Lost
	l.ReportsFailed += m.ReportsFailed
}

// Interval is a part of a run. Offered and Dropped are of the calls that were
// due in it, the other counts of the answers that came in it.
type Interval struct {
	At     time.Duration `json:"at_ns"` // its begin
	Length time.Duration `json:"length_ns"`
	Warmup bool          `json:"warmup,omitempty"` // only in Options.Progress
	Counts
	UnderWay int64 `json:"under_way"` // questions without an answer at its end
	Held     int64 `json:"held"`      // LLM calls that were running at its end
	// Of the checks and reserves that were answered in it, since they were due.
	P50 time.Duration `json:"p50_ns"`
	P99 time.Duration `json:"p99_ns"`
}

// ErrorCount is how often one kind of failure was seen.
type ErrorCount struct {
	Op      Op     `json:"op"`
	Message string `json:"message"`
	Count   int64  `json:"count"`
}

// Pacer says how well the harness kept the schedule.
type Pacer struct {
	// Lateness is how long after their due times calls were handed out. It is a
	// part of the latencies.
	Lateness Latency `json:"lateness"`
	// Missed calls were not handed out at all, since the harness was more than a
	// second behind at the end. They are counted as dropped, too.
	Missed int64 `json:"missed"`
}

// Late says that the harness could not keep the schedule: the load was not what
// was asked for, and the latencies are partly its own.
func (p *Pacer) Late() bool { return p.Missed > 0 || p.Lateness.P99 > time.Millisecond }

// Find returns the distribution of one row, nil if there was nothing. An empty
// route and outcome 0 mean all.
func (r *Result) Find(op Op, route string, outcome Outcome) *Latency {
	for i := range r.Latencies {
		if l := &r.Latencies[i]; l.Op == op && l.Route == route && l.Outcome == outcome && !l.Service {
			return l
		}
	}
	return nil
}

// Latency returns the distribution of all questions of one operation since they
// were due, nil if there were none.
func (r *Result) Latency(op Op) *Latency { return r.Find(op, "", 0) }

// Service returns the distribution since the questions were really sent, nil if
// there were none.
func (r *Result) Service(op Op) *Latency {
	for i := range r.Latencies {
		if l := &r.Latencies[i]; l.Op == op && l.Service {
			return l
		}
	}
	return nil
}

// Overall returns the distribution of checks and reserves together.
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
