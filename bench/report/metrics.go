// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"time"
)

// Better says which way a metric should go.
type Better string

// The directions.
const (
	Higher  Better = "higher"
	Lower   Better = "lower"
	Neither Better = "neither"
)

// metric is one number of a target and the samples that it comes from.
type metric struct {
	name, unit string
	better     Better
	// value is the number for a whole run; negative if the run has none.
	value func(*Target) float64
	// ofInterval and ofTurn are its samples; nil if there are none of that kind,
	// and negative values where there is none.
	ofInterval func(*Interval) float64
	ofTurn     func(*Turn) float64
	log        bool // compare logarithms: the values are never zero
	points     bool // a share: its change is in percentage points
}

// The units of metrics.
const (
	unitRate    = "per_second"
	unitTime    = "ns"
	unitShare   = "share"
	unitCPUTime = "ns_per_million"
)

// metrics are what is compared, in the order in which it is shown.
var metrics = []metric{
	{
		name: "achieved", unit: unitRate, better: Higher,
		value:      (*Target).Rate,
		ofInterval: func(iv *Interval) float64 { return perSecond(iv.Achieved, iv.Length) },
		ofTurn:     func(t *Turn) float64 { return t.RatePerSecond },
	},
	{
		name: "p50", unit: unitTime, better: Lower, log: true,
		value:      percentileOf(50),
		ofInterval: func(iv *Interval) float64 { return orNone(iv.P50) },
		ofTurn:     func(t *Turn) float64 { return orNone(t.P50) },
	},
	{
		name: "p99", unit: unitTime, better: Lower, log: true,
		value:      percentileOf(99),
		ofInterval: func(iv *Interval) float64 { return orNone(iv.P99) },
		ofTurn:     func(t *Turn) float64 { return orNone(t.P99) },
	},
	{name: "p99.9", unit: unitTime, better: Lower, value: percentileOf(99.9)},
	{name: "max", unit: unitTime, better: Lower, value: func(t *Target) float64 {
		if l := t.Overall(); l != nil {
			return orNone(l.Max)
		}
		return -1
	}},
	{
		name: "denied", unit: unitShare, better: Neither, points: true,
		value:      func(t *Target) float64 { return share(t.Denied, t.Achieved) },
		ofInterval: func(iv *Interval) float64 { return share(iv.Denied, iv.Achieved) },
	},
	{
		name: "failed", unit: unitShare, better: Lower, points: true,
		value:      func(t *Target) float64 { return share(t.Failed+t.Dropped, t.Offered) },
		ofInterval: func(iv *Interval) float64 { return share(iv.Failed+iv.Dropped, iv.Offered) },
	},
	{
		name: "server_cpu", unit: unitCPUTime, better: Lower, log: true,
		value: func(t *Target) float64 {
			if t.Resources == nil {
				return -1
			}
			return orNone(t.Resources.ServerCPUPerMillion)
		},
		ofTurn: func(t *Turn) float64 { return orNone(t.CPUPerMillion) },
	},
}

func percentileOf(p float64) func(*Target) float64 {
	return func(t *Target) float64 { return orNone(t.Overall().at(p)) }
}

func orNone(d time.Duration) float64 {
	if d <= 0 {
		return -1
	}
	return float64(d)
}

// samples returns what the metric has for a target of a run: of its rounds if
// they are enough, else of its seconds.
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
		return m.transformed(values), "rounds"
	}
	if m.ofInterval == nil {
		return sample{}, ""
	}
	values := make([]float64, 0, len(t.Series))
	for i := range t.Series {
		// A last interval that was cut short says little.
		if i > 0 && i == len(t.Series)-1 && t.Series[i].Length < t.Series[0].Length/2 {
			continue
		}
		values = append(values, m.ofInterval(&t.Series[i]))
	}
	return m.transformed(values), "intervals"
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

// formatUnit prints a value for people.
func formatUnit(unit string, v float64) string {
	switch {
	case v < 0:
		return "-"
	case unit == unitTime:
		return duration(nanoseconds(v))
	case unit == unitCPUTime:
		return duration(nanoseconds(v))
	case unit == unitShare:
		return percent(v)
	}
	return perSec(v)
}
