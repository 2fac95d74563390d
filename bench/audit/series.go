// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"slices"
	"time"
)

// UsageSeries is the usage of a limit over time, as far as it is certain. It exceeds
// the limit only where an [OverAdmission] says so.
type UsageSeries struct {
	LimitRef
	Calls    int64 `json:"calls"`    // admitted
	Admitted int64 `json:"admitted"` // least cost of the whole run; 0 for Concurrent
	// Step is the length of time of a point. Intervals without admissions have no point.
	Step time.Duration `json:"step_ns"`
	// Used counts what the owner admitted: the level of a bucket, the sum of a window,
	// the calls in progress of Concurrent, otherwise the total.
	Used []Point `json:"used"`
	// WithFallback also counts what was admitted in fallback. It is nil if that is nothing.
	WithFallback []Point `json:"with_fallback,omitempty"`
}

// Point is the highest usage within a step that begins at At.
type Point struct {
	At   time.Duration `json:"at_ns"`
	Used int64         `json:"used"`
}

// Capacity returns the value that Used must not exceed.
func (c *UsageSeries) Capacity() int64 {
	if c.Algorithm == TokenBucket && c.Burst != 0 {
		return c.Burst
	}
	return c.Limit
}

// A report has the series of the busiest limits: those with the most admitted cost
// relative to their capacity, taken from the dimensions in turn.
const (
	maxSeries = 12
	maxPoints = 120
	firstStep = int64(50 * time.Millisecond)
)

// rankedSeries is a series that may become part of a report.
type rankedSeries struct {
	UsageSeries
	load int64 // admitted cost in millionths of the capacity
}

func (b *rankedSeries) compare(c *rankedSeries) int {
	return cmp.Or(cmp.Compare(c.load, b.load), cmp.Compare(c.Calls, b.Calls), b.LimitRef.compare(c.LimitRef))
}

// busiest are the busiest series of one dimension.
type busiest struct {
	dimension string
	list      []*rankedSeries // at most mostCourses
}

func (r *Report) busiestOf(dimension string) *busiest {
	for i := range r.busiest {
		if r.busiest[i].dimension == dimension {
			return &r.busiest[i]
		}
	}
	r.busiest = append(r.busiest, busiest{dimension: dimension})
	return &r.busiest[len(r.busiest)-1]
}

// takes reports whether add would keep b.
func (s *busiest) takes(b *rankedSeries) bool {
	return b.load > 0 && (len(s.list) < maxSeries || b.compare(s.list[len(s.list)-1]) < 0)
}

func (s *busiest) add(b *rankedSeries) {
	if !s.takes(b) {
		return
	}
	i, _ := slices.BinarySearchFunc(s.list, b, (*rankedSeries).compare)
	s.list = slices.Insert(s.list, i, b)
	s.list = s.list[:min(len(s.list), maxSeries)]
}

// selectSeries sets UsageSeries to the busiest series, taken from the dimensions in
// turn. The dimensions must be sorted.
func (r *Report) selectSeries() {
	r.UsageSeries = nil
	for i := range maxSeries {
		for _, d := range r.Dimensions {
			list := r.busiestOf(d.Name).list
			if i < len(list) && len(r.UsageSeries) < maxSeries {
				r.UsageSeries = append(r.UsageSeries, list[i].UsageSeries)
			}
		}
	}
}

// usageTracer collects the points of a series. It doubles its step when there are too
// many points.
type usageTracer struct {
	step   int64
	points []tracePoint
}

// tracePoint is a point and the number of its step.
type tracePoint struct{ n, used int64 }

// add adds the usage at a time. Times must not decrease.
func (t *usageTracer) add(at, used int64) {
	if t.step == 0 {
		t.step = firstStep
	}
	if t.put(tracePoint{at / t.step, used}); len(t.points) <= maxPoints {
		return
	}
	fine := t.points
	for t.points = t.points[:0]; ; {
		t.step *= 2
		for _, s := range fine {
			t.put(tracePoint{s.n / 2, s.used})
		}
		if len(t.points) <= maxPoints {
			return
		}
		fine, t.points = t.points, t.points[:0]
	}
}

func (t *usageTracer) put(s tracePoint) {
	if last := len(t.points) - 1; last >= 0 && t.points[last].n == s.n {
		t.points[last].used = max(t.points[last].used, s.used)
		return
	}
	t.points = append(t.points, s)
}

// widen makes the step at least step.
func (t *usageTracer) widen(step int64) {
	for t.step > 0 && t.step < step {
		fine := t.points
		t.points, t.step = t.points[:0], 2*t.step
		for _, s := range fine {
			t.put(tracePoint{s.n / 2, s.used})
		}
	}
}

func (t *usageTracer) series() []Point {
	list := make([]Point, len(t.points))
	for i, s := range t.points {
		list[i] = Point{time.Duration(s.n * t.step), s.used}
	}
	return list
}

// setTraces sets the points of both traces, with the same step.
func (b *rankedSeries) setTraces(all, own *usageTracer) {
	if all == nil {
		return
	}
	all.widen(own.step)
	own.widen(all.step)
	b.Step, b.Used, b.WithFallback = time.Duration(all.step), own.series(), all.series()
}
