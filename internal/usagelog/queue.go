// SPDX-License-Identifier: Apache-2.0

package usagelog

import (
	"sync"

	"github.com/bucketring/bucketring/limiter"
)

const (
	// stripes is the number of queues. Calls of one partition use the same one, so that they
	// stay in order, and calls of different partitions rarely wait for each other.
	stripes = 16
	// maxQueued bounds the charges in one queue, each of some 500 bytes: all queues together
	// take 64 MiB at most.
	maxQueued = 1 << 13
)

// event is a charge in a queue. Its texts are in the text of the batch, one after another.
type event struct {
	limiter.Charged // without its texts and costs
	key, id, model  uint16
	serviceTier     uint16
	costs           uint16 // how many; names and amounts are in the batch
}

// batch is a list of charges.
type batch struct {
	events  []event
	text    []byte
	amounts []int64  // of costs
	lengths []uint16 // of the names of their dimensions
}

func (b *batch) reset() {
	clear(b.events) // their tiers
	b.events, b.text, b.amounts, b.lengths = b.events[:0], b.text[:0], b.amounts[:0], b.lengths[:0]
}

// add appends a copy of a charge.
func (b *batch) add(c *limiter.Charged) {
	b.events = append(b.events, event{
		Charged: *c, key: uint16(len(c.Key)), id: uint16(len(c.ID)), model: uint16(len(c.Model)),
		serviceTier: uint16(len(c.ServiceTier)), costs: uint16(len(c.Costs)),
	})
	e := &b.events[len(b.events)-1]
	e.Key, e.ID, e.Model, e.ServiceTier, e.Costs = nil, nil, nil, nil, nil
	b.text = append(append(append(append(b.text, c.Key...), c.ID...), c.Model...), c.ServiceTier...)
	for i := range c.Costs {
		cost := &c.Costs[i]
		b.text = append(b.text, cost.Dimension...)
		b.lengths = append(b.lengths, uint16(len(cost.Dimension)))
		b.amounts = append(b.amounts, cost.Amount)
	}
}

// each calls f for every charge, with its texts. It is valid until f returns.
func (b *batch) each(f func(*limiter.Charged)) {
	text, amounts, lengths := b.text, b.amounts, b.lengths
	take := func(n uint16) (s []byte) {
		s, text = text[:n:n], text[n:]
		return s
	}
	var costs []limiter.ChargedCost
	for i := range b.events {
		e := &b.events[i]
		c := e.Charged
		c.Key, c.ID, c.Model, c.ServiceTier = take(e.key), take(e.id), take(e.model), take(e.serviceTier)
		costs = costs[:0]
		for range e.costs {
			costs = append(costs, limiter.ChargedCost{Dimension: take(lengths[0]), Amount: amounts[0]})
			amounts, lengths = amounts[1:], lengths[1:]
		}
		c.Costs = costs
		f(&c)
	}
}

// queue is one of the queues. It fills cache lines of its own.
type queue struct {
	mu    sync.Mutex
	batch *batch
	_     [64]byte
}

// push appends a charge, and returns how many there are with it; 0: there was no room.
func (q *queue) push(c *limiter.Charged) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.batch.events) == maxQueued {
		return 0
	}
	q.batch.add(c)
	return len(q.batch.events)
}

// swap returns the charges, and continues with an empty batch.
func (q *queue) swap(empty *batch) *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	full := q.batch
	q.batch = empty
	return full
}

// len returns the number of charges.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.batch.events)
}
