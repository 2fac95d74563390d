// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

// Ratio is a metric of a target relative to the baseline of its run, by round. Above 1
// the target's value is larger.
type Ratio struct {
	Target   string    `json:"target"`
	Baseline string    `json:"baseline"`
	Metric   string    `json:"metric"` // achieved, p50, p99, server_cpu
	Better   Direction `json:"better"`
	Mean     float64   `json:"mean"` // geometric
	Min      float64   `json:"min"`
	Max      float64   `json:"max"`
	// Low and High are the confidence interval of the mean. They are zero with fewer than
	// five rounds.
	Low    float64   `json:"low,omitempty"`
	High   float64   `json:"high,omitempty"`
	Rounds []float64 `json:"rounds"`
}

// PairedRatios returns the ratios of a run whose targets took turns, and nothing for other
// runs. Only turns of the same round are compared, which removes slow changes such as a
// machine that heats up.
func PairedRatios(r *Run, o CompareOptions) ([]Ratio, error) {
	o, err := o.withDefaults()
	if err != nil || r.Pairing == nil {
		return nil, err
	}
	var out []Ratio
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Name == r.Pairing.Baseline {
			continue
		}
		for j := range metrics {
			m := &metrics[j]
			if m.ofTurn == nil {
				continue
			}
			logs := roundLogs(r.Pairing, t.Name, m)
			if len(logs) == 0 {
				continue
			}
			iv := studentInterval(logs, o.Confidence)
			ratio := Ratio{
				Target: t.Name, Baseline: r.Pairing.Baseline, Metric: m.name, Better: m.better,
				Mean: math.Exp(iv.estimate), Min: math.Exp(slices.Min(logs)), Max: math.Exp(slices.Max(logs)),
			}
			for _, l := range logs {
				ratio.Rounds = append(ratio.Rounds, math.Exp(l))
			}
			if low, high := math.Exp(iv.low), math.Exp(iv.high); iv.ok && finite(low) && finite(high) {
				ratio.Low, ratio.High = low, high
			}
			out = append(out, ratio)
		}
	}
	return out, nil
}

// studentInterval returns the mean of logarithms of ratios with Student's interval. A
// bootstrap is not usable with about five rounds: with one outlier, it mostly draws the
// other four.
func studentInterval(logs []float64, confidence float64) interval {
	level, variance := sample{logs, true}.mean()
	iv := interval{estimate: level, low: level, high: level}
	if len(logs) < minSamples {
		return iv
	}
	t := distuv.StudentsT{Sigma: 1, Nu: float64(len(logs) - 1)}.Quantile((1 + confidence) / 2)
	reach := t * math.Sqrt(variance)
	iv.low, iv.high = level-reach, level+reach
	iv.ok = finite(iv.low) && finite(iv.high)
	return iv
}

// roundLogs returns the logarithm of target over baseline for every round with both.
func roundLogs(p *Pairing, target string, m *metric) []float64 {
	var out []float64
	for _, round := range p.Rounds {
		of, base := -1.0, -1.0
		for i := range round.Turns {
			switch t := &round.Turns[i]; t.Target {
			case target:
				of = m.ofTurn(t)
			case p.Baseline:
				base = m.ofTurn(t)
			}
		}
		if of > 0 && base > 0 {
			out = append(out, math.Log(of/base))
		}
	}
	return out
}
