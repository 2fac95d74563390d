// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"github.com/cespare/xxhash/v2"
)

// snapshotMagic begins every snapshot. Its last byte is the version.
const snapshotMagic = "brs\x03"

// Snapshot appends the state of a partition to buf and returns the extended buffer.
// Times are relative to now, because monotonic clocks differ between nodes. Only the
// end of a fixed window is an absolute wall time.
func (e *Engine) Snapshot(now Time, partition int, buf []byte) []byte {
	s := &e.shards[partition]
	s.Lock()
	defer s.Unlock()
	return s.snapshot(s.tick(now), buf)
}

// snapshotter writes a snapshot. Limits, tiers and records are numbered in the order
// in which they are written.
type snapshotter struct {
	encoder
	p       *partition
	now     Time
	limits  map[uint32]int // id -> number in the snapshot
	tiers   map[uint32]int
	records map[uint32]int // id -> number in the snapshot, from 1
}

func (p *partition) snapshot(now Time, buf []byte) []byte {
	s := &snapshotter{encoder: encoder{buf}, p: p, now: now, limits: map[uint32]int{}, tiers: map[uint32]int{}, records: map[uint32]int{}}
	start := len(buf)
	s.buf = append(s.buf, snapshotMagic...)
	order := p.entryOrder()
	s.definitions(order)
	s.uint(uint64(p.records.n))
	for id := p.records.next(0); id != 0; id = p.records.next(id) {
		s.records[id] = len(s.records) + 1
		p.advance(p.records.at(id), now)
		s.record(p.records.at(id))
	}
	s.uint(uint64(len(order)))
	for _, id := range order {
		s.entry(p.entries.at(id))
	}
	s.fixed(xxhash.Sum64(s.buf[start:]))
	return s.buf
}

// entryOrder lists the entries except tombstones: those in queues in their order, then
// those of live reservations.
func (p *partition) entryOrder() []uint32 {
	order := make([]uint32, 0, p.entries.n)
	for _, q := range [...]idQueue{p.checks, p.ended} {
		for entryID := q.head; entryID != 0; entryID = p.entries.at(entryID).next {
			if !p.entries.at(entryID).isTombstone() {
				order = append(order, entryID)
			}
		}
	}
	return append(order, p.leaseHeap...)
}

// definitions writes every limit and tier that records and entries refer to.
func (s *snapshotter) definitions(order []uint32) {
	var limits []*limit
	use := func(l *limit) {
		if _, ok := s.limits[l.id]; !ok {
			s.limits[l.id] = len(limits)
			limits = append(limits, l)
		}
	}
	var tiers []string
	cat := s.p.engine.catalog
	for id := s.p.records.next(0); id != 0; id = s.p.records.next(id) {
		for _, l := range cat.schema(s.p.records.at(id).schema).limits {
			use(l)
		}
	}
	for _, id := range order {
		entry := s.p.entries.at(id)
		if _, ok := s.tiers[entry.tier]; !ok {
			s.tiers[entry.tier] = len(tiers)
			tiers = append(tiers, cat.tierName(entry.tier))
		}
		for i := range int(entry.chargeCount) {
			use(cat.limit(s.p.chargeAt(entry, i).limit))
		}
	}
	s.uint(uint64(len(limits)))
	for _, l := range limits {
		s.limit(&l.Limit)
	}
	s.uint(uint64(len(tiers)))
	for _, name := range tiers {
		s.string(name)
	}
}

func (s *snapshotter) limit(l *Limit) {
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

func (s *snapshotter) record(rec *record) {
	var buf [maxName]byte
	s.string(string(s.p.appendName(buf[:0], rec)))
	s.bool(rec.denied)
	limits := s.p.engine.catalog.schema(rec.schema).limits
	s.uint(uint64(len(limits)))
	for i, l := range limits {
		s.uint(uint64(s.limits[l.id]))
		b := *s.p.bucketAt(rec, i)
		switch l.Algorithm {
		case TokenBucket:
			s.wide(b.level())
			s.timeline(s.p.timelineOf(rec, i))
		case SlidingWindow:
			s.ring(l, s.p.ringOf(l, b, s.now))
		case FixedWindow, counter:
			s.int(b.hi)
			s.int(int64(b.lo))
		default:
			s.int(int64(b.lo))
		}
	}
}

// age returns how long ago sub-window k ended, or 0 for the current one.
func (s *snapshotter) age(l *limit, k int64) int64 {
	return max(0, s.now.Mono-((k+1)*l.sub-1))
}

func (s *snapshotter) ring(l *limit, r *ring) {
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

func (s *snapshotter) timeline(t *timeline) {
	if t == nil {
		s.uint(0)
		return
	}
	s.uint(uint64(len(t.blocks)))
	s.wide(t.base)
	s.wide(t.waste)
	s.uint(uint64(t.next))
	for i := range t.blocks {
		b := &t.blocks[i]
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

func (s *snapshotter) entry(entry *idEntry) {
	s.fixed(entry.id[0])
	s.fixed(entry.id[1])
	s.fixed(entry.body)
	s.int(entry.due - s.now.Mono)
	s.uint(uint64(entry.outcome))
	s.uint(uint64(entry.status))
	s.int(int64(entry.binding))
	s.uint(uint64(s.tiers[entry.tier]))
	s.fixed(entry.version)
	s.int(entry.granted)
	if s.bool(entry.reservationID != 0); entry.reservationID != 0 {
		s.reservation(s.p.reservations.at(entry.reservationID))
	}
	s.uint(uint64(entry.chargeCount))
	for i := range int(entry.chargeCount) {
		s.charge(entry, s.p.chargeAt(entry, i))
	}
}

func (s *snapshotter) reservation(res *reservation) {
	s.fixed(res.keyHash)
	s.fixed(res.finalDigest)
	s.bool(res.rates.Priced)
	for _, n := range [...]int64{res.ttl, res.input, res.progress.input, res.progress.cached, res.progress.output} {
		s.int(n)
	}
	for _, n := range res.rates.numbers() {
		s.int(*n)
	}
}

// numbers lists the numeric fields of the rates.
func (r *Rates) numbers() [6]*int64 {
	return [...]*int64{&r.InputPrice, &r.CachedInputPrice, &r.OutputPrice, &r.Weights.Input, &r.Weights.CachedInput, &r.Weights.Output}
}

// charge writes a charge. Its period is needed only while the charge may change.
func (s *snapshotter) charge(entry *idEntry, c *charge) {
	s.uint(uint64(s.limits[c.limit]))
	s.uint(uint64(c.scopeEnd))
	s.bool(c.exceeded)
	for _, n := range [...]int64{c.estimate, c.charged, c.dropped, c.remaining, c.reset} {
		s.int(n)
	}
	recordNumber := 0 // 0 if there is no record
	if s.p.byHandle(c.handle) != nil {
		recordNumber = s.records[*s.p.handles.at(c.handle)]
	}
	s.uint(uint64(recordNumber))
	if !c.pinsRecord(entry) {
		return
	}
	at := c.at
	if rec, pos, ok := s.p.recordOf(entry, c, ""); ok {
		if l := s.p.engine.catalog.schema(rec.schema).limits[pos]; l.Algorithm == SlidingWindow {
			at = s.age(l, at)
		}
	}
	s.int(at)
}
