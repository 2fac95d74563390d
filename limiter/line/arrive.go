// SPDX-License-Identifier: Apache-2.0

package line

import (
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// Arrive adds a call. d is the decision that denied it with [limiter.LimitExceeded] or, if
// [Line.Blocks] says that it must wait, the one of [limiter.Engine.Preview]. Of both, the line
// reads Limits, and keeps no reference but to the names.
//
// Unless it returns NotRefused, the call is not in the line. place.Estimate is then the honest
// time after which to retry, negative if a retry cannot succeed.
func (l *Line) Arrive(now int64, c Call, d *limiter.Decision) (place Place, refusal Refusal) {
	now = l.tick(now)
	if d.Outcome == limiter.Denied && d.Reason != limiter.LimitExceeded {
		return Place{Estimate: d.RetryAfter}, Never
	}
	wait, ok := Bound(d)
	if !ok {
		return Place{Estimate: d.RetryAfter}, NoQueue
	}
	if c.MaxWait > 0 {
		wait = min(wait, c.MaxWait)
	}
	w := waiter{
		key: c.Key, model: c.Model, seq: l.seq + 1, arrived: min(c.Arrived, now), class: laneOf(c.Class),
		weight: uint16(min(max(c.Weight, 1), limiter.MaxWeight)),
	}
	i, ahead, estimate := l.choose(&w, 0, d)
	if i < 0 {
		return Place{Estimate: d.RetryAfter}, Never
	}
	s := &d.Limits[i]
	if d.Outcome != limiter.Denied {
		wait = min(wait, s.Queue.MaxWait)
	}
	w.deadline = satAdd(w.arrived, int64(wait))
	place = Place{Ahead: ahead, Limit: i, Estimate: time.Duration(estimate), Deadline: w.deadline}
	id := idOf(s, c.Model)
	switch m := l.queueOf(id); {
	case satAdd(now, estimate) > w.deadline:
		return place, TooLate
	case l.Len() >= l.depth:
		return place, LineFull
	case l.ofKey[c.Key] >= min(l.keyDepth, l.depth-l.Len()):
		return place, KeyFull
	case m != 0 && int64(l.queues[m].count) >= s.Queue.MaxDepth:
		return place, LimitFull
	case m != 0 && s.Scope != c.Key && l.waitingAt(m, c.Key) >= s.Queue.MaxDepth-int64(l.queues[m].count):
		return place, KeyFull
	}
	l.seq++
	n := l.alloc()
	w.balance = balance(w.seq)
	*l.at(n) = w
	l.setNeeds(l.at(n), d)
	l.waiting[w.class]++
	l.ofKey[c.Key]++
	l.deadlines.fix(n)
	l.waitAt(n, id, s)
	place.ID = w.id(n)
	return place, NotRefused
}

// choose returns the limit at which a call waits: of those that deny it or, if none does, of
// those at which it goes behind others, the one that it waits for longest, or -1. At queue own
// it is its turn. It sets w.cost.
func (l *Line) choose(w *waiter, own int32, d *limiter.Decision) (limit, ahead int, estimate int64) {
	limit, estimate = -1, -1
	var longest time.Duration
	for i := range d.Limits {
		s := &d.Limits[i]
		if !needs(s) || d.Outcome == limiter.Denied && !s.Exceeded {
			continue
		}
		m := l.queueOf(idOf(s, w.model))
		if w.cost = s.Cost; d.Outcome != limiter.Denied && (m == 0 || !l.goesBehind(l.queues[m], m, w, s.Headroom) && estimate >= 0) {
			continue
		}
		var n int
		var e int64
		if m != 0 && m == own {
			t := termsOf(s)
			e = t.after(int64(s.Wait), s.Cost, 0)
		} else {
			n, e = l.estimateAt(m, w, s)
		}
		if e > estimate || e == estimate && s.Wait > longest {
			limit, ahead, estimate, longest = i, n, e, s.Wait
		}
	}
	if limit >= 0 {
		w.cost = d.Limits[limit].Cost
	}
	return limit, ahead, estimate
}

// waitingAt returns how many calls of a key wait at a queue.
func (l *Line) waitingAt(m int32, key string) (n int64) {
	for class := range uint8(len(l.waiting)) {
		if f := l.flows[flowID{m, class, key}]; f != nil {
			n += int64(f.count)
		}
	}
	return n
}

// waitAt makes a call wait at a limit of a decision about it.
func (l *Line) waitAt(n int32, id limitID, s *limiter.LimitState) {
	w := l.at(n)
	to := l.addQueue(id, s)
	q := l.queues[to]
	q.lanes[w.class].headroom = s.Headroom
	w.cost, w.readyAt, w.stamp = s.Cost, satAdd(l.now, int64(s.Wait)), q.stamp
	l.join(n, to)
	l.wake(to)
}

// Denied puts back a call that Next named and the engine denied: d. It may wait at another
// limit from now on. If it is refused, it has left the line, and retry is the honest time.
func (l *Line) Denied(now int64, id ID, d *limiter.Decision) (retry time.Duration, refusal Refusal) {
	now = l.tick(now)
	n := l.find(id)
	if n == 0 {
		return d.RetryAfter, Never
	}
	if d.Outcome != limiter.Denied || d.Reason != limiter.LimitExceeded {
		l.drop(n, false)
		return d.RetryAfter, Never
	}
	wait, ok := Bound(d)
	if !ok {
		l.drop(n, false)
		return d.RetryAfter, NoQueue
	}
	w := l.at(n)
	l.setNeeds(w, d)
	x := *w
	i, _, estimate := l.choose(&x, w.queue, d)
	if bound := satAdd(w.arrived, int64(wait)); bound < w.deadline {
		w.deadline = bound
		l.deadlines.fix(n)
	}
	if i < 0 || satAdd(now, estimate) > w.deadline {
		l.drop(n, false)
		return max(d.RetryAfter, time.Duration(estimate)), TooLate
	}
	s := &d.Limits[i]
	at := idOf(s, w.model)
	from := w.queue
	if l.queueOf(at) == from { // it keeps its place
		q := l.queues[from]
		q.limit = termsOf(s)
		l.recost(n, s.Cost)
		w.readyAt, w.stamp, q.lanes[w.class].headroom = satAdd(now, int64(s.Wait)), q.stamp, s.Headroom
		l.wake(from)
		return 0, NotRefused
	}
	l.part(n, false)
	l.wake(from)
	l.waitAt(n, at, s)
	return 0, NotRefused
}
