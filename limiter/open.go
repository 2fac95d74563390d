// SPDX-License-Identifier: Apache-2.0

package limiter

// A partition is open, and decides, or closed. A closed one may hold a copy of the state
// of the node that decides. Nothing happens in a copy by itself, except that the sweep
// removes unused records and ids whose retention is over: leases do not expire, and
// nothing is evicted for the sake of open partitions. Copies have bounds of their own,
// [Options].MaxKeys and MaxIDs again.

// Close makes a partition refuse all calls with [ErrClosed], except Peek. When it returns,
// no call is in progress there. It returns the number of the last change. It does nothing
// to a closed partition.
func (e *Engine) Close(partition int) (seq uint64) {
	s := &e.shards[partition]
	s.Lock()
	defer s.Unlock()
	if !s.records.closed {
		s.leavePools()
		s.records.closed = true
		s.joinPools(partition)
	}
	return s.seq
}

// Open lets a partition decide again. Its next change has a number above seq and above that
// of the last change. Leases that were over while it was closed expire from now on. If its
// state exceeds the room that the engine has left, the sweep and new keys evict records,
// and new ids displace others. Open does nothing to an open partition.
func (e *Engine) Open(partition int, seq uint64) {
	s := &e.shards[partition]
	s.Lock()
	defer s.Unlock()
	if !s.records.closed {
		return
	}
	s.leavePools()
	s.records.closed = false
	s.joinPools(partition)
	s.seq = max(s.seq, seq)
	s.idsDue = min(s.idsDue, s.idsNext) // expired reservations may be removed from now on
	s.nextDue = min(s.nextDue, s.idsDue)
	if len(s.leaseHeap) > 0 {
		s.nextDue = min(s.nextDue, s.entries.at(s.leaseHeap[0]).due)
	}
}

// Clear empties a closed partition; the number of its last change is 0 then. It does
// nothing to an open one.
func (e *Engine) Clear(partition int) {
	s := &e.shards[partition]
	s.Lock()
	defer s.Unlock()
	if s.records.closed {
		s.clear(e, partition)
	}
}

// clear empties a closed partition.
func (s *shard) clear(e *Engine, number int) {
	empty := newPartition(e)
	s.replace(&empty, number)
	s.seq = 0
	s.forgetAllChanges()
}

// replace replaces the state of a partition by that of fresh, which is of no pool yet. A
// snapshot and a message of changes in progress are finished first.
func (s *shard) replace(fresh *partition, number int) {
	if s.records.reading {
		s.reading.finishRead()
	}
	if s.snapshot != nil {
		s.snapshot.finish()
	}
	s.leavePools()
	fresh.stats = s.stats
	fresh.records.closed, fresh.records.tracked = s.records.closed, s.records.tracked
	s.nextDue = fresh.nextDue
	s.records, s.memory = fresh.records, fresh.memory
	s.joinPools(number)
}

// keyPool returns where the records of the partition get their room from.
func (p *partition) keyPool() *quota {
	if p.records.closed {
		return p.engine.copiedKeys
	}
	return p.engine.keys
}

// idPool returns where the ids of the partition get their room from.
func (p *partition) idPool() *quota {
	if p.records.closed {
		return p.engine.copiedIDs
	}
	return &p.engine.ids.quota
}

// leavePools returns all room that the partition has to its pools. It must join pools
// again, those of another state.
func (p *partition) leavePools() {
	p.keyPool().left.Add(int64(p.records.n) + int64(p.keyQuota))
	p.idPool().left.Add(int64(p.entries.n) + int64(p.idQuota))
	p.keyQuota, p.idQuota = 0, 0
}

// joinPools takes the room for what the partition has, even if the pools have less. Others
// may evict from an open partition.
func (p *partition) joinPools(number int) {
	p.keyPool().left.Add(-int64(p.records.n))
	p.idPool().left.Add(-int64(p.entries.n))
	largest := &p.engine.largest[number]
	if p.records.closed {
		p.roots.shared = nil
		largest.Store(0)
	} else {
		p.roots.shared = largest
		largest.Store(p.roots.count)
	}
}
