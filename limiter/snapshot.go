// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"github.com/cespare/xxhash/v2"
)

// snapshotMagic begins every snapshot. Its last byte is the version.
const snapshotMagic = "brs\x04"

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
	ids := p.rememberedIDs()
	s.definitions(ids)
	s.uint(uint64(p.records.n))
	for id := p.records.next(0); id != 0; id = p.records.next(id) {
		s.records[id] = len(s.records) + 1
		p.advance(p.records.at(id), now)
		s.record(p.records.at(id))
	}
	s.ids(ids)
	s.fixed(xxhash.Sum64(s.buf[start:]))
	return s.buf
}

// definitions writes every limit and tier that records and entries refer to.
func (s *snapshotter) definitions(ids []rememberedIDs) {
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
	for _, list := range ids {
		for _, entryID := range list.entries {
			entry := s.p.entries.at(entryID)
			if !entry.isReservation() {
				continue
			}
			tier := s.p.reservations.at(entry.reservation()).tierID()
			if _, ok := s.tiers[tier]; !ok {
				s.tiers[tier] = len(tiers)
				tiers = append(tiers, cat.tierName(tier))
			}
			for i := range s.p.chargeCount(entry) {
				use(cat.limit(s.p.chargeAt(entry, i).limit))
			}
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
