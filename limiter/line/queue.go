// SPDX-License-Identifier: Apache-2.0

package line

import (
	"math"
	"math/bits"

	"github.com/bucketring/bucketring/limiter"
)

// limitID is the identity of a limit of a root.
type limitID struct {
	scope     string
	dimension limiter.Dimension
	name      string
	model     string // of limits per model
}

// queue is those who wait at a limit. It exists while somebody does.
type queue struct {
	id        limitID
	limit     terms
	lanes     [3]lane // interactive, standard, batch
	count     int
	stamp     uint32 // of the last Freed
	freedAt   int64
	wakeAt    int64 // when somebody may be tried
	inWakes   int32
	prev      int32 // of the queues of the same limit for other models
	next      int32
	costShift uint8 // of costs, for rounds
}

// lane is those of one class who wait at a limit.
type lane struct {
	root     int32 // of the tree of waiters
	round    int64 // of the last call that was let through
	servedAt int64 // when that was; math.MinInt64: not yet
	since    int64 // when the first came of those that waited since it was empty last
	headroom int64
}

// flow is the calls of a key in a lane, in the order of their arrival: what deficit round
// robin calls a flow. A key saves its weight in each round. A call is let through in the
// round in which its key has saved its cost.
type flow struct {
	id         flowID
	head, tail int32
	count      int32
	left       int32 // how many have left since the rounds were computed
	round      int64 // of the last call
	from       int64 // the round from which the key saves for its first call
}

type flowID struct {
	queue int32
	class uint8
	key   string
}

// roundShift makes rounds fine enough for weights. A cost is at most 2^costBits in them.
const (
	roundShift = 14
	costBits   = 26
)

// rounds returns in how many rounds a key of that weight saves a cost.
func (q *queue) rounds(cost int64, weight uint16) int64 {
	return max(1, max(1, cost>>q.costShift)<<roundShift/int64(weight))
}

// queueOf returns the number of the queue of a limit, 0 if nobody waits there.
func (l *Line) queueOf(id limitID) int32 { return l.byLimit[id] }

// addQueue returns the queue of a limit, which it adds if there is none.
func (l *Line) addQueue(id limitID, s *limiter.LimitState) int32 {
	n := l.byLimit[id]
	if n == 0 {
		if len(l.spareQueues) > 0 {
			n = l.spareQueues[len(l.spareQueues)-1]
			l.spareQueues = l.spareQueues[:len(l.spareQueues)-1]
		} else {
			n = int32(len(l.queues))
			l.queues = append(l.queues, nil)
		}
		q := &queue{id: id, freedAt: math.MinInt64}
		for i := range q.lanes {
			q.lanes[i].servedAt = math.MinInt64
		}
		l.queues[n], l.byLimit[id] = q, n
		if id.model != "" {
			l.linkModel(n)
		}
	}
	q := l.queues[n]
	q.limit = termsOf(s)
	if q.count == 0 {
		q.costShift = uint8(max(0, bits.Len64(uint64(max(s.Capacity, 1)))-costBits))
	}
	return n
}

// linkModel adds a queue to those of the same limit for other models, after which the first
// is found without a model.
func (l *Line) linkModel(n int32) {
	q := l.queues[n]
	id := q.id
	id.model = ""
	q.next = l.perModel[id]
	if q.next != 0 {
		l.queues[q.next].prev = n
	}
	l.perModel[id] = n
}

func (l *Line) dropQueue(n int32) {
	q := l.queues[n]
	delete(l.byLimit, q.id)
	if q.id.model != "" {
		id := q.id
		id.model = ""
		switch {
		case q.prev != 0:
			l.queues[q.prev].next = q.next
		case q.next != 0:
			l.perModel[id] = q.next
		default:
			delete(l.perModel, id)
		}
		if q.next != 0 {
			l.queues[q.next].prev = q.prev
		}
	}
	l.wakes.remove(n)
	l.queues[n] = nil
	if l.spareQueues = append(l.spareQueues, n); len(l.spareQueues) == len(l.queues)-1 {
		l.queues, l.spareQueues = l.queues[:1:1], nil
	}
}

// place returns where in its lane a call of a key goes: after which call of its key, 0 for
// none, and in which round.
func (l *Line) place(q *queue, f *flow, w *waiter) (after int32, round int64) {
	last := q.lanes[w.class].round
	if f == nil || f.count == 0 {
		return 0, last + q.rounds(w.cost, w.weight)
	}
	after = f.tail
	if x := l.at(after); !arrivedBefore(w, x) {
		if f.round-last > 0 {
			last = f.round
		}
		return after, last + q.rounds(w.cost, w.weight)
	}
	next := after
	for after != 0 && arrivedBefore(w, l.at(after)) {
		next, after = after, l.at(after).prev
	}
	return after, l.at(next).round // it goes first with what its key has saved
}

func arrivedBefore(a, b *waiter) bool {
	return a.arrived < b.arrived || a.arrived == b.arrived && a.seq < b.seq
}

// join adds a waiter to a queue, whose limit costs it so much.
func (l *Line) join(n, to int32) {
	w, q := l.at(n), l.queues[to]
	id := flowID{to, w.class, w.key}
	f := l.flows[id]
	if f == nil {
		f = &flow{id: id, from: q.lanes[w.class].round}
		l.flows[id] = f
	}
	var after int32
	after, w.round = l.place(q, f, w)
	w.flow, w.queue, w.prev = f, to, after
	if after != 0 {
		w.next = l.at(after).next
		l.at(after).next = n
	} else {
		w.next, f.head = f.head, n
	}
	if w.next != 0 {
		l.at(w.next).prev = n
		f.round += q.rounds(w.cost, w.weight)
	} else {
		f.tail, f.round = n, w.round
	}
	f.count++
	lane := &q.lanes[w.class]
	if lane.root == 0 || w.arrived < lane.since {
		lane.since = w.arrived
	}
	lane.root = l.insert(lane.root, n)
	q.count++
}

// part removes a waiter from its queue, which is dropped if nobody else waits there. What an
// admitted one has saved is spent.
func (l *Line) part(n int32, admitted bool) {
	w := l.at(n)
	q, f := l.queues[w.queue], w.flow
	lane := &q.lanes[w.class]
	lane.root = l.remove(lane.root, n)
	q.count--
	f.count--
	if w.prev != 0 {
		l.at(w.prev).next = w.next
	} else {
		f.head = w.next
	}
	if w.next != 0 {
		l.at(w.next).prev = w.prev
	} else if f.tail = w.prev; f.tail != 0 {
		f.round = l.at(f.tail).round
	}
	if admitted {
		f.from = w.round
	} else {
		f.left++
	}
	switch {
	case f.count == 0:
		delete(l.flows, f.id)
	case f.left*renewAt >= f.count:
		l.renew(q, f)
	}
	if lane.root == 0 {
		lane.round = 0
	}
	from := w.queue
	w.queue, w.flow, w.prev, w.next = 0, nil, 0, 0
	if q.count == 0 {
		l.dropQueue(from)
	}
}

// recost changes the cost of a waiter, which keeps its place.
func (l *Line) recost(n int32, cost int64) {
	w := l.at(n)
	if w.cost == cost {
		return
	}
	lane := &l.queues[w.queue].lanes[w.class]
	lane.root = l.remove(lane.root, n)
	w.cost = cost
	lane.root = l.insert(lane.root, n)
}

// renewAt says how much of a flow must have left before the rounds of the others are computed
// anew: one in so many. So leaving costs O(log n) on average, and what a key loses by it is
// small.
const renewAt = 16

// renew computes the rounds of a flow anew, of which some have left: the others go no later
// than if those had not been there.
func (l *Line) renew(q *queue, f *flow) {
	f.left = 0
	lane := &q.lanes[f.id.class]
	round := f.from
	for n := f.head; n != 0; n = l.at(n).next {
		w := l.at(n)
		if round += q.rounds(w.cost, w.weight); w.round-round > 0 {
			lane.root = l.remove(lane.root, n)
			w.round = round
			lane.root = l.insert(lane.root, n)
		} else {
			round = w.round
		}
	}
	f.round = round
}

// admit notes at a queue that a call of a class was let through in a round.
func (q *queue) admit(class uint8, round, now int64) {
	lane := &q.lanes[class]
	if round-lane.round > 0 {
		lane.round = round
	}
	lane.servedAt = now
}
