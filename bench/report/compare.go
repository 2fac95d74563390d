// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

// CompareOptions configure a comparison. The zero value works.
type CompareOptions struct {
	// FailOver is how many percent worse a metric may be (for shares, percentage points).
	// 0 means that there are no verdicts.
	FailOver float64
	// Metrics are the names of the metrics to compare, see [MetricNames]. Empty means all.
	Metrics []string
	// Confidence is the confidence of all intervals together. 0 means 0.95.
	Confidence float64
	// Resamples is the number of resamples of each interval. 0 means 4,000.
	Resamples int
	// Seed is the seed of the resampling. The same runs and seed give the same intervals.
	Seed uint64
}

// Comparison is the difference of run b from run a.
type Comparison struct {
	FormatVersion int      `json:"format_version"`
	Method        string   `json:"method"`
	FailOver      float64  `json:"fail_over_percent,omitempty"`
	Warnings      []string `json:"warnings,omitempty"` // why the runs may not be comparable
	Deltas        []Delta  `json:"deltas"`
	// Verdict is that of all metrics together: worse if one is, otherwise cannot_tell if one
	// cannot be told or none was judged. It is empty without FailOver.
	Verdict Judgement `json:"verdict,omitempty"`
	// Regressions are sentences about what is worse by more than FailOver.
	Regressions []string `json:"regressions"`
}

// Delta is the change of one metric of one target.
type Delta struct {
	Target string    `json:"target"`
	Metric string    `json:"metric"`
	Unit   string    `json:"unit"` // per_second, ns, share, ns_per_million
	Better Direction `json:"better"`
	A      *float64  `json:"a"` // null if the run does not have it
	B      *float64  `json:"b"`
	// Change is from A to B in percent (for shares, in percentage points), with its
	// confidence interval from Low to High. It is computed from the samples, and can
	// differ a little from A and B. Null means unknown.
	Change  *float64 `json:"change"`
	Low     *float64 `json:"low"`
	High    *float64 `json:"high"`
	Samples [2]int   `json:"samples"`
	Sampled string   `json:"sampled,omitempty"` // intervals, rounds
	Finding Finding  `json:"finding"`
	// Verdict is empty without FailOver, for metrics without samples, such as the maximum,
	// and for those without a better direction.
	Verdict Judgement `json:"verdict,omitempty"`
}

// Finding is the meaning of a change.
type Finding string

// The findings.
const (
	FindingBetter    Finding = "better"
	FindingWorse     Finding = "worse"
	FindingChanged   Finding = "changed" // of a metric without a better direction
	FindingNoChange  Finding = "no_change_shown"
	FindingNotJudged Finding = "not_judged" // too few samples
)

const methodText = "change of the mean of per-interval samples (percentiles: of their logarithms; per round where targets took turns); " +
	"consecutive intervals are averaged in blocks of at most the square root of their number, at least 10 blocks; " +
	"bootstrap-t intervals, %d resamples, seed %d, %s confidence for all %d intervals together (Bonferroni); " +
	"worse: the whole interval is beyond the bound; not worse: the whole interval is within it; otherwise the runs cannot tell; /M: per million decisions"

// minIntervals is how many intervals a run needs for accurate confidence intervals: with
// fewer there are no blocks (see [sample.blocked]), and false changes are about twice as
// likely as the confidence says.
const minIntervals = 20

// MinComparable is the least time of runs that [Compare] judges by their intervals.
const MinComparable = minIntervals * time.Second

// Compare compares run b with run a, target by target. It does not modify them.
func Compare(a, b *Run, o CompareOptions) (*Comparison, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	compared := chosenMetrics(o.Metrics)
	pairs, warnings := match(a, b)
	if len(pairs) == 0 {
		return nil, fmt.Errorf("the runs have no target in common: %s and %s", names(a), names(b))
	}
	c := &Comparison{FormatVersion: FormatVersion, FailOver: o.FailOver, Warnings: append(differences(a, b), warnings...), Regressions: []string{}}
	judged := 0
	for _, p := range pairs {
		for _, m := range compared {
			if _, _, ok := m.both(a, b, p); ok && !m.absent(p) {
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
		if n := min(len(p[0].Series), len(p[1].Series)); n >= minSamples && n < minIntervals {
			c.Warnings = append(c.Warnings, fmt.Sprintf("%s: only %d intervals, too few to judge the changes by, since consecutive ones depend on each other; measure at least %d",
				clean(p[1].Name, 60), n, minIntervals))
		}
	}
	c.Method = fmt.Sprintf(methodText, o.Resamples, o.Seed, formatPercent(o.Confidence), judged)
	for _, p := range pairs {
		for _, m := range compared {
			if d, ok := m.compare(a, b, p, bs); ok {
				if o.FailOver > 0 {
					d.Verdict = m.verdict(&d, o.FailOver)
				}
				c.Deltas = append(c.Deltas, d)
				if d.Verdict == Worse {
					c.Regressions = append(c.Regressions, d.sentence())
				}
			}
		}
		va, vb := p[0].Audit, p[1].Audit
		if o.FailOver > 0 && vb != nil && vb.Verdict == Violated && (va == nil || va.Verdict != Violated) {
			c.Regressions = append(c.Regressions, clean(p[1].Name, 60)+": the audit: "+clean(vb.Summary(), 300))
		}
	}
	if o.FailOver > 0 {
		c.Verdict = c.judge()
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
		return o, fmt.Errorf("confidence: must be at least 0.5 and below 1, got %v", o.Confidence)
	case o.Resamples < 100 || o.Resamples > 1_000_000:
		return o, fmt.Errorf("resamples: must be 100 to 1,000,000, got %d", o.Resamples)
	case !(o.FailOver >= 0) || math.IsInf(o.FailOver, 0):
		return o, fmt.Errorf("fail_over: must be a percentage, got %v", o.FailOver)
	}
	for _, name := range o.Metrics {
		if !slices.Contains(MetricNames(), name) {
			return o, fmt.Errorf("metrics: must be of %s, got %q", strings.Join(MetricNames(), ", "), name)
		}
	}
	return o, nil
}

// match returns the targets that both runs have. If both have a single target, these are
// compared whatever their names.
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

// differences returns differences in the configuration of the runs.
func differences(a, b *Run) []string {
	var out []string
	say := func(what, x, y string) {
		if x != y {
			out = append(out, fmt.Sprintf("%s differs: %s and %s", what, valueOrNone(x), valueOrNone(y)))
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
	say("the number of callers", amount.Group(a.Load.Callers), amount.Group(b.Load.Callers))
	say("the CPU", a.Environment.CPU, b.Environment.CPU)
	say("the number of cores", amount.Group(int64(a.Environment.Cores)), amount.Group(int64(b.Environment.Cores)))
	say("the Go version", a.Environment.Go, b.Environment.Go)
	return out
}

func valueOrNone(s string) string {
	if s == "" {
		return "nothing"
	}
	return clean(s, 80)
}

// absent reports whether an optional metric is zero in both runs.
func (m *metric) absent(p [2]*Target) bool {
	return m.optional && m.value(p[0]) == 0 && m.value(p[1]) == 0
}

// both returns the samples of a metric in both runs, and whether there are enough.
func (m *metric) both(a, b *Run, p [2]*Target) (sa, sb sample, ok bool) {
	sa, ka := m.samples(a, p[0])
	sb, kb := m.samples(b, p[1])
	return sa, sb, ka == kb && len(sa.values) >= minSamples && len(sb.values) >= minSamples
}

func (m *metric) compare(a, b *Run, p [2]*Target, bs *bootstrap) (Delta, bool) {
	va, vb := m.value(p[0]), m.value(p[1])
	d := Delta{Target: p[1].Name, Metric: m.name, Unit: m.unit, Better: m.better, A: optional(va), B: optional(vb), Finding: FindingNotJudged}
	if d.A == nil && d.B == nil || m.absent(p) {
		return d, false
	}
	sa, sb, enough := m.both(a, b, p)
	_, d.Sampled = m.samples(b, p[1])
	d.Samples = [2]int{len(sa.values), len(sb.values)}
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
	var iv interval
	toPercent := func(log float64) float64 { return math.Expm1(log) * 100 }
	if m.points {
		// Shares may be zero, so their difference is compared, not their logarithms.
		sa.log, sb.log = true, true
		toPercent = func(x float64) float64 { return x * 100 }
	}
	iv = bs.ratio(sa, sb)
	d.Change = ifFinite(toPercent(iv.estimate))
	if !iv.ok || d.Change == nil {
		return d, true
	}
	d.Low, d.High = ifFinite(toPercent(iv.low)), ifFinite(toPercent(iv.high))
	if d.Low == nil || d.High == nil || d.tooFewIntervals() {
		return d, true
	}
	worse := *d.Change
	switch {
	case *d.Low <= 0 && *d.High >= 0:
		d.Finding = FindingNoChange
		return d, true
	case m.better == Neutral:
		d.Finding = FindingChanged
		return d, true
	case m.better == HigherIsBetter:
		worse = -worse
	}
	d.Finding = FindingBetter
	if worse > 0 {
		d.Finding = FindingWorse
	}
	return d, true
}

func optional(v float64) *float64 {
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
