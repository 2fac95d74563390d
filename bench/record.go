// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"cmp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	maxRoutes     = 16 // names of routes that are kept apart; the rest is "other"
	maxErrors     = 32 // messages of errors, the same way
	maxErrorBytes = 200
	other         = "other"
)

// recorder collects what happened. Each goroutine that records has a shard, so
// that they hardly ever wait for each other.
type recorder struct {
	window window
	shards []shard
}

// window is the measured part of a run and how it is cut into intervals.
type window struct {
	from     time.Duration // the end of the warm-up
	interval time.Duration
	warm     int          // intervals of the warm-up; the first may be shorter
	end      atomic.Int64 // a time.Duration; Never until it is known
}

// slot is the interval that a time belongs to.
func (w *window) slot(t time.Duration) int {
	if t >= w.from {
		return w.warm + int((t-w.from)/w.interval)
	}
	return w.warm - 1 - int((w.from-t-1)/w.interval)
}

// begin is when a slot begins.
func (w *window) begin(slot int) time.Duration {
	return max(0, w.from+time.Duration(slot-w.warm)*w.interval)
}

func (w *window) until() time.Duration { return time.Duration(w.end.Load()) }

// endBy ends the measured part at t at the latest.
func (w *window) endBy(t time.Duration) {
	w.end.Store(int64(min(w.until(), max(t, w.from))))
}

// holds says if what is due at t is measured.
func (w *window) holds(t time.Duration) bool { return t >= w.from && t < w.until() }

// sample is an answered question.
type sample struct {
	op              Op
	outcome         Outcome
	route           string
	due, sent, done time.Duration
	err             error
}

// shard is a part of the recorder. Its lock is all but uncontended.
type shard struct {
	mu sync.Mutex

	rows    []row
	routes  int
	service [OpSettle + 1]*hdrhistogram.Histogram

	series  []Counts // by slot
	after   Counts
	inTime  int64
	last    time.Duration // when something of the measured part was last due or answered
	recent  []recent      // of slots that were not harvested yet
	spare   *hdrhistogram.Histogram
	llm     LLM
	errs    []ErrorCount
	harvest int // slots below are harvested

	_ [64]byte // the next shard is another cache line's
}

// row is the distribution of one kind of answer.
type row struct {
	op      Op
	outcome Outcome
	route   string
	h       *hdrhistogram.Histogram
}

// recent is the distribution of one interval.
type recent struct {
	slot int
	h    *hdrhistogram.Histogram
}

func newRecorder(o *Options) *recorder {
	r := &recorder{shards: make([]shard, min(2*runtime.GOMAXPROCS(0), 32))}
	r.window.from, r.window.interval = o.Warmup, o.Interval
	r.window.warm = int((o.Warmup + o.Interval - 1) / o.Interval)
	end := Never
	if o.For > 0 {
		end = o.Warmup + o.For
	}
	r.window.end.Store(int64(end))
	return r
}

// shard returns the shard of the n-th goroutine that records.
func (r *recorder) shard(n int) *shard { return &r.shards[n%len(r.shards)] }

// offered counts a check or reserve that was due, and whether it was dropped.
func (r *recorder) offered(s *shard, due time.Duration, dropped bool) {
	slot := r.window.slot(due)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = max(s.last, due)
	c := s.at(slot)
	c.Offered++
	if dropped {
		c.Dropped++
	}
}

// missed counts n calls that were never handed out, all at the time of the
// first of them.
func (r *recorder) missed(s *shard, due time.Duration, n int64) {
	slot := r.window.slot(max(due, r.window.from))
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.at(slot)
	c.Offered += n
	c.Dropped += n
}

// answered records a question with its answer.
func (r *recorder) answered(s *shard, q *sample) {
	measured := r.window.holds(q.due)
	end := r.window.until()
	question := q.op == OpCheck || q.op == OpReserve
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.outcome == Failed && measured {
		s.failed(q.op, q.err)
	}
	if measured {
		recordIn(s.row(q.op, q.outcome, q.route), q.done-q.due)
		if s.service[q.op] == nil {
			s.service[q.op] = newHistogram()
		}
		recordIn(s.service[q.op], q.done-q.sent)
	}
	if !question {
		return
	}
	if q.done >= r.window.from && q.done < end && q.outcome != Failed {
		s.inTime++
	}
	slot := r.window.slot(q.done)
	switch {
	case !measured: // an answer after the warm-up is no part of the series
		if slot < r.window.warm {
			s.at(slot).count(q.outcome)
		}
		return
	case q.done >= end:
		s.after.count(q.outcome)
	default:
		s.at(slot).count(q.outcome)
	}
	s.last = max(s.last, q.done)
	if slot >= s.harvest {
		recordIn(s.now(slot), q.done-q.due)
	}
}

// held counts what became of an LLM call that was due at due.
func (r *recorder) held(s *shard, due time.Duration, l LLM) {
	if !r.window.holds(due) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.llm.add(l)
}

// at returns the counts of a slot.
func (s *shard) at(slot int) *Counts {
	for len(s.series) <= slot {
		s.series = append(s.series, Counts{})
	}
	return &s.series[slot]
}

// row returns the histogram of one kind of answer.
func (s *shard) row(op Op, outcome Outcome, route string) *hdrhistogram.Histogram {
	for i := range s.rows {
		if r := &s.rows[i]; r.op == op && r.outcome == outcome && r.route == route {
			return r.h
		}
	}
	if !slices.ContainsFunc(s.rows, func(r row) bool { return r.route == route }) {
		if s.routes == maxRoutes && route != other {
			return s.row(op, outcome, other)
		}
		s.routes++
	}
	h := newHistogram()
	s.rows = append(s.rows, row{op, outcome, strings.Clone(route), h})
	return h
}

// now returns the histogram of a slot that is not harvested yet.
func (s *shard) now(slot int) *hdrhistogram.Histogram {
	for i := range s.recent {
		if s.recent[i].slot == slot {
			return s.recent[i].h
		}
	}
	h := s.spare
	if s.spare = nil; h == nil {
		h = hdrhistogram.New(1, highest, intervalDigits)
	}
	s.recent = append(s.recent, recent{slot, h})
	return h
}

func (s *shard) failed(op Op, err error) {
	message := "no decision"
	if err != nil {
		message = err.Error()
	}
	if len(message) > maxErrorBytes {
		message = strings.ToValidUTF8(message[:maxErrorBytes], "")
	}
	s.errs = countError(s.errs, ErrorCount{op, message, 1})
}

// countError adds e to list, under "other" if list is long.
func countError(list []ErrorCount, e ErrorCount) []ErrorCount {
	for i := range list {
		if list[i].Op == e.Op && list[i].Message == e.Message {
			list[i].Count += e.Count
			return list
		}
	}
	if len(list) >= maxErrors && e.Message != other {
		e.Message = other
		return countError(list, e)
	}
	return append(list, e)
}

// harvest returns the counts of a slot and its distribution, which is not kept.
func (r *recorder) harvest(slot int) (Counts, *hdrhistogram.Histogram) {
	var sum Counts
	h := hdrhistogram.New(1, highest, intervalDigits)
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		if slot < len(s.series) {
			sum.add(s.series[slot])
		}
		s.harvest = slot + 1
		s.recent = slices.DeleteFunc(s.recent, func(n recent) bool {
			if n.slot > slot {
				return false
			}
			if n.slot == slot {
				h.Merge(n.h)
			}
			n.h.Reset()
			s.spare = n.h
			return true
		})
		s.mu.Unlock()
	}
	return sum, h
}

// lastSeen is when the last measured check or reserve was due or answered.
func (r *recorder) lastSeen() time.Duration {
	var last time.Duration
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		last = max(last, s.last)
		s.mu.Unlock()
	}
	return last
}

// totals are all shards together.
type totals struct {
	latencies []Latency
	series    []Counts // by slot, the warm-up included
	after     Counts
	inTime    int64
	llm       LLM
	errs      []ErrorCount
}

// total merges the shards. What is recorded later is not in it.
func (r *recorder) total() (*totals, error) {
	t := new(totals)
	merged := make(map[kind]*hdrhistogram.Histogram)
	for i := range r.shards {
		r.shards[i].mergeInto(t, merged)
	}
	slices.SortStableFunc(t.errs, func(a, b ErrorCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Op, b.Op), strings.Compare(a.Message, b.Message))
	})
	for k, h := range merged {
		l, err := newLatency(h)
		if err != nil {
			return nil, err
		}
		l.Op, l.Outcome, l.Route, l.Service = k.op, k.outcome, k.route, k.service
		t.latencies = append(t.latencies, l)
	}
	slices.SortFunc(t.latencies, func(a, b Latency) int {
		return cmp.Or(
			cmp.Compare(a.Op, b.Op),
			compareBool(a.Service, b.Service),
			strings.Compare(a.Route, b.Route),
			cmp.Compare(a.Outcome, b.Outcome),
		)
	})
	return t, nil
}

// kind is what a row of the result is of.
type kind struct {
	op      Op
	outcome Outcome
	route   string
	service bool
}

func (s *shard) mergeInto(t *totals, merged map[kind]*hdrhistogram.Histogram) {
	s.mu.Lock()
	defer s.mu.Unlock()
	into := func(k kind, h *hdrhistogram.Histogram) {
		if merged[k] == nil {
			merged[k] = newHistogram()
		}
		merged[k].Merge(h)
	}
	for _, r := range s.rows {
		into(kind{op: r.op}, r.h)
		into(kind{op: r.op, outcome: r.outcome}, r.h)
		if r.route != "" {
			into(kind{op: r.op, route: r.route}, r.h)
			into(kind{op: r.op, route: r.route, outcome: r.outcome}, r.h)
		}
	}
	for op, h := range s.service {
		if h != nil {
			into(kind{op: Op(op), service: true}, h)
		}
	}
	for len(t.series) < len(s.series) {
		t.series = append(t.series, Counts{})
	}
	for i, c := range s.series {
		t.series[i].add(c)
	}
	t.after.add(s.after)
	t.inTime += s.inTime
	t.llm.add(s.llm)
	for _, e := range s.errs {
		t.errs = countError(t.errs, e)
	}
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
