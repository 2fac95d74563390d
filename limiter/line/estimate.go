// SPDX-License-Identifier: Apache-2.0

package line

import (
	"math"
	"math/bits"

	"github.com/bucketring/bucketring/limiter"
)

// terms is what an estimate needs to know of a limit.
type terms struct {
	algorithm limiter.Algorithm
	amount    int64
	capacity  int64
	window    int64
}

func termsOf(s *limiter.LimitState) terms {
	return terms{s.Algorithm, s.Limit, s.Capacity, int64(s.Window)}
}

// after returns the nanoseconds until a call fits that alone would fit after wait, if others
// that cost ahead go first: never more than it will take.
func (t *terms) after(wait, cost, ahead int64) int64 {
	switch t.algorithm {
	case limiter.TokenBucket:
		return satAdd(wait, mulDiv(ahead, t.window, t.amount))
	case limiter.FixedWindow:
		if t.capacity <= 0 || ahead == 0 {
			return wait
		}
		return satAdd(wait, mulDiv((ahead+cost-1)/t.capacity, t.window, 1))
	case limiter.SlidingWindow:
		if t.capacity <= 0 || ahead == 0 {
			return wait
		}
		return max(wait, mulDiv((ahead+cost-1)/t.capacity, t.window, 1))
	}
	return 0 // nothing tells when a slot is free
}

// mulDiv returns a*b/c for a, b >= 0, at most MaxInt64.
func mulDiv(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if c <= 0 || hi >= uint64(c) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, math.MaxInt64))
}

// estimateAt estimates how long a call would wait at a limit, that of queue m if others wait
// there: s is the state of the limit in the decision about the call. w has its cost there.
func (l *Line) estimateAt(m int32, w *waiter, s *limiter.LimitState) (ahead int, wait int64) {
	t := termsOf(s)
	alone := int64(s.Wait)
	if m == 0 {
		return 0, t.after(alone, w.cost, 0)
	}
	q := l.queues[m]
	_, x := l.place(q, l.flows[flowID{m, w.class, w.key}], w)
	there := *w
	there.round = x
	urgent, more := l.moreUrgent(q, w.class)
	inLane, before := l.ahead(q.lanes[w.class].root, &there)
	all, own := satAdd(before, more), before
	cost := w.cost
	if alone == 0 { // it fits, but goes behind others: they take what remains first
		all, own, cost = max(0, all+cost-s.Remaining-1), max(0, own+cost-s.Remaining-1), 0
	}
	return inLane + urgent, l.withPromotion(q, w, inLane, t.after(alone, cost, all), t.after(alone, cost, own))
}

// moreUrgent returns how many of more urgent classes wait at a queue, and what they cost.
func (l *Line) moreUrgent(q *queue, class uint8) (count int, cost int64) {
	for c := range class {
		n, sum := l.total(q.lanes[c].root)
		count += n
		cost = min(cost+sum, maxSum)
	}
	return count, cost
}

// withPromotion returns the least that a call waits at a queue if it waits for all ahead, or
// if its class goes first with one call after another before more urgent ones are gone.
func (l *Line) withPromotion(q *queue, w *waiter, inLane int, all, own int64) int64 {
	if all <= own {
		return all
	}
	lane := &q.lanes[w.class]
	first := w
	if head := l.first(lane.root); head != 0 && arrivedBefore(l.at(head), w) {
		first = l.at(head)
	}
	promoted := satAdd(l.promotedAt(lane, first)-l.now, mulDiv(int64(inLane), l.age, 1))
	return min(all, max(own, promoted))
}

// estimate estimates how long a waiter still waits. Those that have been tried know best: what
// is ahead is counted from the first of its lane.
func (l *Line) estimate(n int32) (wait int64) {
	w := l.at(n)
	q := l.queues[w.queue]
	lane := &q.lanes[w.class]
	head := l.at(l.first(lane.root))
	_, more := l.moreUrgent(q, w.class)
	inLane, before := l.ahead(lane.root, w)
	own := max(0, before+w.cost-head.cost)
	alone := max(0, q.readyAt(head)-l.now)
	return l.withPromotion(q, w, inLane, q.limit.after(alone, w.cost, satAdd(own, more)), q.limit.after(alone, w.cost, own))
}
