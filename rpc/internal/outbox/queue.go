// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"container/heap"
	"container/list"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/pb"
)

// overhead is roughly what an entry takes beside its encoded size: the structs of
// the message and of the entry, and its place in a chain.
const overhead = 512

type limits struct {
	entries, bytes, inFlight int
	age                      time.Duration
}

// queue decides which call is delivered when. It has no clock, lock or goroutine:
// time is an argument and the source of randomness is given. The order of maps
// does not affect what it returns.
//
// Entries with the same callID form a chain, whose first entry is delivered at a
// time. Chains with the same owner form an ownerQueue. All entries form a list by
// age.
type queue struct {
	limits  limits
	ownerOf func(*pb.Item) string
	rand    *rand.Rand

	chains   map[callID]*chain      // none is empty
	owners   map[string]*ownerQueue // those with a chain, waiting or in flight
	ready    list.List              // of *ownerQueue, round robin: those that work and may start an attempt
	failing  retryHeap              // those that failed and may start a probe
	inFlight int                    // attempts; at most limits.inFlight
	probes   int                    // attempts that started when their owner had failed

	count, bytes int       // of all entries; within limits
	byAge        list.List // of *entry, oldest first, without those that expired in flight
}

// entry is a call that waits or is in flight.
type entry struct {
	item  *pb.Item
	size  int
	at    time.Time // of the last put that it stands for
	chain *chain
	age   *list.Element // in queue.byAge; nil: expired in flight, not to be retried
}

// chain has the entries with one callID, in the order of their puts.
type chain struct {
	id      callID
	entries []*entry
	owner   *ownerQueue
	waiting *list.Element // in ownerQueue.chains; nil: entries[0] is in flight
}

// drop removes entry i, which is the first one, or the second after one in flight.
// So this is quick for a chain of any length.
func (c *chain) drop(i int) {
	copy(c.entries[1:i+1], c.entries[:i])
	c.entries[0] = nil
	c.entries = c.entries[1:]
}

func newQueue(l limits, ownerOf func(*pb.Item) string, r *rand.Rand) *queue {
	return &queue{limits: l, ownerOf: ownerOf, rand: r, chains: map[callID]*chain{}, owners: map[string]*ownerQueue{}}
}

func (q *queue) len() int { return q.count }

// put adds a call. It returns how many entries became unnecessary: the new one, or
// those that it replaces.
func (q *queue) put(now time.Time, item *pb.Item) (merged int, err error) {
	id, err := callIDOf(item)
	if err != nil {
		return 0, err
	}
	c := q.chains[id]
	last, item, duplicate := c.merge(item)
	if duplicate {
		return 1, nil
	}
	bytes := q.bytes
	for _, e := range last {
		bytes -= e.size
	}
	size := proto.Size(item) + overhead
	switch {
	case q.count-len(last)+1 > q.limits.entries:
		return 0, fmt.Errorf("%w: %d calls wait", ErrFull, q.count)
	case bytes+size > q.limits.bytes:
		return 0, fmt.Errorf("%w: the calls that wait take %d bytes, this one %d, at most %d are allowed", ErrFull, bytes, size, q.limits.bytes)
	}
	merged = len(last)
	for _, e := range last {
		q.remove(e)
	}
	if c == nil {
		c = &chain{id: id}
		q.chains[id] = c
	}
	c.entries = c.entries[:len(c.entries)-merged]
	e := &entry{item: item, size: size, at: now, chain: c}
	c.entries = append(c.entries, e)
	q.add(e)
	if c.owner == nil {
		q.queueOf(q.ownerOf(item)).push(c)
		q.reschedule(c.owner)
	}
	return merged, nil
}

// merge returns the last entries of c that item replaces, the call to add in their
// place, and whether item is a duplicate to be ignored. It changes nothing. c may be
// nil.
func (c *chain) merge(item *pb.Item) (last []*entry, merged *pb.Item, duplicate bool) {
	if c == nil {
		return nil, item, false
	}
	waiting := c.entries
	if c.waiting == nil {
		waiting = waiting[1:] // the owner may have the one in flight
	}
	for keep := len(waiting); keep > 0; keep-- {
		w := waiting[keep-1].item
		switch compare(w, item) {
		case identical:
			return nil, item, true
		case superseded:
			continue
		case combinable:
			return waiting[keep-1:], combine(w, item), false
		}
		return waiting[keep:], item, false
	}
	return waiting, item, false
}

// add counts an entry, as the newest one.
func (q *queue) add(e *entry) {
	q.count++
	q.bytes += e.size
	e.age = q.byAge.PushBack(e)
}

func (q *queue) remove(e *entry) {
	q.count--
	q.bytes -= e.size
	if e.age != nil {
		q.byAge.Remove(e.age)
	}
}

// attempt is one delivery in flight.
type attempt struct {
	item  *pb.Item
	chain *chain
	// failures of the owner when the attempt started. If the owner has failed since,
	// the failure of this attempt is not counted again.
	failures int
}

// plan is what to do now.
type plan struct {
	attempts []attempt
	expired  []*pb.Item
	wake     time.Time // when to plan again, if nothing happens before; zero: never
}

// next starts all attempts that may start, and drops the calls that are too old.
func (q *queue) next(now time.Time) plan {
	var p plan
	p.expired = q.expire(now)
	for o := q.nextOwner(now); o != nil; o = q.nextOwner(now) {
		c := o.pop()
		if name := q.ownerOf(c.entries[0].item); name != o.name {
			q.queueOf(name).push(c) // the ring has changed
			q.reschedule(c.owner)
			q.reschedule(o)
			continue
		}
		o.inFlight++
		q.inFlight++
		if o.failures > 0 {
			q.probes++
		}
		p.attempts = append(p.attempts, attempt{c.entries[0].item, c, o.failures})
		q.reschedule(o)
	}
	if oldest := q.byAge.Front(); oldest != nil {
		p.wake = oldest.Value.(*entry).at.Add(q.limits.age)
	}
	if len(q.failing) > 0 && q.canProbe() {
		if at := q.failing[0].retryAt; p.wake.IsZero() || at.Before(p.wake) {
			p.wake = at
		}
	}
	return p
}

// expire drops the calls that are too old. An entry in flight stays until its
// attempt completes.
func (q *queue) expire(now time.Time) (expired []*pb.Item) {
	for oldest := q.byAge.Front(); oldest != nil; oldest = q.byAge.Front() {
		e := oldest.Value.(*entry)
		if now.Sub(e.at) < q.limits.age {
			break
		}
		c := e.chain
		if c.waiting == nil && c.entries[0] == e {
			q.byAge.Remove(e.age)
			e.age = nil
			continue
		}
		expired = append(expired, e.item)
		q.remove(e)
		c.drop(slices.Index(c.entries, e))
		if len(c.entries) == 0 {
			c.owner.chains.Remove(c.waiting)
			delete(q.chains, c.id)
			q.reschedule(c.owner)
		}
	}
	return expired
}

// outcome is how an attempt ended.
type outcome uint8

const (
	answered    outcome = iota // the owner decided, or rejected the call for good
	failed                     // retry after a backoff
	interrupted                // retry; this says nothing about the owner
)

// complete ends an attempt. It reports whether the call was dropped because it is
// too old.
func (q *queue) complete(now time.Time, a attempt, result outcome) (expired bool) {
	c, o := a.chain, a.chain.owner
	e := c.entries[0]
	o.inFlight--
	q.inFlight--
	if a.failures > 0 {
		q.probes--
	}
	switch result {
	case answered:
		o.failures = 0
	case failed:
		if a.failures == o.failures {
			o.failures++
			o.retryAt = now.Add(q.backoff(o.failures))
		}
	}
	expired = result != answered && now.Sub(e.at) >= q.limits.age
	if result == answered || expired {
		q.remove(e)
		c.drop(0)
	}
	if len(c.entries) > 0 {
		o.push(c)
	} else {
		delete(q.chains, c.id)
	}
	q.reschedule(o)
	return expired
}

// retryNow ends every backoff. An owner that failed still gets one probe only.
func (q *queue) retryNow(now time.Time) {
	for _, o := range q.owners {
		if o.failures > 0 {
			o.failures, o.retryAt = 1, now
		}
	}
	heap.Init(&q.failing)
}
