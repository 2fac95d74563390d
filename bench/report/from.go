// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"

	"github.com/bucketring/bucketring/bench"
)

// NewTarget converts a result. The caller adds the description, marks, servers and the
// audit. Times are converted to be since the end of the warm-up. It keeps no reference
// to the result.
func NewTarget(r *bench.Result) (Target, error) {
	t := Target{
		Name: r.Target, Duration: r.Duration, Completed: r.Completed, Unfinished: r.Unfinished, HeldBack: r.HeldBack,
		Counts: NewCounts(r.Counts),
		LLM:    NewLLMCounts(r.LLM),
	}
	all, err := r.Overall()
	if err != nil {
		return Target{}, fmt.Errorf("result of %q: %w", r.Target, err)
	}
	for _, l := range append([]bench.Latency{all}, r.Latencies...) {
		if l.Count == 0 {
			continue
		}
		converted, err := fromLatency(&l)
		if err != nil {
			return Target{}, fmt.Errorf("result of %q: %w", r.Target, err)
		}
		t.Latencies = append(t.Latencies, converted)
	}
	for _, iv := range r.Series {
		if iv.Warmup || iv.At < r.Warmup || iv.Length <= 0 {
			continue
		}
		t.Series = append(t.Series, NewInterval(iv, r))
	}
	for _, e := range r.Errors {
		message := e.Message
		if e.Op != 0 {
			message = e.Op.String() + ": " + message
		}
		t.Errors = append(t.Errors, ErrorCount{message, e.Count})
	}
	if r.Pacer != nil {
		l := &r.Pacer.Lateness
		t.Pacer = &Pacer{P50: l.P50, P99: l.P99, Max: l.Max, Missed: r.Pacer.Missed, Late: r.Pacer.Late(), KeptRate: r.Pacer.KeptRate}
	}
	if r.ClientCPU > 0 {
		t.Resources = &Resources{Client: Process{CPU: r.ClientCPU}}
		t.Resources.PerMillion(r.Completed)
	}
	return t, nil
}

// NewInterval converts an interval. Its time becomes relative to the end of the warm-up
// of r, or is not converted if r is nil, as for [Live].
func NewInterval(iv bench.Interval, r *bench.Result) Interval {
	at := iv.At
	if r != nil {
		at -= r.Warmup
	}
	return Interval{At: at, Length: iv.Length, Counts: NewCounts(iv.Counts), P50: iv.P50, P99: iv.P99}
}

// NewLLMCounts converts counts of LLM calls.
func NewLLMCounts(l bench.LLMCounts) LLMCounts {
	return LLMCounts{
		Held: l.Held, Reported: l.Reported, Settled: l.Settled,
		CutShort: l.CutShort, SettlesFailed: l.SettlesFailed, ReportsFailed: l.ReportsFailed,
	}
}

// NewCounts converts counts.
func NewCounts(c bench.Counts) Counts {
	return Counts{Offered: c.Offered, Achieved: c.Achieved(), Denied: c.Denied, Degraded: c.Degraded, Failed: c.Failed, Refused: c.Refused, Dropped: c.Dropped}
}

func fromLatency(l *bench.Latency) (Latency, error) {
	h, err := l.Histogram()
	if err != nil {
		return Latency{}, err
	}
	out, err := NewLatency(l.Op.String(), l.Route, l.Outcome.String(), h)
	out.ServiceTime = l.ServiceTime
	return out, err
}
