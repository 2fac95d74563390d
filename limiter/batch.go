// SPDX-License-Identifier: Apache-2.0

package limiter

import "slices"

// batchGroup is how many partitions a batch locks together. Between the locks
// and the decisions it looks all their records up, one after the other with
// nothing in between that waits, so that the memory they live in is fetched for
// all of them at once.
const batchGroup = 16

// maxBatch bounds the items that are sorted together.
const maxBatch = 1024

// CheckBatch is Check for every request: errs[i] is the error and ds[i] the
// decision of rs[i], and the slices have the same length. Requests for one root
// are decided in their order; others in any.
func (e *Engine) CheckBatch(now Time, rs []*Request, ds []*Decision, errs []error) {
	for len(rs) > maxBatch {
		e.checkBatch(now, rs[:maxBatch], ds[:maxBatch], errs[:maxBatch])
		rs, ds, errs = rs[maxBatch:], ds[maxBatch:], errs[maxBatch:]
	}
	e.checkBatch(now, rs, ds, errs)
}

func (e *Engine) checkBatch(now Time, rs []*Request, ds []*Decision, errs []error) {
	var sorted [maxBatch]uint32 // partition<<16 | item
	var roots [maxBatch]uint64
	order := sorted[:len(rs)]
	for i, r := range rs {
		roots[i] = hashRoot(rootOf(r.Key))
		order[i] = uint32(roots[i]%Partitions)<<16 | uint32(i)
	}
	slices.Sort(order)
	for len(order) > 0 {
		n := e.lockGroup(order)
		var warm uint32
		for _, o := range order[:n] {
			warm += e.cells[o>>16].touchRecords(rs[o&0xffff])
		}
		batchWarm(warm)
		for i, o := range order[:n] {
			c, k := &e.cells[o>>16], o&0xffff
			errs[k] = c.decide(now, roots[k], rs[k], ds[k], false)
			if i == n-1 || order[i+1]>>16 != o>>16 {
				c.Unlock()
			}
		}
		order = order[n:]
	}
}

// lockGroup locks the first partitions of a sorted order, and returns how many
// items are theirs. All who lock several do it in this order.
func (e *Engine) lockGroup(order []uint32) int {
	groups := 0
	for i, o := range order {
		if i > 0 && order[i-1]>>16 == o>>16 {
			continue
		}
		if groups == batchGroup {
			return i
		}
		groups++
		e.cells[o>>16].Lock()
	}
	return len(order)
}

// touchRecords brings the records of a request into the cache.
func (p *partition) touchRecords(r *Request) (sum uint32) {
	for i := range r.Plan.Count {
		level := &r.Plan.Levels[i]
		if _, rec := p.find(r.Key[:level.End], ""); rec != nil {
			sum += uint32(rec.slots[slotsPerRecord-1].lo)
		}
	}
	return sum
}

// batchWarm uses a value, so that reading it is not optimised away.
//
//go:noinline
func batchWarm(uint32) {}
