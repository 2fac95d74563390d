// SPDX-License-Identifier: Apache-2.0

package limiter

import "slices"

// batchGroup is how many partitions a batch locks together. A check over many
// keys mostly waits for memory: for the partition, for the tag of the record's
// place and for the record. Under the locks of a group each of these is read for
// all its items in one go, with nothing in between that waits, so that they are
// fetched side by side.
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
	var locations [maxPrefetch]location
	for len(order) > 0 {
		n := e.lockGroup(order)
		prefetch(locations[:e.locate(locations[:0], order[:n], rs)])
		for i, o := range order[:n] {
			s, k := &e.shards[o>>16], o&0xffff
			errs[k] = s.decide(now, roots[k], rs[k], ds[k], false)
			if i == n-1 || order[i+1]>>16 != o>>16 {
				s.Unlock()
			}
		}
		order = order[n:]
	}
}

// lockGroup locks the first partitions of a sorted order, and returns how many
// items are theirs. All who lock several do it in this order.
func (e *Engine) lockGroup(order []uint32) int {
	n, groups := 0, 0
	for ; n < len(order); n++ {
		if n > 0 && order[n-1]>>16 == order[n]>>16 {
			continue
		}
		if groups == batchGroup {
			break
		}
		groups++
		if e.shards[order[n]>>16].engine != e { // read ahead of the lock
			panic("limiter: a partition of another engine")
		}
	}
	for i, o := range order[:n] {
		if i == 0 || order[i-1]>>16 != o>>16 {
			e.shards[o>>16].Lock()
		}
	}
	return n
}

// aim is a record that a batch will need.
type location struct {
	table *table
	pos   int
	tag   uint8
}

// batchAims bounds what is read ahead; the rest waits in its turn.
const maxPrefetch = 4 * batchGroup

// aim collects the records that requests need for all models.
func (e *Engine) locate(locations []location, order []uint32, rs []*Request) int {
	for _, o := range order {
		p, r := &e.shards[o>>16].partition, rs[o&0xffff]
		for i := range r.Plan.Count {
			if len(locations) == cap(locations) || p.records.n == 0 {
				break
			}
			h := p.hashName(r.Key[:r.Plan.Levels[i].End], "")
			_, t := p.records.table(h)
			pos, tag := t.home(h)
			locations = append(locations, location{t, pos, tag})
		}
	}
	return len(locations)
}

// warm reads the tags, and then the records.
func prefetch(locations []location) {
	var sum uint8
	for i := range locations {
		sum += locations[i].table.tags[locations[i].pos]
	}
	for i := range locations {
		loc := &locations[i]
		for t := loc.table; t.tags[loc.pos] != tagFree; loc.pos = (loc.pos + 1) % len(t.tags) {
			if t.tags[loc.pos] == loc.tag {
				rec := &t.records[loc.pos]
				sum += uint8(rec.length) + uint8(rec.buckets[bucketsPerRecord-1].lo)
				break
			}
		}
	}
	keepRead(sum)
}

// use keeps what was read from being optimised away.
//
//go:noinline
func keepRead(uint8) {}
