// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"container/heap"
	"container/list"
	"time"
)

// A lane is the chains of one owner. One that works has a number of attempts
// under way; one that has failed has a single one, a probe, each time that its
// wait is over. So an owner that does not answer takes little of the room that
// attempts have, and what waits for it costs one attempt and not one per call.
type lane struct {
	owner    string
	chains   list.List // of *chain, in turn: those that wait
	underWay int       // chains

	failures int       // in a row; 0: works
	due      time.Time // of the next probe, if it has failed

	ready *list.Element // in queue.ready; nil: not there
	index int           // in queue.ailing, from 1; 0: not there
}

const (
	// lanesPerOutbox is how many owners that hang, and have not failed yet, it
	// takes to occupy all attempts.
	lanesPerOutbox = 4

	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// laneOf returns the lane of an owner, a new one if need be.
func (q *queue) laneOf(owner string) *lane {
	l := q.lanes[owner]
	if l == nil {
		l = &lane{owner: owner}
		q.lanes[owner] = l
	}
	return l
}

// push puts a chain at the end.
func (l *lane) push(c *chain) { c.lane, c.turn = l, l.chains.PushBack(c) }

// pop takes the chain whose turn it is.
func (l *lane) pop() *chain {
	c := l.chains.Remove(l.chains.Front()).(*chain)
	c.turn = nil
	return c
}

// backoff is how long a lane waits after failures in a row.
func (q *queue) backoff(failures int) time.Duration {
	d := min(minBackoff<<min(failures, 10), maxBackoff)
	return d/2 + time.Duration(q.rand.Int64N(int64(d/2)+1))
}

// mayProbe reports whether there is room for an attempt in a lane that has
// failed. The rest is for those that work.
func (q *queue) mayProbe() bool {
	return q.underWay < q.limits.underWay && q.probes < q.limits.underWay/2
}

// choose returns the lane whose turn it is, nil if none may start an attempt. A
// lane that it returns has a chain that waits.
func (q *queue) choose(now time.Time) *lane {
	if len(q.ailing) > 0 && q.mayProbe() && !q.ailing[0].due.After(now) {
		return q.ailing[0]
	}
	if first := q.ready.Front(); first != nil && q.underWay < q.limits.underWay {
		q.ready.MoveToBack(first)
		return first.Value.(*lane)
	}
	return nil
}

// place puts a lane where it belongs after a change.
func (q *queue) place(l *lane) {
	works, waits := l.failures == 0, l.chains.Len() > 0
	ready := works && waits && l.underWay < q.limits.underWay/lanesPerOutbox
	ailing := !works && waits && l.underWay == 0
	switch {
	case ready && l.ready == nil:
		l.ready = q.ready.PushBack(l)
	case !ready && l.ready != nil:
		q.ready.Remove(l.ready)
		l.ready = nil
	}
	switch {
	case ailing && l.index == 0:
		heap.Push(&q.ailing, l)
	case !ailing && l.index > 0:
		heap.Remove(&q.ailing, l.index-1)
	}
	if !waits && l.underWay == 0 {
		delete(q.lanes, l.owner)
	}
}

// laneHeap is by due; container/heap keeps it.
type laneHeap []*lane

var _ heap.Interface = (*laneHeap)(nil)

func (h laneHeap) Len() int           { return len(h) }
func (h laneHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h laneHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

func (h *laneHeap) Push(x any) {
	l := x.(*lane)
	*h = append(*h, l)
	l.index = len(*h)
}

func (h *laneHeap) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	l.index = 0
	return l
}
