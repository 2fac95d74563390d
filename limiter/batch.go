// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"slices"

	"github.com/bucketring/bucketring/internal/keypath"
)

// batchGroup is how many partitions a batch locks together. Checks of many keys
// spend most of their time waiting for memory: for the partition, the tags of a
// table and the record. Under the locks of a group, each of these is read for all
// requests of the group in one loop, so that the cache misses overlap.
const batchGroup = 16

// maxBatch is the most requests that are sorted together.
const maxBatch = 1024

// CheckBatch calls Check for every request of rs. The decision of rs[i] is stored in
// ds[i] and its error in errs[i]; the slices must have the same length. Requests for
// one root are decided in order, others in any order.
func (e *Engine) CheckBatch(now Time, rs []*Request, ds []*Decision, errs []error) {
	for len(rs) > maxBatch {
		e.checkBatch(now, rs[:maxBatch], ds[:maxBatch], errs[:maxBatch])
		rs, ds, errs = rs[maxBatch:], ds[maxBatch:], errs[maxBatch:]
	}
	e.checkBatch(now, rs, ds, errs)
}

func (e *Engine) checkBatch(now Time, rs []*Request, ds []*Decision, errs []error) {
	var sorted [maxBatch]uint32 // partition<<16 | index in rs
	var roots [maxBatch]uint64
	order := sorted[:len(rs)]
	for i, r := range rs {
		roots[i] = keypath.RootHash(r.Key)
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

// lockGroup locks the first partitions of a sorted order and returns how many
// requests belong to them. Ascending order prevents deadlocks between batches.
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
		if e.shards[order[n]>>16].engine != e { // also loads the partition before it is locked
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

// location is where the search for a record begins.
type location struct {
	table *table
	pos   int
	tag   uint8
}

// maxPrefetch is the most records that are prefetched for a group.
const maxPrefetch = 4 * batchGroup

// locate appends the locations of the records that requests need, except those per
// model, and returns their number.
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

// prefetch reads the tags of all locations, and then their records.
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

// keepRead keeps the compiler from removing the reads of prefetch.
//
//go:noinline
func keepRead(uint8) {}
