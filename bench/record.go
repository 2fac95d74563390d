// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const (
	maxRoutes     = 16 // distinct routes per shard; the rest is counted as "other"
	maxErrors     = 32 // distinct error messages per shard; the rest is counted as "other"
	maxErrorBytes = 200
	other         = "other"
)

// recorder collects the measurements. Goroutines record in different shards, so
// that they rarely wait for each other.
type recorder struct {
	window window
	shards []shard
}

// window is the measured part of a run, and its division into intervals.
type window struct {
	from            time.Duration // the end of the warm-up
	interval        time.Duration
	warmupIntervals int          // the first may be shorter
	end             atomic.Int64 // a time.Duration; Never until it is known
}

// index returns the index of the interval that contains t.
func (w *window) index(t time.Duration) int {
	if t >= w.from {
		return w.warmupIntervals + int((t-w.from)/w.interval)
	}
	return w.warmupIntervals - 1 - int((w.from-t-1)/w.interval)
}

// startOf returns the begin of the i-th interval.
func (w *window) startOf(i int) time.Duration {
	return max(0, w.from+time.Duration(i-w.warmupIntervals)*w.interval)
}

func (w *window) endTime() time.Duration { return time.Duration(w.end.Load()) }

// truncate ends the measured part at t at the latest.
func (w *window) truncate(t time.Duration) {
	w.end.Store(int64(min(w.endTime(), max(t, w.from))))
}

// contains reports whether a request that was due at t is measured.
func (w *window) contains(t time.Duration) bool { return t >= w.from && t < w.endTime() }

// sample is a request that was answered.
type sample struct {
	op              Op
	outcome         Outcome
	route           string
	due, sent, done time.Duration
	err             error
	heldBack        bool // refused without being sent
}

// shard is a part of the recorder. Its lock is rarely contended.
type shard struct {
	mu sync.Mutex

	rows    []row
	routes  int
	service [OpSettle + 1]*hdrhistogram.Histogram
	refused [OpSettle + 1]refusals

	series       []Counts // by interval
	after        Counts
	completed    int64
	heldBack     int64
	lastSeen     time.Duration     // when a measured check or reserve was last due or answered
	uncollected  []intervalLatency // of intervals that are not collected yet
	spare        *hdrhistogram.Histogram
	llm          LLMCounts
	errs         []ErrorCount
	nextInterval int // index of the first interval that is not collected yet

	_ [64]byte // keeps the next shard on another cache line
}

// row is the distribution of one kind of answer.
type row struct {
	op      Op
	outcome Outcome
	route   string
	h       *hdrhistogram.Histogram
}

// refusals are the latencies of refused calls that were not held back, from the due time
// and from when they were sent; nil if there are none.
type refusals struct{ due, sent *hdrhistogram.Histogram }

// intervalLatency is the distribution of one interval.
type intervalLatency struct {
	interval int
	h        *hdrhistogram.Histogram
}

func newRecorder(o *Options) *recorder {
	r := &recorder{shards: make([]shard, 1+min(2*runtime.GOMAXPROCS(0), 32))}
	r.window.from, r.window.interval = o.Warmup, o.Interval
	r.window.warmupIntervals = int((o.Warmup + o.Interval - 1) / o.Interval)
	end := Never
	if o.Duration > 0 {
		end = o.Warmup + o.Duration
	}
	r.window.end.Store(int64(end))
	return r
}

// shard returns the shard of the n-th sender.
func (r *recorder) shard(n int) *shard { return &r.shards[1+n%(len(r.shards)-1)] }

// pacerShard returns the shard of the goroutine that dispatches all calls of an open loop.
func (r *recorder) pacerShard() *shard { return &r.shards[0] }

// countOffered counts a check or reserve that was due at due.
func (r *recorder) countOffered(s *shard, due time.Duration, dropped bool) {
	i := r.window.index(due)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastSeen = max(s.lastSeen, due)
	c := s.countsOf(i)
	c.Offered++
	if dropped {
		c.Dropped++
	}
}

// countMissed counts n calls that were never dispatched, all in the interval of the
// first of them.
func (r *recorder) countMissed(s *shard, due time.Duration, n int64) {
	i := r.window.index(due)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.countsOf(i)
	c.Offered += n
	c.Dropped += n
}

// recordAnswer records a request with its answer.
func (r *recorder) recordAnswer(s *shard, q *sample) {
	measured := r.window.contains(q.due)
	end := r.window.endTime()
	decides := q.op == OpCheck || q.op == OpReserve
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !measured:
	case q.outcome == Refused:
		s.recordRefusal(q)
	default:
		if q.outcome == Failed {
			s.countError(q.op, q.err)
		}
		recordValue(s.row(q.op, q.outcome, q.route), q.done-q.due)
		if s.service[q.op] == nil {
			s.service[q.op] = newHistogram()
		}
		recordValue(s.service[q.op], q.done-q.sent)
	}
	if !decides {
		return
	}
	if q.done >= r.window.from && q.done < end && q.outcome != Failed && q.outcome != Refused {
		s.completed++
	}
	i := r.window.index(q.done)
	switch {
	case !measured: // an answer after the warm-up is not part of the series
		if i < r.window.warmupIntervals {
			s.countsOf(i).count(q.outcome)
		}
		return
	case q.done >= end:
		s.after.count(q.outcome)
	default:
		s.countsOf(i).count(q.outcome)
	}
	s.lastSeen = max(s.lastSeen, q.done)
	if i >= s.nextInterval && q.outcome != Refused {
		recordValue(s.intervalHistogram(i), q.done-q.due)
	}
}

// recordRefusal records a refused check or reserve. It is cheap, since under overload
// there are many.
func (s *shard) recordRefusal(q *sample) {
	if q.heldBack {
		s.heldBack++
		return
	}
	h := &s.refused[q.op]
	if h.due == nil {
		h.due, h.sent = newHistogram(), newHistogram()
	}
	recordValue(h.due, q.done-q.due)
	recordValue(h.sent, q.done-q.sent)
}

// countLLM adds l for an LLM call that was due at due.
func (r *recorder) countLLM(s *shard, due time.Duration, l LLMCounts) {
	if !r.window.contains(due) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.llm.add(l)
}

// countsOf returns the counts of the i-th interval.
func (s *shard) countsOf(i int) *Counts {
	for len(s.series) <= i {
		s.series = append(s.series, Counts{})
	}
	return &s.series[i]
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

// intervalHistogram returns the histogram of an interval that is not collected yet.
func (s *shard) intervalHistogram(interval int) *hdrhistogram.Histogram {
	for i := range s.uncollected {
		if s.uncollected[i].interval == interval {
			return s.uncollected[i].h
		}
	}
	h := s.spare
	if s.spare = nil; h == nil {
		h = hdrhistogram.New(1, maxLatency, intervalDigits)
	}
	s.uncollected = append(s.uncollected, intervalLatency{interval, h})
	return h
}

func (s *shard) countError(op Op, err error) {
	message := "no decision"
	if err != nil {
		message = err.Error()
	}
	if len(message) > maxErrorBytes {
		message = strings.ToValidUTF8(message[:maxErrorBytes], "")
	}
	s.errs = mergeError(s.errs, ErrorCount{op, message, 1})
}

// mergeError adds e to list, as "other" if list is full.
func mergeError(list []ErrorCount, e ErrorCount) []ErrorCount {
	for i := range list {
		if list[i].Op == e.Op && list[i].Message == e.Message {
			list[i].Count += e.Count
			return list
		}
	}
	if len(list) >= maxErrors && e.Message != other {
		e.Message = other
		return mergeError(list, e)
	}
	return append(list, e)
}

// collectInterval returns the counts and the latencies of an interval, and drops
// its histograms.
func (r *recorder) collectInterval(interval int) (Counts, *hdrhistogram.Histogram) {
	var sum Counts
	h := hdrhistogram.New(1, maxLatency, intervalDigits)
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		if interval < len(s.series) {
			sum.add(s.series[interval])
		}
		s.nextInterval = interval + 1
		s.uncollected = slices.DeleteFunc(s.uncollected, func(n intervalLatency) bool {
			if n.interval > interval {
				return false
			}
			if n.interval == interval {
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

// lastSeen returns when the last measured check or reserve was due or answered.
func (r *recorder) lastSeen() time.Duration {
	var last time.Duration
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		last = max(last, s.lastSeen)
		s.mu.Unlock()
	}
	return last
}
