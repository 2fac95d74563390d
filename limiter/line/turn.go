// SPDX-License-Identifier: Apache-2.0

package line

import "math"

// readyAt returns when a waiter is to be tried at its limit.
func (q *queue) readyAt(w *waiter) int64 {
	if w.stamp != q.stamp {
		return q.freedAt
	}
	return w.readyAt
}

// promotedAt returns when a lane goes first with one call, w if nobody waits there. Which call
// of the lane has waited for long does not matter: others may go before it by their round.
func (l *Line) promotedAt(lane *lane, w *waiter) int64 {
	since := w.arrived
	if lane.root != 0 {
		since = lane.since
	}
	return satAdd(max(lane.servedAt, since), l.age)
}

// order is the lanes of a queue in the order in which they are served.
type order struct {
	classes [3]uint8
	heads   [3]int32 // 0: nobody
	changes int64    // when it will be another
}

// orderAt returns the order of a queue as of now.
func (l *Line) orderAt(q *queue, now int64) (o order) {
	var promoted [3]int64
	o.changes = math.MaxInt64
	n, others := 0, false
	for c := range q.lanes {
		head := l.first(q.lanes[c].root)
		if head == 0 {
			continue
		}
		at := l.promotedAt(&q.lanes[c], l.at(head))
		if at > now {
			if others {
				o.changes = min(o.changes, at)
			}
			at = math.MaxInt64
		}
		others = true
		i := n
		for i > 0 && promoted[i-1] > at {
			o.classes[i], o.heads[i], promoted[i] = o.classes[i-1], o.heads[i-1], promoted[i-1]
			i--
		}
		o.classes[i], o.heads[i], promoted[i] = uint8(c), head, at
		n++
	}
	return o
}

// turn returns the waiter that may be tried at a queue now, or 0 and when there may be one.
func (l *Line) turn(q *queue, now int64) (n int32, at int64) {
	o := l.orderAt(q, now)
	at = o.changes
	held := int64(math.MaxInt64) // the least headroom of a call that is held
	for i, head := range o.heads {
		if head == 0 {
			break
		}
		lane := &q.lanes[o.classes[i]]
		if lane.headroom >= held {
			continue
		}
		ready := q.readyAt(l.at(head))
		if ready <= now {
			return head, ready
		}
		at, held = min(at, ready), lane.headroom
	}
	return 0, at
}

// wake puts a queue where it belongs among those that have somebody to try.
func (l *Line) wake(n int32) {
	if int(n) >= len(l.queues) || l.queues[n] == nil {
		return // nobody waits there any more
	}
	q := l.queues[n]
	_, q.wakeAt = l.turn(q, l.now)
	l.wakes.fix(n)
}

// goesBehind reports whether a call that is not in a queue goes behind somebody there. w has
// its cost there.
func (l *Line) goesBehind(q *queue, n int32, w *waiter, headroom int64) bool {
	o := l.orderAt(q, l.now)
	alone := q.lanes[w.class].root == 0 && l.promotedAt(&q.lanes[w.class], w) <= l.now
	for i, head := range o.heads {
		if head == 0 {
			return false
		}
		c := o.classes[i]
		promoted := l.promotedAt(&q.lanes[c], l.at(head)) <= l.now
		switch {
		case alone && !promoted: // its class goes first
			return false
		case c < w.class:
			return true
		case c > w.class:
			if promoted && q.lanes[c].headroom <= headroom {
				return true
			}
		default:
			f := l.flows[flowID{n, w.class, w.key}]
			if f != nil && !arrivedBefore(w, l.at(f.head)) {
				return true
			}
			x := *w
			if f != nil {
				x.round = l.at(f.head).round
			} else {
				x.round = q.lanes[c].round + q.rounds(w.cost, w.weight)
			}
			return l.at(head).before(&x)
		}
	}
	return false
}

// blockedAt returns the limit at which a waiter must wait first although it is its turn where
// it waits, as the index among its limits; -1 if there is none.
func (l *Line) blockedAt(n int32) int {
	w := l.at(n)
	for i := range w.shape.limits {
		s := &w.shape.limits[i]
		m := l.queueOf(w.idOf(s))
		if m == 0 || m == w.queue {
			continue
		}
		x := *w
		x.cost = w.costs[i]
		if l.goesBehind(l.queues[m], m, &x, s.headroom) {
			return i
		}
	}
	return -1
}

// move makes a waiter wait at another of its limits, at which others wait.
func (l *Line) move(n int32, i int) {
	w := l.at(n)
	to := l.queueOf(w.idOf(&w.shape.limits[i]))
	from := w.queue
	l.part(n, false)
	w.cost = w.costs[i]
	q := l.queues[to]
	q.lanes[w.class].headroom = w.shape.limits[i].headroom
	w.readyAt, w.stamp = l.now, q.stamp
	l.join(n, to)
	l.wake(from)
	l.wake(to)
}

func satAdd(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}
