// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"container/heap"
	"container/list"
	"time"
)

// ownerQueue holds the chains of one owner. A working owner may have several
// attempts in flight. An owner that failed has one, a probe, after each backoff. So
// an owner that does not answer takes few of the attempts, and its calls cost one
// attempt per backoff together, not one each.
type ownerQueue struct {
	name     string
	chains   list.List // of *chain, FIFO: those not in flight
	inFlight int       // chains

	failures int       // in a row; 0: works
	retryAt  time.Time // of the next probe, if it failed

	ready     *list.Element // in queue.ready; nil: not in it
	heapIndex int           // in queue.failing, from 1; 0: not in it
}

const (
	// ownerShare is the fraction of all attempts, 1/4, that one owner may use.
	ownerShare = 4

	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// queueOf returns the queue of an owner, a new one if needed.
func (q *queue) queueOf(name string) *ownerQueue {
	o := q.owners[name]
	if o == nil {
		o = &ownerQueue{name: name}
		q.owners[name] = o
	}
	return o
}

func (o *ownerQueue) push(c *chain) { c.owner, c.waiting = o, o.chains.PushBack(c) }

func (o *ownerQueue) pop() *chain {
	c := o.chains.Remove(o.chains.Front()).(*chain)
	c.waiting = nil
	return c
}

// backoff returns how long to wait after failures in a row.
func (q *queue) backoff(failures int) time.Duration {
	d := min(minBackoff<<min(failures, 10), maxBackoff)
	return d/2 + time.Duration(q.rand.Int64N(int64(d/2)+1))
}

// canProbe reports whether an owner that failed may have an attempt. Half of all
// attempts are kept for the owners that work.
func (q *queue) canProbe() bool {
	return q.inFlight < q.limits.inFlight && q.probes < q.limits.inFlight/2
}

// nextOwner returns an owner with a chain to attempt, nil if none may start.
func (q *queue) nextOwner(now time.Time) *ownerQueue {
	if len(q.failing) > 0 && q.canProbe() && !q.failing[0].retryAt.After(now) {
		return q.failing[0]
	}
	if first := q.ready.Front(); first != nil && q.inFlight < q.limits.inFlight {
		q.ready.MoveToBack(first)
		return first.Value.(*ownerQueue)
	}
	return nil
}

// reschedule moves an owner to where it belongs after a change: the ready list, the
// heap of failing owners, or neither.
func (q *queue) reschedule(o *ownerQueue) {
	works, waits := o.failures == 0, o.chains.Len() > 0
	ready := works && waits && o.inFlight < q.limits.inFlight/ownerShare
	failing := !works && waits && o.inFlight == 0
	switch {
	case ready && o.ready == nil:
		o.ready = q.ready.PushBack(o)
	case !ready && o.ready != nil:
		q.ready.Remove(o.ready)
		o.ready = nil
	}
	switch {
	case failing && o.heapIndex == 0:
		heap.Push(&q.failing, o)
	case !failing && o.heapIndex > 0:
		heap.Remove(&q.failing, o.heapIndex-1)
	}
	if !waits && o.inFlight == 0 {
		delete(q.owners, o.name)
	}
}

// retryHeap orders owners by retryAt.
type retryHeap []*ownerQueue

var _ heap.Interface = (*retryHeap)(nil)

func (h retryHeap) Len() int           { return len(h) }
func (h retryHeap) Less(i, j int) bool { return h[i].retryAt.Before(h[j].retryAt) }
func (h retryHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIndex, h[j].heapIndex = i+1, j+1
}

func (h *retryHeap) Push(x any) {
	o := x.(*ownerQueue)
	*h = append(*h, o)
	o.heapIndex = len(*h)
}

func (h *retryHeap) Pop() any {
	old := *h
	o := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	o.heapIndex = 0
	return o
}
