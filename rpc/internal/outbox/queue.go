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

// The queue is all there is to decide about what is delivered when. It has no
// clock, lock or goroutine: time is an argument, randomness is given to it, and
// no order of maps shows in what it returns.
//
// Entries of one address form a chain, of which the first one is delivered at a
// time. Chains of one owner form a lane (lane.go). All entries form a list by
// age.

// overhead is about what an entry takes beside its encoded size: the structs of
// the message, of the entry and its part of a chain.
const overhead = 512

type limits struct {
	entries, bytes, underWay int
	age                      time.Duration
}

type queue struct {
	limits  limits
	ownerOf func(*pb.Item) string
	rand    *rand.Rand

	chains   map[address]*chain // none is empty
	lanes    map[string]*lane   // those with a chain, waiting or under way
	ready    list.List          // of *lane, in turn: those that work and may start an attempt
	ailing   laneHeap           // those that have failed and may, by when it is due
	underWay int                // attempts; at most limits.underWay
	probes   int                // of those, the ones that started in a lane that had failed

	count, bytes int       // of all entries; within limits
	ages         list.List // of *entry, by at, but for those that are gone
}

// entry is a call that waits or is under way.
type entry struct {
	item  *pb.Item
	size  int
	at    time.Time // of the last put that it stands for
	chain *chain
	age   *list.Element // in queue.ages; nil: too old while under way, not to be tried again
}

// chain is the entries of one address, in the order of their puts.
type chain struct {
	address address
	entries []*entry
	lane    *lane
	turn    *list.Element // in lane.chains; nil: entries[0] is under way
}

// drop takes entry i out. It is the first one, or the second behind one that is
// under way, so this is quick however long the chain is.
func (c *chain) drop(i int) {
	copy(c.entries[1:i+1], c.entries[:i])
	c.entries[0] = nil
	c.entries = c.entries[1:]
}

func newQueue(l limits, ownerOf func(*pb.Item) string, r *rand.Rand) *queue {
	return &queue{limits: l, ownerOf: ownerOf, rand: r, chains: map[address]*chain{}, lanes: map[string]*lane{}}
}

func (q *queue) len() int { return q.count }

// put adds a call, and says how many entries are needless for it: its own, or
// those that it takes the place of.
func (q *queue) put(now time.Time, item *pb.Item) (merged int, err error) {
	at, err := addressOf(item)
	if err != nil {
		return 0, err
	}
	c := q.chains[at]
	last, item, repeated := c.merge(item)
	if repeated {
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
		q.forget(e)
	}
	if c == nil {
		c = &chain{address: at}
		q.chains[at] = c
	}
	c.entries = c.entries[:len(c.entries)-merged]
	e := &entry{item: item, size: size, at: now, chain: c}
	c.entries = append(c.entries, e)
	q.remember(e)
	if c.lane == nil {
		q.laneOf(q.ownerOf(item)).push(c)
		q.place(c.lane)
	}
	return merged, nil
}

// merge returns the last entries of a chain, those that a new call takes the
// place of; the call that does so; and whether the call is a repeat that adds
// nothing. It changes nothing.
func (c *chain) merge(item *pb.Item) (last []*entry, merged *pb.Item, repeated bool) {
	if c == nil {
		return nil, item, false
	}
	waiting := c.entries
	if c.turn == nil {
		waiting = waiting[1:] // what is under way has been read
	}
	for keep := len(waiting); keep > 0; keep-- {
		w := waiting[keep-1].item
		switch compare(w, item) {
		case repeat:
			return nil, item, true
		case replace:
			continue
		case join:
			return waiting[keep-1:], joined(w, item), false
		}
		return waiting[keep:], item, false
	}
	return waiting, item, false
}

// remember counts an entry, as the newest one.
func (q *queue) remember(e *entry) {
	q.count++
	q.bytes += e.size
	e.age = q.ages.PushBack(e)
}

func (q *queue) forget(e *entry) {
	q.count--
	q.bytes -= e.size
	if e.age != nil {
		q.ages.Remove(e.age)
	}
}

// attempt is one delivery under way.
type attempt struct {
	item  *pb.Item
	chain *chain
	// failures of the lane when the attempt started: what comes of an attempt
	// that is older than the last failure says nothing new.
	failures int
}

// plan is what to do now.
type plan struct {
	attempts []attempt
	expired  []*pb.Item
	wake     time.Time // ask again then, if not sooner; zero: no need
}

// next starts what may start, and drops what is too old.
func (q *queue) next(now time.Time) plan {
	var p plan
	p.expired = q.expire(now)
	for l := q.choose(now); l != nil; l = q.choose(now) {
		c := l.pop()
		if name := q.ownerOf(c.entries[0].item); name != l.owner {
			q.laneOf(name).push(c) // the ring has changed
			q.place(c.lane)
			q.place(l)
			continue
		}
		l.underWay++
		q.underWay++
		if l.failures > 0 {
			q.probes++
		}
		p.attempts = append(p.attempts, attempt{c.entries[0].item, c, l.failures})
		q.place(l)
	}
	if oldest := q.ages.Front(); oldest != nil {
		p.wake = oldest.Value.(*entry).at.Add(q.limits.age)
	}
	if len(q.ailing) > 0 && q.mayProbe() {
		if due := q.ailing[0].due; p.wake.IsZero() || due.Before(p.wake) {
			p.wake = due
		}
	}
	return p
}

// expire drops what is too old. An entry that is under way stays until it comes
// back.
func (q *queue) expire(now time.Time) (expired []*pb.Item) {
	for oldest := q.ages.Front(); oldest != nil; oldest = q.ages.Front() {
		e := oldest.Value.(*entry)
		if now.Sub(e.at) < q.limits.age {
			break
		}
		c := e.chain
		if c.turn == nil && c.entries[0] == e {
			q.ages.Remove(e.age)
			e.age = nil
			continue
		}
		expired = append(expired, e.item)
		q.forget(e)
		c.drop(slices.Index(c.entries, e))
		if len(c.entries) == 0 {
			c.lane.chains.Remove(c.turn)
			delete(q.chains, c.address)
			q.place(c.lane)
		}
	}
	return expired
}

// outcome is what came of an attempt.
type outcome uint8

const (
	answered outcome = iota // the owner has decided, if only to refuse
	failed                  // try again
	stopped                 // try again; the owner is not to blame
)

// done takes an attempt back. It reports whether the entry was dropped because
// it is too old.
func (q *queue) done(now time.Time, a attempt, came outcome) (expired bool) {
	c, l := a.chain, a.chain.lane
	e := c.entries[0]
	l.underWay--
	q.underWay--
	if a.failures > 0 {
		q.probes--
	}
	switch came {
	case answered:
		l.failures = 0
	case failed:
		if a.failures == l.failures {
			l.failures++
			l.due = now.Add(q.backoff(l.failures))
		}
	}
	expired = came != answered && now.Sub(e.at) >= q.limits.age
	if came == answered || expired {
		q.forget(e)
		c.drop(0)
	}
	if len(c.entries) > 0 {
		l.push(c)
	} else {
		delete(q.chains, c.address)
	}
	q.place(l)
	return expired
}

// kick makes every lane due now. One that has failed is still asked carefully.
func (q *queue) kick(now time.Time) {
	for _, l := range q.lanes {
		if l.failures > 0 {
			l.failures, l.due = 1, now
		}
	}
	heap.Init(&q.ailing)
}
