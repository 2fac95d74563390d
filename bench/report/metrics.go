// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"time"
)

// Direction is whether higher or lower values of a metric are better.
type Direction string

// The directions.
const (
	HigherIsBetter Direction = "higher"
	LowerIsBetter  Direction = "lower"
	Neutral        Direction = "neither"
)

// metric is one number of a target and its samples.
type metric struct {
	name, unit string
	better     Direction
	// value returns the metric of a whole run, negative if it has none.
	value func(*Target) float64
	// ofInterval and ofTurn return samples, negative if there is none. They are nil if
	// the metric has no samples of that kind.
	ofInterval func(*Interval) float64
	ofTurn     func(*Turn) float64
	log        bool // compare logarithms: the values are never zero
	points     bool // a share: changes are in percentage points
	optional   bool // left out of comparisons if it is zero in both runs
}

// The units of metrics.
const (
	unitRate    = "per_second"
	unitTime    = "ns"
	unitShare   = "share"
	unitCPUTime = "ns_per_million"
)

// What the samples of a metric are.
const (
	sampledIntervals = "intervals"
	sampledRounds    = "rounds"
)

// metrics are the compared metrics, in the order of the output.
var metrics = []metric{
	{
		name: "achieved", unit: unitRate, better: HigherIsBetter,
		value:      (*Target).Rate,
		ofInterval: func(iv *Interval) float64 { return perSecond(iv.Achieved, iv.Length) },
		ofTurn:     func(t *Turn) float64 { return t.RatePerSecond },
	},
	{
		name: "p50", unit: unitTime, better: LowerIsBetter, log: true,
		value:      percentileOf(50),
		ofInterval: func(iv *Interval) float64 { return orNegative(iv.P50) },
		ofTurn:     func(t *Turn) float64 { return orNegative(t.P50) },
	},
	{
		name: "p99", unit: unitTime, better: LowerIsBetter, log: true,
		value:      percentileOf(99),
		ofInterval: func(iv *Interval) float64 { return orNegative(iv.P99) },
		ofTurn:     func(t *Turn) float64 { return orNegative(t.P99) },
	},
	{name: "p99.9", unit: unitTime, better: LowerIsBetter, value: percentileOf(99.9)},
	{name: "max", unit: unitTime, better: LowerIsBetter, value: func(t *Target) float64 {
		if l := t.Overall(); l != nil {
			return orNegative(l.Max)
		}
		return -1
	}},
	{
		name: "denied", unit: unitShare, better: Neutral, points: true,
		value:      func(t *Target) float64 { return share(t.Denied, t.Achieved) },
		ofInterval: func(iv *Interval) float64 { return share(iv.Denied, iv.Achieved) },
	},
	{
		name: "failed", unit: unitShare, better: LowerIsBetter, points: true,
		value:      func(t *Target) float64 { return share(t.Failed+t.Dropped, t.Offered) },
		ofInterval: func(iv *Interval) float64 { return share(iv.Failed+iv.Dropped, iv.Offered) },
	},
	{
		name: "refused", unit: unitShare, better: LowerIsBetter, points: true, optional: true,
		value:      func(t *Target) float64 { return share(t.Refused, t.Offered) },
		ofInterval: func(iv *Interval) float64 { return share(iv.Refused, iv.Offered) },
	},
	{
		name: "server_cpu", unit: unitCPUTime, better: LowerIsBetter, log: true,
		value: func(t *Target) float64 {
			if t.Resources == nil {
				return -1
			}
			return orNegative(t.Resources.ServerCPUPerMillion)
		},
		ofTurn: func(t *Turn) float64 { return orNegative(t.CPUPerMillion) },
	},
}

func percentileOf(p float64) func(*Target) float64 {
	return func(t *Target) float64 { return orNegative(t.Overall().at(p)) }
}

func orNegative(d time.Duration) float64 {
	if d <= 0 {
		return -1
	}
	return float64(d)
}

// samples returns the samples of the metric for a target: one per round if there are
// enough rounds, otherwise one per interval.
func (m *metric) samples(r *Run, t *Target) (s sample, kind string) {
	if m.ofTurn != nil && r.Pairing != nil && len(r.Pairing.Rounds) >= minSamples {
		var values []float64
		for _, round := range r.Pairing.Rounds {
			for i := range round.Turns {
				if round.Turns[i].Target == t.Name {
					values = append(values, m.ofTurn(&round.Turns[i]))
				}
			}
		}
		return m.transformed(values), sampledRounds
	}
	if m.ofInterval == nil {
		return sample{}, ""
	}
	values := make([]float64, 0, len(t.Series))
	for i := range t.Series {
		// A short last interval is not representative.
		if i > 0 && i == len(t.Series)-1 && t.Series[i].Length < t.Series[0].Length/2 {
			continue
		}
		values = append(values, m.ofInterval(&t.Series[i]))
	}
	return m.transformed(values), sampledIntervals
}

func (m *metric) transformed(values []float64) sample {
	kept := values[:0]
	for _, v := range values {
		if v < 0 {
			continue
		}
		if m.log {
			v = math.Log(v)
		}
		kept = append(kept, v)
	}
	return sample{kept, m.log}
}

// formatUnit formats a value for people.
func formatUnit(unit string, v float64) string {
	switch {
	case v < 0:
		return "-"
	case unit == unitTime:
		return formatDuration(nanoseconds(v))
	case unit == unitCPUTime:
		return formatDuration(nanoseconds(v)) + "/M"
	case unit == unitShare:
		return formatPercent(v)
	}
	return formatRate(v)
}
