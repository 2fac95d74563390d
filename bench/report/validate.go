// SPDX-License-Identifier: Apache-2.0

package report

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

// Bounds of a document. They are far beyond any real run, and bound the cost of reading
// a hostile document.
const (
	maxTargets     = 64
	maxLatencies   = 256
	maxPoints      = 1 << 20
	maxUsageSeries = 24
	maxValue       = amount.Max // exact in every JSON reader
)

// Validate returns all invalid values of a run, each with its field, joined.
func (r *Run) Validate() error {
	v := new(validator)
	if r.FormatVersion != FormatVersion {
		v.fail("format_version", "%v", &VersionError{r.FormatVersion})
	}
	v.nonNegative("load.warmup_ns", int64(r.Load.Warmup))
	v.nonNegative("load.duration_ns", int64(r.Load.Duration))
	v.nonNegative("load.callers", r.Load.Callers)
	v.rate("load.rate_per_second", r.Load.RatePerSecond)
	v.nonNegative("environment.memory_bytes", r.Environment.MemoryBytes)
	if r.Harness != nil {
		v.harness(r.Harness)
	}
	if len(r.Targets) == 0 || len(r.Targets) > maxTargets {
		v.fail("targets", "must have 1 to %d entries, got %d", maxTargets, len(r.Targets))
		return v.err()
	}
	names := make(map[string]bool)
	for i := range r.Targets {
		t := &r.Targets[i]
		at := fmt.Sprintf("targets[%d]", i)
		if t.Name == "" || names[t.Name] {
			v.fail(at+".name", "must be unique and not empty, got %q", t.Name)
		}
		names[t.Name] = true
		v.target(at, t)
	}
	if r.Pairing != nil {
		v.pairing(r.Pairing, names)
	}
	return v.err()
}

type validator struct{ errs []error }

func (v *validator) err() error { return errors.Join(v.errs...) }

func (v *validator) fail(field, format string, args ...any) {
	if len(v.errs) < 20 { // more would not help
		v.errs = append(v.errs, fmt.Errorf(field+": "+format, args...))
	}
}

func (v *validator) nonNegative(field string, n int64) {
	if n < 0 || n > maxValue {
		v.fail(field, "must be 0 to 2^53, got %d", n)
	}
}

func (v *validator) rate(field string, f float64) {
	if !(f >= 0 && f <= 1e15) {
		v.fail(field, "must be a rate, got %v", f)
	}
}

func (v *validator) size(field string, n, limit int) bool {
	if n > limit {
		v.fail(field, "must have at most %d entries, got %d", limit, n)
	}
	return n <= limit
}

func (v *validator) counts(at string, c *Counts) {
	for _, f := range []struct {
		name string
		n    int64
	}{
		{"offered", c.Offered},
		{"achieved", c.Achieved},
		{"denied", c.Denied},
		{"degraded", c.Degraded},
		{"failed", c.Failed},
		{"refused", c.Refused},
		{"dropped", c.Dropped},
	} {
		v.nonNegative(at+"."+f.name, f.n)
	}
}

func (v *validator) target(at string, t *Target) {
	v.nonNegative(at+".duration_ns", int64(t.Duration))
	v.counts(at, &t.Counts)
	v.nonNegative(at+".in_time", t.Completed)
	v.nonNegative(at+".unfinished", t.Unfinished)
	v.nonNegative(at+".held_back", t.HeldBack)
	v.llm(at+".llm", &t.LLM)
	if p := t.Pacer; p != nil {
		for _, n := range []int64{int64(p.P50), int64(p.P99), int64(p.Max), p.Missed} {
			v.nonNegative(at+".pacer", n)
		}
		v.rate(at+".pacer.kept_per_second", p.KeptRate)
	}
	if v.size(at+".latencies", len(t.Latencies), maxLatencies) {
		for i := range t.Latencies {
			v.latency(fmt.Sprintf("%s.latencies[%d]", at, i), &t.Latencies[i])
		}
	}
	if v.size(at+".series", len(t.Series), maxPoints) {
		v.series(at+".series", t.Series)
	}
	if v.size(at+".marks", len(t.Marks), maxPoints) {
		for i, m := range t.Marks {
			v.nonNegative(fmt.Sprintf("%s.marks[%d].at_ns", at, i), int64(m.At))
		}
	}
	for i, e := range t.Errors {
		v.nonNegative(fmt.Sprintf("%s.errors[%d].count", at, i), e.Count)
	}
	if res := t.Resources; res != nil {
		at := at + ".resources"
		v.nonNegative(at+".client_cpu_per_million_ns", int64(res.ClientCPUPerMillion))
		v.nonNegative(at+".server_cpu_per_million_ns", int64(res.ServerCPUPerMillion))
		v.process(at+".client", &res.Client)
		if v.size(at+".servers", len(res.Servers), 4096) {
			for i := range res.Servers {
				v.process(fmt.Sprintf("%s.servers[%d]", at, i), &res.Servers[i])
			}
		}
	}
	if t.Audit != nil {
		v.audit(at+".audit", t.Audit)
	}
	if t.Overload != nil {
		v.overload(at+".overload", t.Overload)
	}
}

func (v *validator) llm(at string, l *LLMCounts) {
	for _, n := range []int64{l.Held, l.Reported, l.Settled, l.CutShort, l.SettlesFailed, l.ReportsFailed} {
		v.nonNegative(at, n)
	}
}

func (v *validator) latency(at string, l *Latency) {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"min_ns", l.Min}, {"mean_ns", l.Mean}, {"max_ns", l.Max}} {
		v.nonNegative(at+"."+d.name, int64(d.value))
	}
	for i, p := range l.Percentiles {
		if !(p.Percentile >= 0 && p.Percentile <= 100) {
			v.fail(fmt.Sprintf("%s.percentiles[%d].percentile", at, i), "must be 0 to 100, got %v", p.Percentile)
		}
		v.nonNegative(fmt.Sprintf("%s.percentiles[%d].value_ns", at, i), int64(p.Value))
	}
	h, err := l.Histogram()
	if err != nil {
		v.fail(at, "%v", err)
		return
	}
	if h.TotalCount() != l.Count {
		v.fail(at+".count", "must be the count of the histogram, %d, got %d", h.TotalCount(), l.Count)
	}
	v.nonNegative(at+".count", l.Count)
	if h.Max() > maxValue {
		v.fail(at+".hdr", "must not have values above 2^53 ns")
	}
}

func (v *validator) series(at string, s []Interval) {
	var end time.Duration
	for i := range s {
		at := fmt.Sprintf("%s[%d]", at, i)
		iv := &s[i]
		if iv.At < end || iv.Length <= 0 || iv.Length > maxValue || iv.At > maxValue {
			v.fail(at, "intervals must be in order and not empty, got at_ns %d, length_ns %d", iv.At, iv.Length)
			return
		}
		end = iv.At + iv.Length
		v.counts(at, &iv.Counts)
		v.nonNegative(at+".p50_ns", int64(iv.P50))
		v.nonNegative(at+".p99_ns", int64(iv.P99))
	}
}

func (v *validator) process(at string, p *Process) {
	v.nonNegative(at+".cpu_ns", int64(p.CPU))
	v.nonNegative(at+".peak_rss_bytes", p.PeakRSS)
	if !v.size(at+".samples", len(p.Samples), maxPoints) {
		return
	}
	last := time.Duration(0)
	for i, s := range p.Samples {
		at := fmt.Sprintf("%s.samples[%d]", at, i)
		if s.At < last {
			v.fail(at+".at_ns", "must not decrease, got %d", s.At)
			return
		}
		last = s.At
		v.nonNegative(at+".at_ns", int64(s.At))
		v.nonNegative(at+".cpu_ns", int64(s.CPU))
		v.nonNegative(at+".rss_bytes", s.RSS)
	}
}

func (v *validator) audit(at string, a *Audit) {
	switch a.Verdict {
	case Exact, WithinMargin, Violated, NotAudited:
	default:
		v.fail(at+".verdict", "must be exact, within_margin, violated or not_audited, got %q", a.Verdict)
	}
	for _, f := range []struct {
		name string
		n    int64
	}{
		{"calls", a.Calls},
		{"accounts", a.Limits},
		{"margin_ns", int64(a.Margin)},
		{"over_admitted", a.OverAdmitted},
		{"under_admitted", a.UnderAdmitted},
		{"double_charges", a.DoubleCharges},
		{"lost_settles", a.LostSettles},
	} {
		v.nonNegative(at+"."+f.name, f.n)
	}
	v.courses(at+".courses", a.UsageSeries)
	if !v.size(at+".worst", len(a.Worst), 4096) {
		return
	}
	for i, w := range a.Worst {
		at := fmt.Sprintf("%s.worst[%d]", at, i)
		for _, f := range []struct {
			name string
			n    int64
		}{{"allowed", w.Allowed}, {"margin", w.Margin}, {"admitted", w.Admitted}, {"over", w.Over}, {"under", w.Under}} {
			v.nonNegative(at+"."+f.name, f.n)
		}
	}
}

func (v *validator) courses(at string, list []UsageSeries) {
	if !v.size(at, len(list), maxUsageSeries) {
		return
	}
	for i := range list {
		at, k := fmt.Sprintf("%s[%d]", at, i), &list[i]
		for _, f := range []struct {
			name string
			n    int64
		}{{"allowed", k.Allowed}, {"calls", k.Calls}, {"admitted", k.Admitted}} {
			v.nonNegative(at+"."+f.name, f.n)
		}
		if k.Step <= 0 || k.Step > maxValue {
			v.fail(at+".step_ns", "must be above 0, got %d", k.Step)
			return
		}
		if !v.size(at+".points", len(k.Points), 1024) {
			return
		}
		var end time.Duration
		for j, p := range k.Points {
			at := fmt.Sprintf("%s.points[%d]", at, j)
			if p.At < end || p.At > maxValue {
				v.fail(at+".at_ns", "points must be at least a step apart, got %d", p.At)
				return
			}
			end = p.At + k.Step
			v.nonNegative(at+".used", p.Used)
			v.nonNegative(at+".with_fallback", p.WithFallback)
			if p.WithFallback < p.Used {
				v.fail(at+".with_fallback", "must be at least used, %d, got %d", p.Used, p.WithFallback)
			}
		}
	}
}

func (v *validator) pairing(p *Pairing, names map[string]bool) {
	if !names[p.Baseline] {
		v.fail("pairing.baseline", "must be a target, got %q", p.Baseline)
	}
	if !v.size("pairing.rounds", len(p.Rounds), 1<<16) {
		return
	}
	for i, round := range p.Rounds {
		seen := make(map[string]bool)
		for j, t := range round.Turns {
			at := fmt.Sprintf("pairing.rounds[%d].turns[%d]", i, j)
			if !names[t.Target] || seen[t.Target] {
				v.fail(at+".target", "must be a target without another turn in the round, got %q", t.Target)
			}
			seen[t.Target] = true
			v.rate(at+".rate_per_second", t.RatePerSecond)
			v.nonNegative(at+".p50_ns", int64(t.P50))
			v.nonNegative(at+".p99_ns", int64(t.P99))
			v.nonNegative(at+".cpu_per_million_ns", int64(t.CPUPerMillion))
		}
	}
}

// finite reports whether a computed number is neither NaN nor infinite.
func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }
