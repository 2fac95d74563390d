// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Judgement says whether a run is worse than another by more than a bound.
type Judgement string

// The judgements. Each is made of the whole confidence interval of a change.
const (
	Worse      Judgement = "worse"       // all of the interval is beyond the bound
	NotWorse   Judgement = "not_worse"   // all of it is within the bound
	CannotTell Judgement = "cannot_tell" // the bound is inside the interval, or there is none
)

// MetricNames returns the names of the metrics that are compared.
func MetricNames() []string {
	names := make([]string, len(metrics))
	for i := range metrics {
		names[i] = metrics[i].name
	}
	return names
}

// chosenMetrics returns the metrics with the names, or all.
func chosenMetrics(names []string) (chosen []*metric) {
	for i := range metrics {
		if len(names) == 0 || slices.Contains(names, metrics[i].name) {
			chosen = append(chosen, &metrics[i])
		}
	}
	return chosen
}

// verdict judges the change of a metric against a bound in percent or points.
func (m *metric) verdict(d *Delta, bound float64) Judgement {
	switch {
	case m.better == Neutral, m.ofInterval == nil && d.Sampled == "":
		return ""
	case d.Low == nil || d.High == nil, d.tooFewIntervals():
		return CannotTell
	}
	least, most := *d.Low, *d.High // how much worse it is
	if m.better == HigherIsBetter {
		least, most = -most, -least
	}
	switch {
	case least > bound:
		return Worse
	case most <= bound:
		return NotWorse
	}
	return CannotTell
}

// tooFewIntervals reports whether the samples are so few intervals that their dependence
// makes the confidence interval too narrow.
func (d *Delta) tooFewIntervals() bool {
	return d.Sampled == sampledIntervals && min(d.Samples[0], d.Samples[1]) < minIntervals
}

// judge makes one verdict of those of the metrics and of the audit.
func (c *Comparison) judge() Judgement {
	if len(c.Regressions) > 0 {
		return Worse
	}
	verdict := CannotTell // nothing was judged
	for i := range c.Deltas {
		switch c.Deltas[i].Verdict {
		case CannotTell:
			return CannotTell
		case NotWorse:
			verdict = NotWorse
		}
	}
	return verdict
}

// undecided returns the metrics that cannot be told, each once.
func (c *Comparison) undecided() (list []string) {
	for i := range c.Deltas {
		if d := &c.Deltas[i]; d.Verdict == CannotTell && !slices.Contains(list, d.Metric) {
			list = append(list, d.Metric)
		}
	}
	return list
}

// Remedy says what to do about runs that cannot tell. It is empty for other verdicts.
func (c *Comparison) Remedy() string {
	if c.Verdict != CannotTell {
		return ""
	}
	rounds, intervals := 0, 0 // how many there were
	for i := range c.Deltas {
		d := &c.Deltas[i]
		switch n := min(d.Samples[0], d.Samples[1]); {
		case d.Verdict != CannotTell:
		case d.Sampled == sampledRounds:
			rounds = max(rounds, n)
		case d.Sampled == sampledIntervals:
			intervals = max(intervals, n)
		}
	}
	var what []string
	if intervals > 0 || rounds == 0 {
		seconds := max(minIntervals, 2*intervals)
		what = append(what, fmt.Sprintf("runs with --for %s or more", time.Duration(seconds)*time.Second))
	}
	if rounds > 0 {
		what = append(what, fmt.Sprintf("runs with --rounds %d or more and a longer --for", 2*rounds))
	}
	return strings.Join(append(what, "a larger --fail-over", "only some --metrics"), ", or ")
}
