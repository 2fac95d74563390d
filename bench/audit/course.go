// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"slices"
	"time"
)

// Course is how much of a limit was used over time: what the auditor is sure of,
// so it is above the limit only where a finding says so.
type Course struct {
	Which
	Calls    int64 `json:"calls"`    // admitted
	Admitted int64 `json:"admitted"` // in the whole run, at least; of Concurrent nothing
	// Step is the time that a point stands for. Where nothing was admitted there is
	// none.
	Step time.Duration `json:"step_ns"`
	// Used is what counted against the limit, fallback aside: of a bucket its level,
	// of a window what was admitted in it, of Concurrent what was held, else all.
	Used []Point `json:"used"`
	// WithFallback counts what fallback admitted, too. Nil: it admitted nothing.
	WithFallback []Point `json:"with_fallback,omitempty"`
}

// Point is the most that was used at any time from At on, until a step later.
type Point struct {
	At   time.Duration `json:"at_ns"`
	Used int64         `json:"used"`
}

// Capacity is what Used is to be held against.
func (c *Course) Capacity() int64 {
	if c.Algorithm == TokenBucket && c.Burst != 0 {
		return c.Burst
	}
	return c.Limit
}

// A report has the courses of the busiest limits: those whose admitted calls were
// the most in relation to what they allow at once, each dimension in its turn.
const (
	mostCourses = 12
	mostPoints  = 120
	firstStep   = int64(50 * time.Millisecond)
)

// busy is a course on its way into a report.
type busy struct {
	Course
	load int64 // in millionths of the limit
}

func (b *busy) compare(c *busy) int {
	return cmp.Or(cmp.Compare(c.load, b.load), cmp.Compare(c.Calls, b.Calls), b.Which.compare(c.Which))
}

// busiest are the courses of one dimension, the busiest first.
type busiest struct {
	dimension string
	list      []*busy // at most mostCourses
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
func (s *busiest) takes(b *busy) bool {
	return b.load > 0 && (len(s.list) < mostCourses || b.compare(s.list[len(s.list)-1]) < 0)
}

func (s *busiest) add(b *busy) {
	if !s.takes(b) {
		return
	}
	i, _ := slices.BinarySearchFunc(s.list, b, (*busy).compare)
	s.list = slices.Insert(s.list, i, b)
	s.list = s.list[:min(len(s.list), mostCourses)]
}

// courses puts the busiest of each dimension into the report, in turns. The
// dimensions are in order.
func (r *Report) courses() {
	r.Courses = nil
	for i := range mostCourses {
		for _, d := range r.Dimensions {
			list := r.busiestOf(d.Name).list
			if i < len(list) && len(r.Courses) < mostCourses {
				r.Courses = append(r.Courses, list[i].Course)
			}
		}
	}
}

// tracer collects the points of a course. Its step grows with the time that there
// is to show.
type tracer struct {
	step   int64
	points []slot
}

// slot is a point by the number of its step.
type slot struct{ n, used int64 }

// add takes what was used at a time, which is never before the last one.
func (t *tracer) add(at, used int64) {
	if t.step == 0 {
		t.step = firstStep
	}
	if t.put(slot{at / t.step, used}); len(t.points) <= mostPoints {
		return
	}
	fine := t.points
	for t.points = t.points[:0]; ; {
		t.step *= 2
		for _, s := range fine {
			t.put(slot{s.n / 2, s.used})
		}
		if len(t.points) <= mostPoints {
			return
		}
		fine, t.points = t.points, t.points[:0]
	}
}

func (t *tracer) put(s slot) {
	if last := len(t.points) - 1; last >= 0 && t.points[last].n == s.n {
		t.points[last].used = max(t.points[last].used, s.used)
		return
	}
	t.points = append(t.points, s)
}

// widen makes the step at least that.
func (t *tracer) widen(step int64) {
	for t.step > 0 && t.step < step {
		fine := t.points
		t.points, t.step = t.points[:0], 2*t.step
		for _, s := range fine {
			t.put(slot{s.n / 2, s.used})
		}
	}
}

func (t *tracer) course() []Point {
	list := make([]Point, len(t.points))
	for i, s := range t.points {
		list[i] = Point{time.Duration(s.n * t.step), s.used}
	}
	return list
}

// withFallback sets the points of both traces, in the same steps.
func (b *busy) withFallback(all, own *tracer) {
	if all == nil {
		return
	}
	all.widen(own.step)
	own.widen(all.step)
	b.Step, b.Used, b.WithFallback = time.Duration(all.step), own.course(), all.course()
}
