// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"math"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/report"
)

// The search for the capacity.
const (
	firstRate  = 1_000.0
	lowestRate = 10.0
	highRate   = 5e6
	// capacityPrecision is the ratio of a rate that is not kept and one that is, at which
	// the search ends.
	capacityPrecision = 1.1
	probeWarmup       = 500 * time.Millisecond // as long as an LLM call, at most
	probeTime         = time.Second
	probePause        = 300 * time.Millisecond
	// keptShare is the share of calls that must be answered in time.
	keptShare = 0.99
)

// findCapacity sets the highest rate that the target keeps. It doubles the rate until one
// is not kept, and then halves the interval of its logarithm. A rate that is not kept is
// tried once more, since something else may have used the machine.
func (m *overloadRun) findCapacity() error {
	o := m.target.overload
	rate := m.o.Rate
	if rate == 0 {
		rate = firstRate
	}
	capacity, err := search(rate, func(rate float64) (bool, error) {
		p, err := m.probe(rate)
		if err == nil && !p.Kept {
			o.Probes = append(o.Probes, p)
			p, err = m.probe(rate)
		}
		if err == nil {
			o.Probes = append(o.Probes, p)
		}
		return p.Kept, err
	})
	o.Capacity = capacity
	return err
}

// search returns the highest rate that is kept, or 0. It begins at a rate.
func search(rate float64, keeps func(rate float64) (bool, error)) (kept float64, err error) {
	lost := math.Inf(1)
	for rate <= highRate && lost > max(kept*capacityPrecision, lowestRate) {
		ok, err := keeps(rate)
		if err != nil {
			return kept, err
		}
		if ok {
			kept = rate
		} else {
			lost = rate
		}
		switch {
		case math.IsInf(lost, 1):
			rate = kept * 2
		case kept == 0:
			rate = max(lost/4, lowestRate)
		default:
			rate = math.Sqrt(kept * lost)
		}
	}
	return kept, nil
}

// probe offers a rate for a short time.
func (m *overloadRun) probe(rate float64) (report.OverloadProbe, error) {
	p := report.OverloadProbe{Offered: rate}
	l, err := m.load(rate, probeWarmup, probeTime)
	if err != nil {
		return p, err
	}
	l.silent = true
	if err := m.pause(probePause); err != nil {
		return p, err
	}
	r, _, err := m.measure(m.ctx, m.target, l)
	if r == nil || err != nil {
		return p, err
	}
	p.Answered, p.Kept = r.Rate(), keeps(r)
	return p, nil
}

// keeps reports whether a target answered nearly all calls in time, and settled nearly all
// LLM calls.
func keeps(r *bench.Result) bool {
	share := func(n, of int64) bool { return float64(n) >= keptShare*float64(of) }
	return r.Offered > 0 && share(r.Completed, r.Offered) && share(r.Achieved(), r.Offered) &&
		share(r.LLM.Held-r.LLM.SettlesFailed, r.LLM.Held)
}
