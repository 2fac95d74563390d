// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"maps"
	"time"
)

// sweepStep is the most records visited under one lock.
const sweepStep = 64

// sweepAge is how long an unused record is kept, so that a key in use is not removed
// and created all the time. In nanoseconds.
const sweepAge = int64(10 * time.Second)

// Sweep visits up to n records and removes those without usage. It also ends expired
// leases and forgets request ids after their retention. Each call continues where the
// last one stopped and holds one partition's lock at a time, for a few microseconds.
// Calls of Sweep must not overlap.
func (e *Engine) Sweep(now Time, n int) (removed int) {
	for n > 0 {
		s := &e.shards[e.sweepPartition]
		s.Lock()
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
	for ; visited < n; visited++ {
		if p.sweptRecord = p.records.next(p.sweptRecord); p.sweptRecord == 0 {
			p.bucketBlocks.trim()
			p.handles.trim()
			p.names.trim()
			p.rings.trim()
			p.entries.trim()
			p.reservations.trim()
			p.charges.trim()
			p.ids.trim()
			if largest := p.largestAccount(); largest != 0 {
				a := p.accounts.at(largest)
				p.engine.ids.observe(a.root, a.n)
			}
			return visited, removed, true
		}
		rec := p.records.at(p.sweptRecord)
		if rec.pins > 0 || now.Mono-rec.advancedAt < sweepAge {
			continue
		}
		if share, _ := p.usedShare(rec, now); share == 0 {
			p.remove(p.sweptRecord)
			removed++
		}
	}
	return visited, removed, false
}

// partitionStats are the counters of one partition.
type partitionStats struct {
	expired, forgotten, tableFull, idsFull int64
	evicted                                [evictionReasons]int64
	overruns                               map[Dimension]int64
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
	Keys         int                    // records: one for each level of a key, and for each model with its own limits
	Reservations int                    // live reservations
	IDs          int                    // remembered request ids, including those of live reservations
	Expired      int64                  // leases that expired
	Forgotten    int64                  // request ids forgotten before their time, for lack of room
	Evicted      [evictionReasons]int64 // records evicted, by [EvictionReason]
	TableFull    int64                  // requests denied for lack of room for a key
	IDsFull      int64                  // reserves denied because live reservations filled the share of their root
	// Overrun is usage that was not charged because it exceeded the maximum debt of a
	// token bucket, in units by dimension.
	Overrun map[Dimension]int64
}

// Stats returns statistics of the engine. It locks one partition at a time, so the
// sums are not of one instant.
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
		s.IDsFull += shard.stats.idsFull
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
