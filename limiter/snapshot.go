// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"github.com/cespare/xxhash/v2"
)

// snapshotMagic begins every snapshot. Its last byte is the version.
const snapshotMagic = "brs\x04"

// A snapshot is a list of items. Each begins with its tag. Limits, schemas and tiers
// are written before the first item that refers to them, by their ids in the catalog;
// tiers by their number in the snapshot.
const (
	tagEnd    = iota // the last item
	tagLimit         // id, definition
	tagSchema        // id, ids of its limits
	tagTier          // number, name
	tagRecord        // see snapshot.record
	tagID            // length, see snapshot.entry
)

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
	e.snapshots.Lock()
	defer e.snapshots.Unlock()
	s := e.beginSnapshot(now, partition, buf)
	for s.step(snapshotStep, snapshotLook) {
	}
	if cap(s.buf)+cap(s.spare) <= 4*snapshotChunk {
		e.spareChunks = [2][]byte{s.buf, s.spare}
	}
	return s.out
}

// snapshot is a snapshot that is being written.
type snapshot struct {
	encoder          // the chunk being filled
	full    [][]byte // chunks before it
	out     []byte   // what was collected before them
	start   int      // of the snapshot in out
	spare   []byte   // a chunk to fill next

	shard *shard
	now   Time // when it began; the state is that of this time

	recordCursor uint32 // records up to this id are written
	recordsDone  bool   // all records are
	idCursor     uint32 // ids up to this one are written
	idsDone      bitset // ids that are written, or added since it began
	idsEnd       uint32 // ids from here on were added since it began
	limits       bitset // definitions that are written, by id
	schemas      bitset
	tiers        map[string]uint64 // numbers of the names that are written
}

// snapshotChunk is the size of a chunk. A call never copies more to extend the buffer.
const snapshotChunk = 4 * snapshotStep

func newChunk() []byte { return make([]byte, 0, snapshotChunk+snapshotStep) }

func (e *Engine) beginSnapshot(now Time, partition int, buf []byte) *snapshot {
	s := &snapshot{start: len(buf), shard: &e.shards[partition], tiers: map[string]uint64{}}
	if s.buf, s.spare = e.spareChunks[0], e.spareChunks[1]; s.buf == nil {
		s.buf, s.spare = newChunk(), newChunk()
	}
	e.spareChunks = [2][]byte{}
	s.out = append(buf, snapshotMagic...)
	s.shard.Lock()
	defer s.shard.Unlock()
	p := &s.shard.partition
	s.now = p.tick(now)
	s.idsEnd = p.entries.end()
	p.records.epoch ^= 1 // no record has this epoch yet
	p.snapshot = s
	return s
}

// step writes about that many bytes under one hold of the lock. It returns false when the
// snapshot is complete.
func (s *snapshot) step(bytes, look int) (more bool) {
	s.shard.Lock()
	more = s.walk(bytes, look)
	if !more {
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

// walk writes records and then ids, and returns whether some remain.
func (s *snapshot) walk(bytes, look int) (more bool) {
	p := &s.shard.partition
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
// the record to the snapshot in progress, if there is one that does not have it yet.
func (p *partition) beforeRecordChanges(rec *record) {
	if rec.epoch == p.records.epoch {
		return
	}
	rec.epoch = p.records.epoch
	p.advance(rec, p.snapshot.now)
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
// changed or removed. It writes them to the snapshot in progress, if there is one that
// does not have them yet.
func (p *partition) beforeIDChanges(entryID uint32) {
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
	if s := p.snapshot; s != nil && entryID < s.idsEnd {
		s.idsDone.set(entryID)
	}
}

// item begins an item. It begins a new chunk if the last one is full.
func (s *snapshot) item(tag uint64) {
	if len(s.buf) >= snapshotChunk {
		s.full = append(s.full, s.buf)
		s.buf = newChunk()
	}
	s.uint(tag)
}

// useLimit writes the definition of a limit, if it is not written yet.
func (s *snapshot) useLimit(l *limit) {
	if s.limits.set(l.id) {
		return
	}
	s.item(tagLimit)
	s.uint(uint64(l.id))
	s.string(l.Name)
	s.string(string(l.Dimension))
	zone := ""
	if l.Zone != nil {
		zone = l.Zone.String()
	}
	s.string(zone)
	s.uint(uint64(l.Algorithm))
	s.int(l.Amount)
	s.int(int64(l.Window))
	s.uint(uint64(l.Calendar))
	s.int(l.Burst)
	s.bool(l.Shadow)
	s.bool(l.Degrade)
	s.uint(uint64(l.Unreachable))
	s.bool(l.Closed)
	s.int(l.FullCapacity)
}

func (s *snapshot) useSchema(of *schema) {
	if s.schemas.set(of.id) {
		return
	}
	for _, l := range of.limits {
		s.useLimit(l)
	}
	s.item(tagSchema)
	s.uint(uint64(of.id))
	s.uint(uint64(len(of.limits)))
	for _, l := range of.limits {
		s.uint(uint64(l.id))
	}
}

// useTier writes the name of a tier with a number, if it is not written yet.
func (s *snapshot) useTier(name string) {
	if _, ok := s.tiers[name]; ok {
		return
	}
	s.tiers[name] = uint64(len(s.tiers))
	s.item(tagTier)
	s.uint(s.tiers[name])
	s.string(name)
}

// record writes a record, which must have been advanced to s.now. Charges refer to it
// by its handle.
func (s *snapshot) record(rec *record) {
	p := &s.shard.partition
	of := p.engine.catalog.schema(rec.schema)
	s.useSchema(of)
	s.item(tagRecord)
	s.uint(uint64(rec.length))
	s.buf = p.appendName(s.buf, rec)
	s.bool(rec.denied)
	s.uint(uint64(rec.handle))
	s.uint(uint64(of.id))
	for i, l := range of.limits {
		b := *p.bucketAt(rec, i)
		switch l.Algorithm {
		case TokenBucket:
			s.wide(b.level())
			s.timeline(p.timelineOf(rec, i))
		case SlidingWindow:
			s.ring(l, p.ringOf(l, b, s.now))
		case FixedWindow:
			s.int(b.hi)
			s.int(int64(b.lo))
		case counter:
			s.int(b.hi)
			s.int(int64(b.lo))
			s.uint(counterLimitOf(rec))
		default:
			s.int(int64(b.lo))
		}
	}
}

// age returns how long ago sub-window k ended, or 0 for the current one.
func (s *snapshot) age(l *limit, k int64) int64 {
	return max(0, s.now.Mono-((k+1)*l.sub-1))
}

func (s *snapshot) ring(l *limit, r *ring) {
	if r == nil {
		s.uint(0)
		return
	}
	n := uint64(0)
	for _, c := range r.counts {
		if c != 0 {
			n++
		}
	}
	s.uint(n)
	for k := r.head - subWindows; k <= r.head; k++ {
		if c := *r.count(k); c != 0 {
			s.int(s.age(l, k))
			s.int(c)
		}
	}
}

func (s *snapshot) timeline(t *timeline) {
	if t == nil {
		s.uint(0)
		return
	}
	m := t.more
	if !t.many {
		one := timeline{low: t.low}
		one.makeMany()
		m = one.more
	}
	s.uint(uint64(len(m.blocks)))
	s.wide(m.base)
	s.wide(m.waste)
	s.uint(uint64(m.next))
	for i := range m.blocks {
		b := &m.blocks[i]
		s.uint(uint64(b.seq))
		s.uint(uint64(b.n))
		s.uint(uint64(b.dead))
		for _, low := range b.low[:b.n] {
			if low.hi != maxWide.hi {
				low = low.add(b.pending)
			}
			s.wide(low)
		}
	}
}

// bitset is a set of small numbers.
type bitset []uint64

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
