// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"slices"

	"github.com/bucketring/bucketring/internal/keypath"
)

// Checks of many keys spend most of their time waiting for memory: for the partition, the
// tags of a table and the record. Under the locks of a group of partitions, each of these
// is read for all requests of the group in one loop, so that the cache misses overlap.
const (
	batchGroup = 16 // most partitions locked together
	groupSize  = 64 // most requests decided under these locks, in some 20 us
)

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
	order = e.decideGroups(now, order, roots[:], rs, ds, errs, false)
	e.decideGroups(now, order, roots[:], rs, ds, errs, true)
}

// decideGroups decides requests in groups. It returns those whose partition is locked by
// others, or waits for them if wait is set, without holding a lock meanwhile. So no
// request waits for the lock of another's partition, as long as there are others to
// decide, and there can be no deadlock.
func (e *Engine) decideGroups(now Time, order []uint32, roots []uint64, rs []*Request, ds []*Decision, errs []error, wait bool) (busy []uint32) {
	var locations [maxPrefetch]location
	var buf [groupSize]uint32
	busy = order[:0]
	for len(order) > 0 {
		e.preload(order)
		group, partitions := buf[:0], 0
		for len(order) > 0 && len(group) < groupSize && partitions < batchGroup {
			n := 1 // requests for the first partition
			for n < len(order) && order[n]>>16 == order[0]>>16 {
				n++
			}
			s := &e.shards[order[0]>>16]
			switch {
			case wait && partitions == 0:
				s.Lock()
			case s.TryLock():
			case wait:
				partitions = batchGroup // decide what is locked first
				continue
			default:
				busy, order = append(busy, order[:n]...), order[n:]
				continue
			}
			n = min(n, groupSize-len(group))
			group, order = append(group, order[:n]...), order[n:]
			partitions++
		}
		prefetch(locations[:e.locate(locations[:0], group, rs)])
		e.prefetchIDs(group, roots, rs)
		for i, o := range group {
			s, k := &e.shards[o>>16], o&0xffff
			errs[k] = s.decide(now, roots[k], rs[k], ds[k], false)
			if i == len(group)-1 || group[i+1]>>16 != o>>16 {
				s.Unlock()
			}
		}
	}
	return busy
}

// preload reads the partitions of the next group before they are locked.
func (e *Engine) preload(order []uint32) {
	partitions := 0
	for i, o := range order[:min(len(order), groupSize)] {
		if i > 0 && order[i-1]>>16 == o>>16 {
			continue
		}
		if e.shards[o>>16].engine != e {
			panic("limiter: a partition of another engine")
		}
		if partitions++; partitions == batchGroup {
			return
		}
	}
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

// idPlace is where the memory for a request's id is.
type idPlace struct {
	partition *partition
	root      uint64
	position  uint32 // of the id in the index of ids
	account   uint32 // of the root, or of another one whose place the search passes; 0: there is none
	cell      uint64 // where the search for the id begins
}

// prefetchIDs reads what requests with ids need besides records: the account of the root, the
// place in the index of ids, and the entries that a new one is queued behind and pushes out.
func (e *Engine) prefetchIDs(order []uint32, roots []uint64, rs []*Request) {
	var list [groupSize]idPlace
	n := 0
	for _, o := range order {
		p, k := &e.shards[o>>16].partition, o&0xffff
		if rs[k].ID != "" && p.accounts.index.n > 0 {
			list[n] = idPlace{partition: p, root: roots[k], position: e.position(idKeyOf(roots[k], rs[k].ID))}
			n++
		}
	}
	places := list[:n]
	for i := range places {
		at := &places[i]
		at.account = at.partition.accounts.near(at.root)
		if cells := at.partition.ids.table(at.position).cells; len(cells) > 0 {
			at.cell = cells[home(at.position, len(cells))]
		}
	}
	sum := uint64(0)
	for i := range places {
		at := &places[i]
		if at.account != 0 {
			at.account = at.partition.accounts.at(at.account).checks.tail
		}
		sum += at.cell
	}
	for i := range places {
		if at := &places[i]; at.account != 0 {
			sum += at.partition.entries.at(at.account).hash
		}
	}
	keepRead(uint8(sum))
}

// keepRead keeps the compiler from removing the reads of prefetch.
//
//go:noinline
func keepRead(uint8) {}
