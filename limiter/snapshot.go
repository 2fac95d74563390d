// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// snapshotMagic begins every snapshot, and the number of the last change follows. Its last
// byte is the version.
const snapshotMagic = "brs\x05"

// Bounds of what a snapshot does under one hold of the partition's lock.
const (
	// snapshotStep is how many bytes it writes, give or take an item. That is some
	// 250 records of four limits, and takes about 25 us.
	snapshotStep = 16 << 10
	// snapshotLook is how many records, tables and ids it looks at, written or not. It is
	// more than a table has, so that a table which grows again and again is finished.
	snapshotLook = 1024
)

// Snapshot appends the state of a partition as of now to buf and returns the extended
// buffer. Times are relative to now, because monotonic clocks differ between nodes. Only
// the end of a fixed window is an absolute wall time.
//
// It holds the partition's lock for about 25 us at a time, and calls are decided in
// between. What a call changes, it writes to the snapshot first, once, so a snapshot
// ends however many calls there are, and has every charge made before now and none made
// later.
func (e *Engine) Snapshot(now Time, partition int, buf []byte) []byte {
	buf, _ = e.SnapshotAt(now, partition, buf)
	return buf
}

// SnapshotAt is Snapshot. It also returns the number of the last change in the snapshot.
func (e *Engine) SnapshotAt(now Time, partition int, buf []byte) (extended []byte, seq uint64) {
	e.snapshots.Lock()
	defer e.snapshots.Unlock()
	s := e.beginSnapshot(now, partition, buf)
	for s.step(snapshotStep, snapshotLook) {
	}
	if cap(s.buf)+cap(s.spare) <= 4*snapshotChunk {
		e.spareChunks = [2][]byte{s.buf, s.spare}
	}
	return s.out, s.seq
}

// snapshot is a snapshot that is being written.
type snapshot struct {
	stateEncoder        // its buffer is the chunk being filled, and its time when the snapshot began
	out          []byte // what was collected before the chunks
	start        int    // of the snapshot in out
	spare        []byte // a chunk to fill next

	shard    *shard
	seq      uint64 // number of the last change in the snapshot
	finished bool   // nothing is left to write

	recordCursor uint32 // records up to this id are written
	recordsDone  bool   // all records are
	idCursor     uint32 // ids up to this one are written
	idsDone      bitset // ids that are written, or added since it began
	idsEnd       uint32 // ids from here on were added since it began
}

// snapshotChunk is the size of a chunk. A call never copies more to extend the buffer.
const snapshotChunk = 4 * snapshotStep

func newChunk() []byte { return make([]byte, 0, snapshotChunk+snapshotStep) }

func (e *Engine) beginSnapshot(now Time, partition int, buf []byte) *snapshot {
	s := &snapshot{start: len(buf), shard: &e.shards[partition]}
	s.p, s.chunked, s.tiers = &s.shard.partition, true, map[string]uint64{}
	if s.buf, s.spare = e.spareChunks[0], e.spareChunks[1]; s.buf == nil {
		s.buf, s.spare = newChunk(), newChunk()
	}
	e.spareChunks = [2][]byte{}
	s.shard.Lock()
	defer s.shard.Unlock()
	p := s.p
	s.now, s.seq = p.tick(now), p.seq
	s.out = binary.AppendUvarint(append(buf, snapshotMagic...), s.seq)
	s.idsEnd = p.entries.end()
	p.records.epoch ^= 1 // no record has this epoch yet
	p.snapshot = s
	return s
}

// step writes about that many bytes under one hold of the lock. It returns false when the
// snapshot is complete.
func (s *snapshot) step(bytes, look int) (more bool) {
	s.shard.Lock()
	more = !s.finished && s.walk(bytes, look)
	if !more && !s.finished {
		s.shard.snapshot = nil
	}
	full, last := s.full, s.buf
	s.full, s.buf = nil, s.spare
	s.shard.Unlock()
	for _, chunk := range full {
		s.out = append(s.out, chunk...)
	}
	s.out = append(s.out, last...)
	s.spare = last[:0]
	if more {
		return true
	}
	s.out = append(s.out, tagEnd)
	sum := encoder{s.out}
	sum.fixed(xxhash.Sum64(s.out[s.start:]))
	s.out = sum.buf
	return false
}

// finish writes all that is left, because the state of the partition is about to be
// dropped.
func (s *snapshot) finish() {
	for s.walk(snapshotStep, snapshotLook) {
	}
	s.finished, s.shard.snapshot = true, nil
}

// walk writes records and then ids, and returns whether some remain.
func (s *snapshot) walk(bytes, look int) (more bool) {
	p := s.p
	written := s.size()
	for range look {
		if s.size()-written >= bytes {
			return true
		}
		if !s.recordsDone {
			next, found := p.records.next(s.recordCursor)
			if s.recordCursor = next; found {
				p.beforeRecordChanges(p.records.at(next))
			}
			s.recordsDone = next == 0
			continue
		}
		if s.idCursor = p.entries.next(s.idCursor); s.idCursor == 0 || s.idCursor >= s.idsEnd {
			return false
		}
		p.beforeIDChanges(s.idCursor)
	}
	return true
}

// size returns the bytes that are not collected yet.
func (s *snapshot) size() int { return len(s.full)*snapshotChunk + len(s.buf) }

// beforeRecordChanges must be called before a record is changed or removed. It writes
// the record to the snapshot and the message in progress, if they do not have it yet.
func (p *partition) beforeRecordChanges(rec *record) {
	if p.records.reading {
		p.reading.writeOnce(reference(rec.handle))
	}
	if rec.epoch == p.records.epoch {
		return
	}
	rec.epoch = p.records.epoch
	p.advance(rec, p.snapshot.now)
	p.snapshot.useSchema(p.engine.catalog.schema(rec.schema))
	p.snapshot.item(tagRecord)
	p.snapshot.record(rec)
}

// recordMoves is called when a record gets another id. One that is not written yet must
// not get behind the walk.
func (s *snapshot) recordMoves(rec *record, recordID uint32) {
	if rec.epoch != s.shard.records.epoch { // there is none once recordsDone is set
		s.recordCursor = min(s.recordCursor, recordID-1)
	}
}

// beforeIDChanges must be called before an id entry, its charges or its reservation are
// changed or removed. It writes them to the snapshot and the message in progress, if they
// do not have them yet.
func (p *partition) beforeIDChanges(entryID uint32) {
	if p.records.reading {
		p.reading.writeOnce(entryReference | reference(entryID))
	}
	s := p.snapshot
	if s == nil || entryID >= s.idsEnd || s.idsDone.set(entryID) {
		return
	}
	if entry := p.entries.at(entryID); entry.state() != idForgotten {
		s.entry(entry)
	}
}

// idAdded must be called for every new id entry.
func (p *partition) idAdded(entryID uint32) {
	if p.records.reading { // it may be listed because of one that was removed
		p.reading.seen[1].unset(entryID)
	}
	if s := p.snapshot; s != nil && entryID < s.idsEnd {
		s.idsDone.set(entryID)
	}
}

// bitset is a set of small numbers.
type bitset []uint64

// unset removes n and reports whether it was there.
func (b bitset) unset(n uint32) (before bool) {
	if int(n/64) >= len(b) {
		return false
	}
	word, bit := &b[n/64], uint64(1)<<(n%64)
	before = *word&bit != 0
	*word &^= bit
	return before
}

// set adds n and reports whether it was there before.
func (b *bitset) set(n uint32) (before bool) {
	for int(n/64) >= len(*b) {
		*b = append(*b, 0)
	}
	word, bit := &(*b)[n/64], uint64(1)<<(n%64)
	before = *word&bit != 0
	*word |= bit
	return before
}
