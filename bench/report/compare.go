// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
)

// CompareOptions say how two runs are compared; the zero value is fine.
type CompareOptions struct {
	// FailOver is how many percent worse a metric may be before it is a
	// regression (for shares: percentage points). Zero: nothing is.
	FailOver float64
	// Confidence is that of all intervals together, 0.95 if zero.
	Confidence float64
	// Resamples of each interval, 4,000 if zero.
	Resamples int
	// Seed of the resampling: the same runs and seed give the same intervals.
	Seed uint64
}

// Comparison is how run b differs from run a.
type Comparison struct {
	FormatVersion int      `json:"format_version"`
	Method        string   `json:"method"`
	FailOver      float64  `json:"fail_over_percent,omitempty"`
	Warnings      []string `json:"warnings,omitempty"` // what makes the runs hard to compare
	Deltas        []Delta  `json:"deltas"`
	// Regressions say what got worse than FailOver allows, one sentence each.
	Regressions []string `json:"regressions"`
}

// Delta is the change of one metric of one target.
type Delta struct {
	Target string   `json:"target"`
	Metric string   `json:"metric"`
	Unit   string   `json:"unit"` // per_second, ns, share, ns_per_million
	Better Better   `json:"better"`
	A      *float64 `json:"a"` // null: that run does not have it
	B      *float64 `json:"b"`
	// Change is from A to B, in percent (of a share: in percentage points), and
	// Low and High are where it may be. It is that of the samples, which can
	// differ a little from that of A and B. Null if it is not known.
	Change   *float64 `json:"change"`
	Low      *float64 `json:"low"`
	High     *float64 `json:"high"`
	Samples  [2]int   `json:"samples"`
	Sampled  string   `json:"sampled,omitempty"` // intervals, rounds
	Finding  Finding  `json:"finding"`
	Exceeded bool     `json:"exceeded"` // it is a regression
}

// Finding is what a change means.
type Finding string

// The findings.
const (
	BetterNow Finding = "better"
	WorseNow  Finding = "worse"
	Changed   Finding = "changed" // and neither way is better
	NoChange  Finding = "no_change_shown"
	NotJudged Finding = "not_judged" // a single number has no spread
)

const methodText = "change of the mean of per-interval samples (percentiles: of their logarithms; per round where targets took turns); " +
	"consecutive intervals are averaged in blocks of at most the square root of their number, at least 10 blocks; " +
	"bootstrap-t intervals, %d resamples, seed %d, %s confidence for all %d together (Bonferroni); " +
	"a regression is worse by more than the bound, with an interval that excludes no change"

// enoughIntervals is how many a run needs for intervals that keep their promise:
// with fewer there are no blocks (see [sample.blocked]).
const enoughIntervals = 20

// Compare compares run b with run a, target by target. It does not change them.
func Compare(a, b *Run, o CompareOptions) (*Comparison, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	pairs, warnings := match(a, b)
	if len(pairs) == 0 {
		return nil, fmt.Errorf("no target is in both runs: %s and %s", names(a), names(b))
	}
	c := &Comparison{FormatVersion: FormatVersion, FailOver: o.FailOver, Warnings: append(differences(a, b), warnings...), Regressions: []string{}}
	judged := 0
	for _, p := range pairs {
		for i := range metrics {
			if _, _, ok := metrics[i].both(a, b, p); ok {
				judged++
			}
		}
	}
	bs := &bootstrap{
		resamples:  o.Resamples,
		confidence: 1 - (1-o.Confidence)/float64(max(judged, 1)),
		random:     rand.New(rand.NewPCG(o.Seed, 0x6275636b)),
	}
	for _, p := range pairs {
		if n := min(len(p[0].Series), len(p[1].Series)); n >= minSamples && n < enoughIntervals {
			c.Warnings = append(c.Warnings, fmt.Sprintf("%s: only %d intervals: they depend on each other, and a change that is none is shown about twice as often as the confidence says; measure at least %d",
				clean(p[1].Name, 60), n, enoughIntervals))
		}
	}
	c.Method = fmt.Sprintf(methodText, o.Resamples, o.Seed, percent(o.Confidence), judged)
	for _, p := range pairs {
		for i := range metrics {
			if d, ok := metrics[i].compare(a, b, p, bs, o.FailOver); ok {
				c.Deltas = append(c.Deltas, d)
				if d.Exceeded {
					c.Regressions = append(c.Regressions, d.sentence())
				}
			}
		}
		va, vb := p[0].Audit, p[1].Audit
		if o.FailOver > 0 && vb != nil && vb.Verdict == Violated && (va == nil || va.Verdict != Violated) {
			c.Regressions = append(c.Regressions, clean(p[1].Name, 60)+": the audit: "+clean(vb.Words(), 300))
		}
	}
	return c, nil
}

func (o CompareOptions) withDefaults() (CompareOptions, error) {
	if o.Confidence == 0 {
		o.Confidence = 0.95
	}
	if o.Resamples == 0 {
		o.Resamples = 4000
	}
	switch {
	case !(o.Confidence >= 0.5 && o.Confidence < 1):
		return o, fmt.Errorf("confidence: %v is not between 0.5 and 1", o.Confidence)
	case o.Resamples < 100 || o.Resamples > 1_000_000:
		return o, fmt.Errorf("resamples: %d is not between 100 and 1,000,000", o.Resamples)
	case !(o.FailOver >= 0) || math.IsInf(o.FailOver, 0):
		return o, fmt.Errorf("fail over: %v is not a percentage", o.FailOver)
	}
	return o, nil
}

// match finds the targets that both runs have. Two runs of one target each are
// compared whatever their names: that is what comparing two addresses means.
func match(a, b *Run) (pairs [][2]*Target, warnings []string) {
	if len(a.Targets) == 1 && len(b.Targets) == 1 {
		x, y := &a.Targets[0], &b.Targets[0]
		if x.Name != y.Name {
			warnings = append(warnings, fmt.Sprintf("the targets differ: %s and %s", clean(x.Name, 60), clean(y.Name, 60)))
		}
		return [][2]*Target{{x, y}}, warnings
	}
	for i := range a.Targets {
		for j := range b.Targets {
			if a.Targets[i].Name == b.Targets[j].Name {
				pairs = append(pairs, [2]*Target{&a.Targets[i], &b.Targets[j]})
			}
		}
	}
	if len(pairs) < len(a.Targets) || len(pairs) < len(b.Targets) {
		warnings = append(warnings, "only targets that are in both runs are compared")
	}
	return pairs, warnings
}

func names(r *Run) string {
	var out []string
	for i := range r.Targets {
		out = append(out, clean(r.Targets[i].Name, 40))
	}
	return strings.Join(out, ", ")
}

// differences says what else changed between the runs.
func differences(a, b *Run) []string {
	var out []string
	say := func(what, x, y string) {
		if x != y {
			out = append(out, fmt.Sprintf("%s differs: %s and %s", what, orNothing(x), orNothing(y)))
		}
	}
	for _, r := range []*Run{a, b} {
		for i := range r.Targets {
			if w := r.Targets[i].warning(); w != "" {
				out = append(out, clean(r.Targets[i].Name, 60)+": "+w)
			}
		}
	}
	say("the workload", a.Load.Workload, b.Load.Workload)
	say("the loop", a.Load.Loop, b.Load.Loop)
	say("arrivals", a.Load.Arrivals, b.Load.Arrivals)
	say("the rate", formatFloat(a.Load.RatePerSecond), formatFloat(b.Load.RatePerSecond))
	say("the number of callers", thousands(a.Load.Callers), thousands(b.Load.Callers))
	say("the CPU", a.Environment.CPU, b.Environment.CPU)
	say("the number of cores", thousands(int64(a.Environment.Cores)), thousands(int64(b.Environment.Cores)))
	say("the Go version", a.Environment.Go, b.Environment.Go)
	return out
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return clean(s, 80)
}

// both returns the samples of a metric, if they are enough on both sides.
func (m *metric) both(a, b *Run, p [2]*Target) (sa, sb sample, ok bool) {
	sa, ka := m.samples(a, p[0])
	sb, kb := m.samples(b, p[1])
	return sa, sb, ka == kb && len(sa.values) >= minSamples && len(sb.values) >= minSamples
}

func (m *metric) compare(a, b *Run, p [2]*Target, bs *bootstrap, failOver float64) (Delta, bool) {
	va, vb := m.value(p[0]), m.value(p[1])
	d := Delta{Target: p[1].Name, Metric: m.name, Unit: m.unit, Better: m.better, A: known(va), B: known(vb), Finding: NotJudged}
	if d.A == nil && d.B == nil {
		return d, false
	}
	sa, sb, enough := m.both(a, b, p)
	if !enough {
		switch {
		case d.A == nil || d.B == nil:
		case m.points:
			d.Change = ifFinite((vb - va) * 100)
		case va > 0:
			d.Change = ifFinite((vb/va - 1) * 100)
		}
		return d, true
	}
	_, d.Sampled = m.samples(b, p[1])
	d.Samples = [2]int{len(sa.values), len(sb.values)}
	var iv interval
	toPercent := func(log float64) float64 { return math.Expm1(log) * 100 }
	if m.points {
		// Shares may be zero: compare them as they are, not their logarithms.
		sa.log, sb.log = true, true
		toPercent = func(x float64) float64 { return x * 100 }
	}
	iv = bs.ratio(sa, sb)
	d.Change = ifFinite(toPercent(iv.estimate))
	if !iv.ok || d.Change == nil {
		return d, true
	}
	d.Low, d.High = ifFinite(toPercent(iv.low)), ifFinite(toPercent(iv.high))
	if d.Low == nil || d.High == nil {
		return d, true
	}
	worse := *d.Change
	switch {
	case *d.Low <= 0 && *d.High >= 0:
		d.Finding = NoChange
		return d, true
	case m.better == Neither:
		d.Finding = Changed
		return d, true
	case m.better == Higher:
		worse = -worse
	}
	d.Finding = BetterNow
	if worse > 0 {
		d.Finding = WorseNow
	}
	d.Exceeded = failOver > 0 && worse > failOver
	return d, true
}

func known(v float64) *float64 {
	if v < 0 {
		return nil
	}
	return ifFinite(v)
}

func ifFinite(v float64) *float64 {
	if !finite(v) {
		return nil
	}
	return &v
}

func (d *Delta) sentence() string {
	return fmt.Sprintf("%s: %s is worse by %s (%s to %s): %s, was %s", clean(d.Target, 60), d.Metric,
		d.change(math.Abs(*d.Change)), d.signed(*d.Low), d.signed(*d.High), d.value(d.B), d.value(d.A))
}

func (d *Delta) value(v *float64) string {
	if v == nil {
		return "-"
	}
	return formatUnit(d.Unit, *v)
}

func (d *Delta) signed(change float64) string {
	if d.Unit == unitShare {
		return fmt.Sprintf("%+.2f points", change)
	}
	return signedPercent(change)
}

func (d *Delta) change(change float64) string { return strings.TrimPrefix(d.signed(change), "+") }
