// SPDX-License-Identifier: Apache-2.0

package audit

import "math/bits"

// refill turns time into units of a dimension, in fractions of 2^-shift. All
// results of one refill are below 2^62.
type refill struct {
	amount, window uint64
	base           int64 // time 0
	shift          uint
}

// limitBits bounds all sums, in fractions.
const limitBits = 61

// newRefill returns a refill for sums up to total between the times base and end.
// It has as much precision as fits; ok is false if not even whole units fit.
func newRefill(amount, window, base, end, total int64) (r refill, ok bool) {
	r = refill{amount: uint64(amount), window: uint64(window), base: base}
	whole, fits := r.scaled(uint64(end - base))
	if !fits || whole >= 1<<(limitBits-1) || total < 0 || total >= 1<<(limitBits-1) {
		return r, false
	}
	room := limitBits - bits.Len64(whole+uint64(total))
	r.shift = uint(max(0, min(20, room, limitBits-bits.Len64(r.amount))))
	return r, true
}

func (r refill) scaled(t uint64) (uint64, bool) {
	hi, lo := bits.Mul64(t, r.amount<<r.shift)
	if hi >= r.window {
		return 0, false
	}
	q, _ := bits.Div64(hi, lo, r.window)
	return q, true
}

// at is what was refilled until t, rounded down.
func (r refill) at(t int64) int64 {
	if t <= r.base {
		return 0
	}
	return r.during(t - r.base)
}

// during is what is refilled in d, rounded down.
func (r refill) during(d int64) int64 {
	n, ok := r.scaled(uint64(d))
	if !ok || n > 1<<limitBits {
		return 1 << limitBits
	}
	return int64(n)
}

// units is x in whole units, rounded up.
func (r refill) units(x int64) int64 { return (x + 1<<r.shift - 1) >> r.shift }

// queue is a tree over charges in an order of time. It knows the largest, over
// all charges that are in it, of the refill until one plus all costs from it on:
// the level of a bucket, but for the refill until now.
type queue struct {
	nodes  []queueNode
	leaves int
}

type queueNode struct{ sum, best int64 }

const nothing = -1 << 62

// reset empties the queue and makes room for n charges.
func (q *queue) reset(n int) {
	q.leaves = 1
	for q.leaves < n {
		q.leaves *= 2
	}
	if cap(q.nodes) < 2*q.leaves {
		q.nodes = make([]queueNode, 2*q.leaves)
	}
	q.nodes = q.nodes[:2*q.leaves]
	for i := range q.nodes {
		q.nodes[i] = queueNode{0, nothing}
	}
}

// set makes cost the cost of charge i, at which refilled had been refilled.
func (q *queue) set(i int, refilled, cost int64) {
	i += q.leaves
	q.nodes[i] = queueNode{cost, refilled + cost}
	for i /= 2; i > 0; i /= 2 {
		left, right := &q.nodes[2*i], &q.nodes[2*i+1]
		q.nodes[i] = queueNode{left.sum + right.sum, max(right.best, left.best+right.sum)}
	}
}

// best is below 0 if the queue is empty.
func (q *queue) best() int64 { return q.nodes[1].best }
