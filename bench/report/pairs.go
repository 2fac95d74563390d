// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"slices"

	"gonum.org/v1/gonum/stat/distuv"
)

// Ratio is how a target did against the baseline of its run, round by round.
// Above 1 the target's number is larger: good for achieved, bad for the others.
type Ratio struct {
	Target   string  `json:"target"`
	Baseline string  `json:"baseline"`
	Metric   string  `json:"metric"` // achieved, p50, p99, server_cpu
	Better   Better  `json:"better"`
	Mean     float64 `json:"mean"` // geometric
	Min      float64 `json:"min"`
	Max      float64 `json:"max"`
	// Low and High bound the mean with the confidence asked for; zero if there
	// are fewer than five rounds.
	Low    float64   `json:"low,omitempty"`
	High   float64   `json:"high,omitempty"`
	Rounds []float64 `json:"rounds"`
}

// Paired returns the ratios of a run in which targets took turns, and nothing
// for others. Pairing removes what changes slowly, such as a machine that heats
// up: only the two turns of one round are compared.
func Paired(r *Run, o CompareOptions) ([]Ratio, error) {
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
			iv := center(logs, o.Confidence)
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

// center returns the mean of logarithms of ratios, with Student's interval: rounds
// are few, and each is a mean of many calls. A bootstrap of five rounds of which one
// is far off draws mostly the four others, and says nearly anything.
func center(logs []float64, confidence float64) interval {
	level, variance := sample{logs, true}.level()
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

// roundLogs returns the logarithm of target over baseline for every round that
// has both.
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
