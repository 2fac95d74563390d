// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"github.com/cespare/xxhash/v2"
)

// snapshotMagic begins every snapshot; its last byte is the version.
const snapshotMagic = "brs\x03"

// Snapshot appends the state of a partition to buf. Times are written as ages
// relative to now, since no two nodes share a monotonic clock; only the end of a
// calendar window, which all clocks agree on, is written as what it is.
func (e *Engine) Snapshot(now Time, partition int, buf []byte) []byte {
	c := &e.cells[partition]
	c.Lock()
	defer c.Unlock()
	return c.snapshot(c.tick(now), buf)
}

// snapshotter numbers what the snapshot refers to.
type snapshotter struct {
	encoder
	p       *partition
	now     Time
	limits  map[uint32]int // limit id -> number in the snapshot
	tiers   map[uint32]int
	records map[uint32]int // record -> number in the snapshot, from 1
}

func (p *partition) snapshot(now Time, buf []byte) []byte {
	s := &snapshotter{encoder: encoder{buf}, p: p, now: now, limits: map[uint32]int{}, tiers: map[uint32]int{}, records: map[uint32]int{}}
	start := len(buf)
	s.buf = append(s.buf, snapshotMagic...)
	order := p.holdOrder()
	s.definitions(order)
	s.uint(uint64(p.records.n))
	for no := p.records.next(0); no != 0; no = p.records.next(no) {
		s.records[no] = len(s.records) + 1
		p.advance(p.records.at(no), now)
		s.record(p.records.at(no))
	}
	s.uint(uint64(len(order)))
	for _, no := range order {
		s.hold(p.holds.at(no))
	}
	s.fixed(xxhash.Sum64(s.buf[start:]))
	return s.buf
}

// holdOrder lists the holds that have an id: those to forget in the order of their queues, then
// the live ones.
func (p *partition) holdOrder() []uint32 {
	order := make([]uint32, 0, p.holds.n)
	for _, q := range [...]fifo{p.checks, p.ended} {
		for no := q.head; no != 0; no = p.holds.at(no).next {
			if !p.holds.at(no).vacant() {
				order = append(order, no)
			}
		}
	}
	return append(order, p.live...)
}

// definitions writes every limit and tier that records and holds refer to.
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
	for no := s.p.records.next(0); no != 0; no = s.p.records.next(no) {
		for _, l := range cat.schema(s.p.records.at(no).schema).limits {
			use(l)
		}
	}
	for _, no := range order {
		x := s.p.holds.at(no)
		if _, ok := s.tiers[x.tier]; !ok {
			s.tiers[x.tier] = len(tiers)
			tiers = append(tiers, cat.tierName(x.tier))
		}
		for i := range int(x.count) {
			use(cat.limit(s.p.touch(x, i).limit))
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
	s.int(l.Whole)
}

func (s *snapshotter) record(rec *record) {
	var buf [maxName]byte
	s.string(string(s.p.appendName(buf[:0], rec)))
	s.bool(rec.denied)
	limits := s.p.engine.catalog.schema(rec.schema).limits
	s.uint(uint64(len(limits)))
	for i, l := range limits {
		s.uint(uint64(s.limits[l.id]))
		v := *s.p.slotAt(rec, i)
		switch l.Algorithm {
		case TokenBucket:
			s.wide(v.level())
			s.timeline(s.p.line(rec, i))
		case SlidingWindow:
			s.ring(l, s.p.ringOf(l, v, s.now))
		case FixedWindow, counter:
			s.int(v.hi)
			s.int(int64(v.lo))
		default:
			s.int(int64(v.lo))
		}
	}
}

// age is how long ago sub-window k ended; 0 for the current one.
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
		if c := *r.cell(k); c != 0 {
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

func (s *snapshotter) hold(x *hold) {
	s.fixed(x.id[0])
	s.fixed(x.id[1])
	s.fixed(x.body)
	s.int(x.due - s.now.Mono)
	s.uint(uint64(x.outcome))
	s.uint(uint64(x.status))
	s.int(int64(x.binding))
	s.uint(uint64(s.tiers[x.tier]))
	s.fixed(x.version)
	s.int(x.granted)
	if s.bool(x.lease != 0); x.lease != 0 {
		s.lease(s.p.leases.at(x.lease))
	}
	s.uint(uint64(x.count))
	for i := range int(x.count) {
		s.touch(x, s.p.touch(x, i))
	}
}

func (s *snapshotter) lease(ls *lease) {
	s.fixed(ls.key)
	s.fixed(ls.final)
	s.bool(ls.rates.Priced)
	for _, n := range [...]int64{ls.ttl, ls.input, ls.used.input, ls.used.cached, ls.used.output} {
		s.int(n)
	}
	for _, n := range ls.rates.numbers() {
		s.int(*n)
	}
}

// numbers lists the fields of the rates.
func (r *Rates) numbers() [6]*int64 {
	return [...]*int64{&r.InputPrice, &r.CachedInputPrice, &r.OutputPrice, &r.Weights.Input, &r.Weights.CachedInput, &r.Weights.Output}
}

// touch writes a charge. Where it went only matters while it may change.
func (s *snapshotter) touch(x *hold, t *touch) {
	s.uint(uint64(s.limits[t.limit]))
	s.uint(uint64(t.end))
	s.bool(t.exceeded)
	for _, n := range [...]int64{t.estimate, t.charged, t.dropped, t.remaining, t.reset} {
		s.int(n)
	}
	at := 0 // in the order of records; 0 if there is none, or no more
	if s.p.anchored(t.anchor) != nil {
		at = s.records[*s.p.anchors.at(t.anchor)]
	}
	s.uint(uint64(at))
	if !t.pinned(x) {
		return
	}
	when := t.at
	if rec, pos, ok := s.p.recordOf(x, t, ""); ok {
		if l := s.p.engine.catalog.schema(rec.schema).limits[pos]; l.Algorithm == SlidingWindow {
			when = s.age(l, when)
		}
	}
	s.int(when)
}
