// SPDX-License-Identifier: Apache-2.0

package report

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// Bounds of what a document may hold. They are far beyond any run, and keep a
// hostile document from costing hours.
const (
	maxTargets   = 64
	maxLatencies = 256
	maxPoints    = 1 << 20
	maxCourses   = 24
	maxValue     = 1 << 53 // what every reader of JSON can hold
)

// Validate reports everything in a run that cannot be, each with its field.
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
		v.fail("targets", "%d, there must be 1 to %d", len(r.Targets), maxTargets)
		return v.err()
	}
	names := make(map[string]bool)
	for i := range r.Targets {
		t := &r.Targets[i]
		at := fmt.Sprintf("targets[%d]", i)
		if t.Name == "" || names[t.Name] {
			v.fail(at+".name", "%q is empty or stands there twice", t.Name)
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
	if len(v.errs) < 20 { // more helps nobody
		v.errs = append(v.errs, fmt.Errorf(field+": "+format, args...))
	}
}

func (v *validator) nonNegative(field string, n int64) {
	if n < 0 || n > maxValue {
		v.fail(field, "%d is not between 0 and 2^53", n)
	}
}

func (v *validator) rate(field string, f float64) {
	if !(f >= 0 && f <= 1e15) {
		v.fail(field, "%v is not a rate", f)
	}
}

func (v *validator) size(field string, n, limit int) bool {
	if n > limit {
		v.fail(field, "%d entries, at most %d are read", n, limit)
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
		{"dropped", c.Dropped},
	} {
		v.nonNegative(at+"."+f.name, f.n)
	}
}

func (v *validator) target(at string, t *Target) {
	v.nonNegative(at+".duration_ns", int64(t.Duration))
	v.counts(at, &t.Counts)
	v.nonNegative(at+".in_time", t.InTime)
	v.nonNegative(at+".unfinished", t.Unfinished)
	for _, n := range []int64{t.LLM.Held, t.LLM.Reported, t.LLM.Settled, t.LLM.CutShort, t.LLM.Lost, t.LLM.ReportsFailed} {
		v.nonNegative(at+".llm", n)
	}
	if p := t.Pacer; p != nil {
		for _, n := range []int64{int64(p.P50), int64(p.P99), int64(p.Max), p.Missed} {
			v.nonNegative(at+".pacer", n)
		}
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
			v.fail(fmt.Sprintf("%s.percentiles[%d].percentile", at, i), "%v is not between 0 and 100", p.Percentile)
		}
		v.nonNegative(fmt.Sprintf("%s.percentiles[%d].value_ns", at, i), int64(p.Value))
	}
	h, err := l.Histogram()
	if err != nil {
		v.fail(at, "%v", err)
		return
	}
	if h.TotalCount() != l.Count {
		v.fail(at+".count", "%d, but the histogram holds %d", l.Count, h.TotalCount())
	}
	v.nonNegative(at+".count", l.Count)
	if h.Max() > maxValue {
		v.fail(at+".hdr", "holds values beyond 2^53 ns")
	}
}

func (v *validator) series(at string, s []Interval) {
	var end time.Duration
	for i := range s {
		at := fmt.Sprintf("%s[%d]", at, i)
		iv := &s[i]
		if iv.At < end || iv.Length <= 0 || iv.Length > maxValue || iv.At > maxValue {
			v.fail(at, "at_ns %d, length_ns %d: intervals follow each other and have a length", iv.At, iv.Length)
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
			v.fail(at+".at_ns", "%d is before the sample before it", s.At)
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
		v.fail(at+".verdict", "%q is not one of exact, within_margin, violated, not_audited", a.Verdict)
	}
	for _, f := range []struct {
		name string
		n    int64
	}{
		{"calls", a.Calls},
		{"accounts", a.Accounts},
		{"margin_ns", int64(a.Margin)},
		{"over_admitted", a.OverAdmitted},
		{"under_admitted", a.UnderAdmitted},
		{"double_charges", a.DoubleCharges},
		{"lost_settles", a.LostSettles},
	} {
		v.nonNegative(at+"."+f.name, f.n)
	}
	v.courses(at+".courses", a.Courses)
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

func (v *validator) courses(at string, list []Course) {
	if !v.size(at, len(list), maxCourses) {
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
			v.fail(at+".step_ns", "%d is not a length of time", k.Step)
			return
		}
		if !v.size(at+".points", len(k.Points), 1024) {
			return
		}
		var end time.Duration
		for j, p := range k.Points {
			at := fmt.Sprintf("%s.points[%d]", at, j)
			if p.At < end || p.At > maxValue {
				v.fail(at+".at_ns", "%d: points follow each other, at least a step apart", p.At)
				return
			}
			end = p.At + k.Step
			v.nonNegative(at+".used", p.Used)
			v.nonNegative(at+".with_fallback", p.WithFallback)
			if p.WithFallback < p.Used {
				v.fail(at+".with_fallback", "%d is less than without it, %d", p.WithFallback, p.Used)
			}
		}
	}
}

func (v *validator) pairing(p *Pairing, names map[string]bool) {
	if !names[p.Baseline] {
		v.fail("pairing.baseline", "%q is not a target", p.Baseline)
	}
	if !v.size("pairing.rounds", len(p.Rounds), 1<<16) {
		return
	}
	for i, round := range p.Rounds {
		seen := make(map[string]bool)
		for j, t := range round.Turns {
			at := fmt.Sprintf("pairing.rounds[%d].turns[%d]", i, j)
			if !names[t.Target] || seen[t.Target] {
				v.fail(at+".target", "%q is not a target, or had its turn", t.Target)
			}
			seen[t.Target] = true
			v.rate(at+".rate_per_second", t.RatePerSecond)
			v.nonNegative(at+".p50_ns", int64(t.P50))
			v.nonNegative(at+".p99_ns", int64(t.P99))
			v.nonNegative(at+".cpu_per_million_ns", int64(t.CPUPerMillion))
		}
	}
}

// finite is for numbers that were computed from numbers of a document.
func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }
