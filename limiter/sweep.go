// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"maps"
	"time"
)

// sweepStep bounds the records visited under one lock.
const sweepStep = 64

// sweepAge is how long a record stays after its last use, so that a key in use
// is not made anew all the time.
const sweepAge = int64(10 * time.Second)

// Sweep visits up to n records, forgets those that hold nothing, and ends
// leases and memories that are due. It takes one partition's lock at a time, for
// a few microseconds, and goes on where it stopped. One call at a time.
func (e *Engine) Sweep(now Time, n int) (removed int) {
	for n > 0 {
		s := &e.shards[e.sweepPartition]
		s.Lock()
		visited, gone, done := s.sweep(now, min(n, sweepStep))
		s.Unlock()
		removed += gone
		n -= max(visited, 1)
		if done {
			e.sweepPartition = (e.sweepPartition + 1) % Partitions
		}
	}
	return removed
}

func (p *partition) sweep(now Time, n int) (visited, removed int, done bool) {
	now = p.tick(now)
	for ; visited < n; visited++ {
		if p.sweptRecord = p.records.next(p.sweptRecord); p.sweptRecord == 0 {
			p.bucketBlocks.trim()
			p.handles.trim()
			p.names.trim()
			p.rings.trim()
			p.entries.trim()
			p.reservations.trim()
			p.charges.trim()
			return visited, removed, true
		}
		rec := p.records.at(p.sweptRecord)
		if rec.pins > 0 || now.Mono-rec.advancedAt < sweepAge {
			continue
		}
		if use, _ := p.usedShare(rec, now); use == 0 {
			p.remove(p.sweptRecord)
			removed++
		}
	}
	return visited, removed, false
}

// counters are a partition's share of Stats.
type partitionStats struct {
	expired, forgotten, tableFull int64
	evicted                       [evictionReasons]int64
	overruns                      map[Dimension]int64
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

// Stats is a sum over all partitions.
type Stats struct {
	Keys         int   // records: a key at one level, or with one model
	Reservations int   // live
	IDs          int   // remembered, live reservations included
	Expired      int64 // leases that ran out
	Forgotten    int64 // ids dropped before their time, for want of room
	Evicted      [evictionReasons]int64
	TableFull    int64 // calls denied for want of room
	// Overrun is what settles and forced calls were beyond the debt that a bucket
	// may carry: it was served and is not charged. In units, by dimension.
	Overrun map[Dimension]int64
}

// Stats takes one lock at a time; the sum is not of one instant.
func (e *Engine) Stats() Stats {
	s := Stats{Overrun: map[Dimension]int64{}}
	for i := range e.shards {
		shard := &e.shards[i]
		shard.Lock()
		s.Keys += int(shard.records.n)
		s.Reservations += len(shard.leaseHeap)
		s.IDs += int(shard.entries.n)
		s.Expired += shard.stats.expired
		s.Forgotten += shard.stats.forgotten
		s.TableFull += shard.stats.tableFull
		for r, n := range shard.stats.evicted {
			s.Evicted[r] += n
		}
		over := maps.Clone(shard.stats.overruns)
		shard.Unlock()
		for d, n := range over {
			s.Overrun[d] = satAdd(s.Overrun[d], n)
		}
	}
	return s
}
