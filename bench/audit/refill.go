// SPDX-License-Identifier: Apache-2.0

package audit

import "math/bits"

// refill converts time to units of a dimension, in fractions of 2^-shift. All results of
// one refill are below 2^62.
type refill struct {
	amount, window uint64
	base           int64 // time 0
	shift          uint
}

// maxBits bounds all sums, including the fraction.
const maxBits = 61

// newRefill returns a refill for sums up to total between base and end, with as much
// precision as fits. ok is false if not even whole units fit.
func newRefill(amount, window, base, end, total int64) (r refill, ok bool) {
	r = refill{amount: uint64(amount), window: uint64(window), base: base}
	whole, fits := r.scaled(uint64(end - base))
	if !fits || whole >= 1<<(maxBits-1) || total < 0 || total >= 1<<(maxBits-1) {
		return r, false
	}
	room := maxBits - bits.Len64(whole+uint64(total))
	r.shift = uint(max(0, min(20, room, maxBits-bits.Len64(r.amount))))
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

// at returns the refill until t, rounded down.
func (r refill) at(t int64) int64 {
	if t <= r.base {
		return 0
	}
	return r.during(t - r.base)
}

// during returns the refill within d, rounded down.
func (r refill) during(d int64) int64 {
	n, ok := r.scaled(uint64(d))
	if !ok || n > 1<<maxBits {
		return 1 << maxBits
	}
	return int64(n)
}

// units returns x in whole units, rounded up.
func (r refill) units(x int64) int64 { return (x + 1<<r.shift - 1) >> r.shift }

// segmentTree is a tree over charges ordered by time. It maintains the maximum, over all
// charges, of the refill until a charge plus all costs from that charge on. That is the
// level of a bucket plus the refill until now.
type segmentTree struct {
	nodes  []treeNode
	leaves int
}

type treeNode struct{ sum, best int64 }

const noValue = -1 << 62

// reset empties the tree and makes room for n charges.
func (q *segmentTree) reset(n int) {
	q.leaves = 1
	for q.leaves < n {
		q.leaves *= 2
	}
	if cap(q.nodes) < 2*q.leaves {
		q.nodes = make([]treeNode, 2*q.leaves)
	}
	q.nodes = q.nodes[:2*q.leaves]
	for i := range q.nodes {
		q.nodes[i] = treeNode{0, noValue}
	}
}

// set sets the cost of charge i, made when refilled units had been refilled.
func (q *segmentTree) set(i int, refilled, cost int64) {
	i += q.leaves
	q.nodes[i] = treeNode{cost, refilled + cost}
	for i /= 2; i > 0; i /= 2 {
		left, right := &q.nodes[2*i], &q.nodes[2*i+1]
		q.nodes[i] = treeNode{left.sum + right.sum, max(right.best, left.best+right.sum)}
	}
}

// max is negative if the tree is empty.
func (q *segmentTree) max() int64 { return q.nodes[1].best }
