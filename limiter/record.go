// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"bytes"
	"hash/maphash"

	"github.com/cespare/xxhash/v2"
)

// record is the state of one key at one level, or of one key and one model:
// 128 bytes, two cache lines, no pointer. Limits beyond the fourth and names
// beyond 28 bytes continue in blocks.
type record struct {
	last   int64  // Mono of the last touch; every slot is as of then
	schema uint32 // which limit each slot belongs to
	pins   uint32 // reservations whose charges may still change
	lines  uint32 // number of its timelines, 0 = none
	more   uint32 // first block of further slots, 0 = none
	rest   uint32 // first block of the name beyond the inline part
	anchor uint32 // by which reservations find it, 0 = none yet
	length uint16 // of the name
	denied bool   // refused its latest call: never evicted
	_      bool
	name   [inlineName]byte // scope, or scope NUL model
	slots  [slotsPerRecord]slot
}

const (
	inlineName     = 28
	slotsPerRecord = 4
	blockName      = 60
)

// nameBlock continues a long name.
type nameBlock struct {
	next uint32
	text [blockName]byte
}

// slotBlock continues the slots of a record.
type slotBlock struct {
	next  uint32
	slots [slotsPerRecord]slot
}

// lines are the timelines of a record, by slot. Only token buckets with an open
// reservation have a live one.
type lines struct {
	of   []timeline
	live int // marks, over all timelines
}

// mark opens a mark on the timeline of token bucket slot i for a charge that
// comes now.
func (p *partition) mark(rec *record, i, slots int) int64 {
	if rec.lines == 0 {
		no, ls := p.lines.alloc()
		rec.lines = no
		if n := len(p.spare); n > 0 && cap(p.spare[n-1]) >= slots {
			ls.of, p.spare = p.spare[n-1][:slots], p.spare[:n-1]
			for i := range ls.of {
				ls.of[i].begin()
			}
		} else {
			ls.of = make([]timeline, slots, max(slots, slotsPerRecord))
		}
	}
	ls := p.lines.at(rec.lines)
	t := &ls.of[i]
	if t.live == 0 {
		t.begin()
	}
	ls.live++
	return t.open(p.slotAt(rec, i).level())
}

// unmark forgets a mark, and the timelines when it was the last.
func (p *partition) unmark(rec *record, i int, mark int64) {
	ls := p.lines.at(rec.lines)
	ls.of[i].drop(mark)
	if ls.live--; ls.live == 0 {
		p.dropLines(rec)
	}
}

// maxSpare is how many timelines a partition keeps for reuse.
const maxSpare = 8

func (p *partition) dropLines(rec *record) {
	if rec.lines == 0 {
		return
	}
	if of := p.lines.at(rec.lines).of; len(p.spare) < maxSpare {
		p.spare = append(p.spare, of)
	}
	p.lines.free(rec.lines)
	rec.lines = 0
}

// slotAt returns slot i of a record.
func (p *partition) slotAt(rec *record, i int) *slot {
	if i < slotsPerRecord {
		return &rec.slots[i]
	}
	b := p.slots.at(rec.more)
	for i -= slotsPerRecord; i >= slotsPerRecord; i -= slotsPerRecord {
		b = p.slots.at(b.next)
	}
	return &b.slots[i]
}

// line returns the timeline of slot i if it is in use, else nil.
func (p *partition) line(rec *record, i int) *timeline {
	if rec.lines == 0 {
		return nil
	}
	if t := &p.lines.at(rec.lines).of[i]; t.live > 0 {
		return t
	}
	return nil
}

// ringOf returns the ring of a sliding window, advanced to now, or nil.
func (p *partition) ringOf(l *limit, s slot, now Time) *ring {
	if l.Algorithm != SlidingWindow || s.lo == 0 {
		return nil
	}
	r := p.rings.at(uint32(s.lo))
	r.advance(floorDiv(now.Mono, l.sub))
	return r
}

// ensureRing gives a sliding window its ring.
func (p *partition) ensureRing(l *limit, s *slot, now Time) *ring {
	if l.Algorithm != SlidingWindow {
		return nil
	}
	if s.lo == 0 {
		no, r := p.rings.alloc()
		r.head = floorDiv(now.Mono, l.sub)
		s.lo = uint64(no)
	}
	return p.ringOf(l, *s, now)
}

// advance brings every slot of a record to now.
func (p *partition) advance(rec *record, now Time) {
	p.advanceTo(rec, p.engine.catalog.schema(rec.schema), now)
}

// advanceTo is advance for a record that is about to become one of schema want:
// a fixed window that is over opens anew by want's calendar.
func (p *partition) advanceTo(rec *record, want *schema, now Time) {
	elapsed := max(0, now.Mono-rec.last)
	rec.last += elapsed
	have := p.engine.catalog.schema(rec.schema)
	for i, l := range have.limits {
		if have != want {
			l = l.windowBy(want)
		}
		l.advance(p.slotAt(rec, i), p.line(rec, i), elapsed, now)
	}
}

// windowBy returns the limit whose calendar opens the next window of a fixed
// window: want's, if it has one of the same name, else its own.
func (l *limit) windowBy(want *schema) *limit {
	if l.Algorithm == FixedWindow {
		if i := want.find(l.slot); i >= 0 && want.limits[i].Algorithm == FixedWindow {
			return want.limits[i]
		}
	}
	return l
}

// hashName is the hash of a record's name, seeded per engine so that nobody
// outside can aim at a place.
func (p *partition) hashName(scope, model string) uint64 {
	h := maphash.String(p.engine.seed, scope)
	if model != "" {
		h = mix(h, maphash.String(p.engine.seed, model))
	}
	return h
}

// find returns the record of a scope, or of a scope and a model; 0 if there is
// none. The record stays where it is until the next create.
func (p *partition) find(scope, model string) (uint32, *record) {
	if p.records.n == 0 {
		return 0, nil
	}
	h := p.hashName(scope, model)
	no, t := p.records.table(h)
	pos, tag := t.home(h)
	for t.tags[pos] != tagFree {
		if t.tags[pos] == tag {
			if rec := &t.records[pos]; p.named(rec, scope, model) {
				return number(no, pos), rec
			}
		}
		if pos++; pos == len(t.tags) {
			pos = 0
		}
	}
	return 0, nil
}

// named says whether the record's name is that of scope and model.
func (p *partition) named(rec *record, scope, model string) bool {
	length := len(scope)
	if model != "" {
		length += 1 + len(model)
	}
	if int(rec.length) != length {
		return false
	}
	name := rec.name[:min(length, inlineName)]
	if length > inlineName {
		var buf [maxName]byte
		name = p.appendName(buf[:0], rec)
	}
	return string(name[:len(scope)]) == scope && (model == "" || name[len(scope)] == 0 && string(name[len(scope)+1:]) == model)
}

// maxName is the longest name of a record: a key, NUL, and a model.
const maxName = 256 + 1 + 256

// appendName appends the record's name to buf.
func (p *partition) appendName(buf []byte, rec *record) []byte {
	length := int(rec.length)
	buf = append(buf, rec.name[:min(length, inlineName)]...)
	left := length - inlineName
	for no := rec.rest; left > 0; {
		b := p.names.at(no)
		buf = append(buf, b.text[:min(left, blockName)]...)
		left, no = left-blockName, b.next
	}
	return buf
}

func (p *partition) setName(rec *record, name []byte) {
	rec.length = uint16(len(name))
	name = name[copy(rec.name[:], name):]
	for next := &rec.rest; len(name) > 0; {
		no, b := p.names.alloc()
		*next, next = no, &b.next
		name = name[copy(b.text[:], name):]
	}
}

// create makes the record of a name that has none, with the slots of a schema,
// and evicts another one if there is no quota. It returns nil if none can go. It
// may move other records.
func (p *partition) create(root, scope, model string, s *schema, now Time) *record {
	if !p.makeRoom(root, scope, model, now) {
		return nil
	}
	var buf [maxName]byte
	name := append(buf[:0], scope...)
	if model != "" {
		name = append(append(name, 0), model...)
	}
	rec := p.insert(name, p.hashName(scope, model), s, now)
	if rec == nil {
		p.engine.keys.give(&p.keyQuota)
	}
	return rec
}

func (p *partition) insert(name []byte, hash uint64, s *schema, now Time) *record {
	if !p.records.reserve(hash, p.rehash, p.moved) {
		return nil
	}
	_, rec := p.records.insert(hash)
	p.setName(rec, name)
	rec.last = now.Mono
	p.reshape(rec, s)
	if root, ok := counted(name); ok {
		p.roots[xxhash.Sum64(root)]++
	}
	return rec
}

// rehash is hashName of a record's name, without making strings of it.
func (p *partition) rehash(rec *record) uint64 {
	var buf [maxName]byte
	scope, model, _ := bytes.Cut(p.appendName(buf[:0], rec), []byte{0})
	h := maphash.Bytes(p.engine.seed, scope)
	if len(model) > 0 {
		h = mix(h, maphash.Bytes(p.engine.seed, model))
	}
	return h
}

func (p *partition) moved(rec *record, no uint32) {
	if rec.anchor != 0 {
		*p.anchors.at(rec.anchor) = no
	}
}

// anchor returns the number by which reservations find a record: it stays as
// long as the record, wherever that is moved.
func (p *partition) anchor(rec *record, no uint32) uint32 {
	if rec.anchor == 0 {
		var at *uint32
		rec.anchor, at = p.anchors.alloc()
		*at = no
	}
	return rec.anchor
}

// anchored returns the record of an anchor, or nil if it is gone.
func (p *partition) anchored(anchor uint32) *record {
	if anchor == 0 || !p.anchors.has(anchor) {
		return nil
	}
	return p.records.at(*p.anchors.at(anchor))
}

// reshape gives a record the slots of a schema, all zero.
func (p *partition) reshape(rec *record, s *schema) {
	rec.schema = s.id
	rec.slots = [slotsPerRecord]slot{}
	p.freeSlotBlocks(rec)
	next := &rec.more
	for n := len(s.limits) - slotsPerRecord; n > 0; n -= slotsPerRecord {
		no, b := p.slots.alloc()
		*next, next = no, &b.next
	}
}

func (p *partition) freeSlotBlocks(rec *record) {
	for no := rec.more; no != 0; {
		next := p.slots.at(no).next
		p.slots.free(no)
		no = next
	}
	rec.more = 0
}

// remove forgets a record that nothing refers to.
func (p *partition) remove(no uint32) {
	rec := p.records.at(no)
	var buf [maxName]byte
	name := p.appendName(buf[:0], rec)
	for i, l := range p.engine.catalog.schema(rec.schema).limits {
		if s := p.slotAt(rec, i); l.Algorithm == SlidingWindow && s.lo != 0 {
			p.rings.free(uint32(s.lo))
		}
	}
	p.freeSlotBlocks(rec)
	for b := rec.rest; b != 0; {
		next := p.names.at(b).next
		p.names.free(b)
		b = next
	}
	p.dropLines(rec)
	if rec.anchor != 0 {
		p.anchors.free(rec.anchor)
	}
	p.records.remove(no)
	p.engine.keys.give(&p.keyQuota)
	if root, ok := counted(name); ok {
		h := xxhash.Sum64(root)
		if p.roots[h]--; p.roots[h] == 0 {
			delete(p.roots, h)
		}
	}
}
