// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"cmp"
	"maps"
	"time"
)

// What the sweep does under one hold of a lock.
const (
	sweepStep = 64  // the most records and tables visited
	trimStep  = 512 // the most chunks of each slab trimmed
)

// sweepAge is how long an unused record is kept, so that a key in use is not removed
// and created all the time. In nanoseconds.
const sweepAge = int64(10 * time.Second)

// Sweep visits up to n records and removes those without usage. It also ends expired
// leases and forgets request ids after their retention. Each call continues where the
// last one stopped and holds one partition's lock at a time, for a few microseconds.
// Calls of Sweep must not overlap.
func (e *Engine) Sweep(now Time, n int) (removed int) {
	removed = e.keepReserve(now)
	if e.sampler != nil {
		e.sampler.adapt(now)
	}
	for n > 0 {
		s := &e.shards[e.sweepPartition]
		s.Lock()
		if e.sampler != nil {
			e.sampler.sweep(&s.partition, e.sweepPartition, now)
		}
		visited, swept, done := s.sweep(now, min(n, sweepStep))
		more := s.nextDue <= s.mono
		s.Unlock()
		for more {
			s.Lock()
			s.tick(now)
			more = s.nextDue <= s.mono
			s.Unlock()
		}
		removed += swept
		n -= max(visited, 1)
		if done {
			e.sweepPartition = (e.sweepPartition + 1) % Partitions
		}
	}
	return removed
}

func (p *partition) sweep(now Time, n int) (visited, removed int, done bool) {
	now = p.tick(now)
	for ; visited < n && p.trimmed == 0; visited++ {
		last, found := p.sweptRecord, false
		if p.sweptRecord, found = p.records.next(last); !found {
			p.records.shrink(last, p.rehash, p.recordMoved) // the table that was visited
			if p.sweptRecord == 0 {
				return visited + 1, removed, !p.trim()
			}
			continue
		}
		rec := p.records.at(p.sweptRecord)
		if rec.pins > 0 || now.Mono-rec.advancedAt < sweepAge {
			continue
		}
		if p.isUnused(rec, now) {
			p.remove(p.sweptRecord)
			removed++
		}
	}
	if p.trimmed > 0 {
		return max(visited, 1), removed, !p.trim()
	}
	return visited, removed, false
}

// trim frees some of the memory that is not used any more. It returns whether there may
// be more to free.
func (p *partition) trim() (more bool) {
	m, from, to := p.memory, p.trimmed, p.trimmed+trimStep
	for _, slabHasMore := range [...]bool{
		m.bucketBlocks.trim(from, to), m.handles.trim(from, to), m.names.trim(from, to), m.rings.trim(from, to),
		m.timelines.trim(from, to), m.entries.trim(from, to), m.reservations.trim(from, to), m.charges.trim(from, to),
	} {
		more = more || slabHasMore
	}
	if p.trimmed = to; !more {
		p.trimmed = 0
		p.ids.trim()
		if largest := p.largestAccount(); largest != 0 && !p.records.closed {
			a := p.accounts.at(largest)
			p.engine.ids.observe(a.root, a.n)
		}
	}
	return more
}

// partitionStats are the counters of one partition.
type partitionStats struct {
	expired, forgotten, tableFull, idsFull, copyDropped int64
	slicesLent, slicesReturned, slicesExpired           int64
	kept, keptKnown, keptCharged                        int64

	evicted                  [evictionReasons]int64
	overruns, budgetsEvicted map[Dimension]int64
}

// budgetEvicted counts what was used of a budget that was evicted. Units of counters are
// hits.
func (c *partitionStats) budgetEvicted(l *limit, units int64) {
	if c.budgetsEvicted == nil {
		c.budgetsEvicted = map[Dimension]int64{}
	}
	of := cmp.Or(l.Dimension, "hits")
	c.budgetsEvicted[of] = satAdd(c.budgetsEvicted[of], units)
}

func (c *partitionStats) overrun(l *limit, units int64) {
	if units == 0 {
		return
	}
	if c.overruns == nil {
		c.overruns = map[Dimension]int64{}
	}
	c.overruns[l.Dimension] = satAdd(c.overruns[l.Dimension], units)
}

// Stats are sums over all partitions. The int64 fields only ever grow.
type Stats struct {
	Keys         int                    // records in open partitions: one for each level of a key, and for each model with its own limits
	Reservations int                    // live reservations in open partitions
	Slices       int                    // slices that are lent, in open partitions
	IDs          int                    // remembered request ids in open partitions, including those of live reservations
	CopiedKeys   int                    // records in closed partitions
	CopiedIDs    int                    // remembered request ids in closed partitions
	CopyDropped  int64                  // records and ids that closed partitions dropped for lack of room
	Expired      int64                  // leases that expired
	Forgotten    int64                  // request ids forgotten before their time, for lack of room
	Evicted      [evictionReasons]int64 // records evicted, by [EvictionReason]
	TableFull    int64                  // requests denied for lack of room for a key
	IDsFull      int64                  // reserves denied because live reservations filled the share of their root
	// Slices that were lent, those that were returned, and those whose lease expired.
	SlicesLent, SlicesReturned, SlicesExpired int64
	// Reservations that slices were returned with: those that were kept, those that the owner
	// had made itself, and those that were charged for good because there was no room for
	// their id, or another call had used it.
	Kept, KeptKnown, KeptCharged int64

	LargestRoot int // records of the root that has the most
	// BudgetEvicted is what was used of budgets that were evicted because it was less
	// than 1 % of each, in units by dimension. At most that much is admitted beyond them.
	BudgetEvicted map[Dimension]int64
	// Overrun is usage that was not charged because it exceeded the maximum debt of a
	// token bucket, in units by dimension.
	Overrun map[Dimension]int64
}

// Stats returns statistics of the engine. It locks one partition at a time, so the
// sums are not of one instant.
func (e *Engine) Stats() Stats {
	s := Stats{Overrun: map[Dimension]int64{}, BudgetEvicted: map[Dimension]int64{}}
	_, largest := e.largestRoot()
	s.LargestRoot = int(largest)
	for i := range e.shards {
		shard := &e.shards[i]
		shard.Lock()
		if shard.records.closed {
			s.CopiedKeys += int(shard.records.n)
			s.CopiedIDs += int(shard.entries.n)
		} else {
			s.Keys += int(shard.records.n)
			s.Reservations += len(shard.leaseHeap) - int(shard.slices)
			s.Slices += int(shard.slices)
			s.IDs += int(shard.entries.n)
		}
		s.CopyDropped += shard.stats.copyDropped
		s.Expired += shard.stats.expired
		s.Forgotten += shard.stats.forgotten
		s.TableFull += shard.stats.tableFull
		s.IDsFull += shard.stats.idsFull
		s.SlicesLent += shard.stats.slicesLent
		s.SlicesReturned += shard.stats.slicesReturned
		s.SlicesExpired += shard.stats.slicesExpired
		s.Kept += shard.stats.kept
		s.KeptKnown += shard.stats.keptKnown
		s.KeptCharged += shard.stats.keptCharged
		for r, n := range shard.stats.evicted {
			s.Evicted[r] += n
		}
		over, evicted := maps.Clone(shard.stats.overruns), maps.Clone(shard.stats.budgetsEvicted)
		shard.Unlock()
		for d, n := range over {
			s.Overrun[d] = satAdd(s.Overrun[d], n)
		}
		for d, n := range evicted {
			s.BudgetEvicted[d] = satAdd(s.BudgetEvicted[d], n)
		}
	}
	return s
}
