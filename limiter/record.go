// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"bytes"
	"hash/maphash"
	"math"

	"github.com/cespare/xxhash/v2"
)

// record is the state of one level of a key, or of one level and one model. It fills
// two cache lines and has no pointers. Buckets beyond the fourth and names beyond 28
// bytes continue in blocks.
type record struct {
	advancedAt  int64            // Mono up to which all buckets are advanced
	schema      uint32           // the limit of each bucket
	pins        uint32           // charges of reservations that may still change
	timelinesID uint32           // 0 = none
	moreBuckets uint32           // first block of further buckets, 0 = none
	moreName    uint32           // first block of the name beyond the inline part, 0 = none
	handle      uint32           // stable reference for reservations, 0 = none yet
	length      uint16           // of the name
	flags       uint8            // recordDenied and others
	epoch       uint8            // that of the directory, once a snapshot in progress has the record
	name        [inlineName]byte // scope, or scope NUL model
	buckets     [bucketsPerRecord]bucket
}

const (
	inlineName       = 28
	bucketsPerRecord = 4
	blockName        = 60
)

// The flags of a record.
const (
	recordDenied   = 1 << iota // denied its latest request, so it is never evicted
	recordListed               // is in the list of changes, after the last cut
	recordOutdated             // lost pins to a message that has not replaced it, see removeOutdated
)

// nameBlock continues a long name.
type nameBlock struct {
	next uint32
	text [blockName]byte
}

// bucketBlock continues the buckets of a record.
type bucketBlock struct {
	next    uint32
	buckets [bucketsPerRecord]bucket
}

// bucketAt returns bucket i of a record.
func (p *partition) bucketAt(rec *record, i int) *bucket {
	if i < bucketsPerRecord {
		return &rec.buckets[i]
	}
	block := p.bucketBlocks.at(rec.moreBuckets)
	for i -= bucketsPerRecord; i >= bucketsPerRecord; i -= bucketsPerRecord {
		block = p.bucketBlocks.at(block.next)
	}
	return &block.buckets[i]
}

// ringOf returns the ring of a sliding window, advanced to now. It returns nil for
// other algorithms and if nothing is used.
func (p *partition) ringOf(l *limit, b bucket, now Time) *ring {
	if l.Algorithm != SlidingWindow || b.lo == 0 {
		return nil
	}
	r := p.rings.at(uint32(b.lo))
	r.advance(floorDiv(now.Mono, l.sub))
	return r
}

// ensureRing returns the ring of a sliding window, and creates it if necessary.
func (p *partition) ensureRing(l *limit, b *bucket, now Time) *ring {
	if l.Algorithm != SlidingWindow {
		return nil
	}
	if b.lo == 0 {
		ringID, r := p.rings.alloc()
		r.head = floorDiv(now.Mono, l.sub)
		b.lo = uint64(ringID)
	}
	return p.ringOf(l, *b, now)
}

// advance advances every bucket of a record to now.
func (p *partition) advance(rec *record, now Time) {
	p.advanceTo(rec, p.engine.catalog.schema(rec.schema), now)
}

// advanceTo is advance for a record that is about to be migrated to want. If a fixed
// window is over, the next one follows the calendar of want.
func (p *partition) advanceTo(rec *record, want *schema, now Time) {
	if rec.epoch != p.records.epoch || p.records.reading {
		p.beforeRecordChanges(rec)
	}
	elapsed := max(0, now.Mono-rec.advancedAt)
	rec.advancedAt += elapsed
	have := p.engine.catalog.schema(rec.schema)
	for i, l := range have.limits {
		if have != want {
			l = l.windowBy(want)
		}
		l.advance(p.bucketAt(rec, i), p.timelineOf(rec, i), elapsed, now)
	}
}

// windowBy returns the limit that determines the next window of a fixed window: the
// one of the same dimension and name in want, else l.
func (l *limit) windowBy(want *schema) *limit {
	if l.Algorithm == FixedWindow {
		if i := want.find(l.bucketID); i >= 0 && want.limits[i].Algorithm == FixedWindow {
			return want.limits[i]
		}
	}
	return l
}

// hashName returns the hash of a record's name. It is seeded per engine, so that
// callers cannot choose keys that collide.
func (p *partition) hashName(scope, model string) uint64 {
	h := maphash.String(p.engine.seed, scope)
	if model != "" {
		h = mix(h, maphash.String(p.engine.seed, model))
	}
	return h
}

// find returns the record of a scope and a model, which may be "". It returns nil if
// there is none. The record is not moved before the next create.
func (p *partition) find(scope, model string) (uint32, *record) {
	if p.records.n == 0 {
		return 0, nil
	}
	h := p.hashName(scope, model)
	i, t := p.records.table(h)
	pos, tag := t.home(h)
	for t.tags[pos] != tagFree {
		if t.tags[pos] == tag {
			if rec := &t.records[pos]; p.named(rec, scope, model) {
				return recordID(i, pos), rec
			}
		}
		if pos++; pos == len(t.tags) {
			pos = 0
		}
	}
	return 0, nil
}

// named reports whether the record's name is that of scope and model.
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

// isOfScope reports whether the scope in the record's name is that one.
func (p *partition) isOfScope(rec *record, scope string) bool {
	name := rec.name[:min(int(rec.length), inlineName)]
	if rec.length > inlineName {
		var buf [maxName]byte
		name = p.appendName(buf[:0], rec)
	}
	n := len(scope)
	return n <= len(name) && string(name[:n]) == scope && (n == len(name) || name[n] == 0)
}

// maxName is the length of the longest name: a key, NUL and a model of 256 bytes.
const maxName = MaxKeyBytes + 1 + 256

// appendName appends the record's name to buf.
func (p *partition) appendName(buf []byte, rec *record) []byte {
	length := int(rec.length)
	buf = append(buf, rec.name[:min(length, inlineName)]...)
	left := length - inlineName
	for blockID := rec.moreName; left > 0; {
		b := p.names.at(blockID)
		buf = append(buf, b.text[:min(left, blockName)]...)
		left, blockID = left-blockName, b.next
	}
	return buf
}

func (p *partition) setName(rec *record, name []byte) {
	rec.length = uint16(len(name))
	name = name[copy(rec.name[:], name):]
	for next := &rec.moreName; len(name) > 0; {
		blockID, b := p.names.alloc()
		*next, next = blockID, &b.next
		name = name[copy(b.text[:], name):]
	}
}

// create adds a record with the buckets of a schema. There must be none of that name.
// If there is no quota it evicts another record. If it cannot, it returns nil and the
// nanoseconds until it may. It may move other records.
func (p *partition) create(root, scope, model string, s *schema, now Time) (recordID uint32, rec *record, wait int64) {
	if wait := p.makeRoom(root, scope, model, now); wait != 0 {
		if wait == math.MaxInt64 {
			wait = roomRetry
		}
		return 0, nil, wait
	}
	var buf [maxName]byte
	name := append(buf[:0], scope...)
	if model != "" {
		name = append(append(name, 0), model...)
	}
	if recordID, rec = p.insert(name, p.hashName(scope, model), s, now); rec == nil {
		p.keyPool().release(&p.keyQuota)
		return 0, nil, roomRetry
	}
	return recordID, rec, 0
}

func (p *partition) insert(name []byte, hash uint64, s *schema, now Time) (uint32, *record) {
	if !p.records.ensureRoom(hash, p.rehash, p.recordMoved) {
		return 0, nil
	}
	recordID, rec := p.records.insert(hash)
	p.setName(rec, name)
	rec.advancedAt, rec.epoch = now.Mono, p.records.epoch
	p.reshape(rec, s)
	p.countCredit(name, 1)
	if root, ok := rootOfName(name); ok {
		p.roots.add(xxhash.Sum64(root))
	}
	return recordID, rec
}

// rehash is hashName for an existing record, without allocating strings.
func (p *partition) rehash(rec *record) uint64 {
	var buf [maxName]byte
	scope, model, _ := bytes.Cut(p.appendName(buf[:0], rec), []byte{0})
	h := maphash.Bytes(p.engine.seed, scope)
	if len(model) > 0 {
		h = mix(h, maphash.Bytes(p.engine.seed, model))
	}
	return h
}

// recordMoved updates the handle of a record that was moved.
func (p *partition) recordMoved(rec *record, recordID uint32) {
	if rec.handle != 0 {
		*p.handles.at(rec.handle) = recordID
	}
	if p.snapshot != nil {
		p.snapshot.recordMoves(rec, recordID)
	}
}

// handleOf returns the handle of a record. It stays valid when the record is moved, until
// the record is removed.
func (p *partition) handleOf(rec *record, recordID uint32) uint32 {
	if rec.handle == 0 {
		var target *uint32
		rec.handle, target = p.handles.alloc()
		p.handleTaken(rec.handle)
		*target = recordID
	}
	return rec.handle
}

// byHandle returns the record of a handle, or nil if it was removed.
func (p *partition) byHandle(handle uint32) *record {
	if handle == 0 || !p.handles.has(handle) {
		return nil
	}
	return p.records.at(*p.handles.at(handle))
}

// reshape gives a record the buckets of a schema, all zero.
func (p *partition) reshape(rec *record, s *schema) {
	rec.schema = s.id
	rec.buckets = [bucketsPerRecord]bucket{}
	p.freeBucketBlocks(rec)
	next := &rec.moreBuckets
	for n := len(s.limits) - bucketsPerRecord; n > 0; n -= bucketsPerRecord {
		blockID, block := p.bucketBlocks.alloc()
		*next, next = blockID, &block.next
	}
}

func (p *partition) freeBucketBlocks(rec *record) {
	for blockID := rec.moreBuckets; blockID != 0; {
		next := p.bucketBlocks.at(blockID).next
		p.bucketBlocks.free(blockID)
		blockID = next
	}
	rec.moreBuckets = 0
}

// freeRings frees the rings of a record. Its buckets must be set again.
func (p *partition) freeRings(rec *record) {
	for i, l := range p.engine.catalog.schema(rec.schema).limits {
		if b := p.bucketAt(rec, i); l.Algorithm == SlidingWindow && b.lo != 0 {
			p.rings.free(uint32(b.lo))
		}
	}
}

// remove removes a record. It must not be pinned.
func (p *partition) remove(recordID uint32) {
	rec := p.records.at(recordID)
	p.beforeRecordChanges(rec)
	var buf [maxName]byte
	name := p.appendName(buf[:0], rec)
	p.freeRings(rec)
	p.freeBucketBlocks(rec)
	for blockID := rec.moreName; blockID != 0; {
		next := p.names.at(blockID).next
		p.names.free(blockID)
		blockID = next
	}
	p.freeTimelines(rec)
	if rec.handle != 0 {
		p.handles.free(rec.handle)
	}
	p.records.remove(recordID)
	p.countCredit(name, -1)
	p.keyPool().release(&p.keyQuota)
	if root, ok := rootOfName(name); ok {
		p.roots.remove(xxhash.Sum64(root))
	}
}
