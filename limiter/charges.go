// SPDX-License-Identifier: Apache-2.0

package limiter

// reservation is the part of an id entry that only reservations have.
type reservation struct {
	keyHash  uint64
	ttl      int64     // lease; of a settled one, the digest of its final settle
	input    int64     // estimate
	progress amounts   // highest so far
	attempts [4]uint32 // tags of those that got the answer and may be withdrawn; 0 = none
	block    chargeBlock
	count    uint16 // charges
	// estimated means that the input was an estimate, so that debt counts in full.
	estimated bool
	// slice means that the reservation is a slice, see lend: charge.estimate is what its
	// holder may spend, and charge.charged also has the margin.
	slice bool
	label uint32 // first block of the label, see setLabel; 0 = none
}

// isSlice reports whether an entry is that of a slice.
func (p *partition) isSlice(entry *idEntry) bool {
	return entry.isReservation() && p.reservations.at(entry.reservation()).slice
}

// extrasOf returns the extras of the progress of a reservation.
func (p *partition) extrasOf(entry *idEntry) extras {
	if !entry.is(flagExtras) {
		return extras{}
	}
	return p.extras[entry.reservation()]
}

// setExtras sets the extras of the progress of a reservation.
func (p *partition) setExtras(entry *idEntry, x extras) {
	switch {
	case x != extras{}:
		if p.extras == nil {
			p.extras = map[uint32]extras{}
		}
		p.extras[entry.reservation()] = x
		entry.set(flagExtras)
	case entry.is(flagExtras):
		delete(p.extras, entry.reservation())
		entry.owner &^= flagExtras
	}
}

// charge is one limit of a reservation, and what it was charged.
type charge struct {
	handle   uint32 // of its record
	limit    uint32 // id at the time of the decision
	estimate int64
	charged  int64 // current charge, including dropped
	dropped  int64 // what exceeded the bucket's maximum debt, or came from a credit
	at       int64 // a token bucket's mark, a fixed window's end, or a sub-window; or notCharged
}

// notCharged is the charge.at of a shadow limit that the request exceeded, and of a limit
// that was reset since, see Engine.Reset.
const notCharged = -1 << 63

func (c *charge) exceeded() bool { return c.at == notCharged }

// reset makes a charge one to a limit that was reset since: it counts nowhere, and a limit
// was charged, not exceeded.
func (c *charge) reset() {
	c.charged = max(c.estimate, 1)
	c.dropped, c.at = c.charged, notCharged
}

// wasReset tells a charge after reset from one that exceeded a shadow limit.
func (c *charge) wasReset() bool { return c.exceeded() && c.dropped > 0 }

const chargesPerBlock = 4

// chargeBlock is a list of charges with the end of each one's scope in the key. The
// first is part of the reservation.
type chargeBlock struct {
	charges  [chargesPerBlock]charge
	next     uint32
	scopeEnd [chargesPerBlock]uint8 // less 1
}

// chargeIterator visits the charges of a reservation in order, each with the bucket that
// it charged:
//
//	var it chargeIterator
//	for it.start(p, entry, key); it.next(); {
//
// The reservation and its records must not be removed meanwhile. It is large, so it is
// not copied.
type chargeIterator struct {
	partition *partition
	key       string
	canChange bool
	estimated bool // see reservation
	block     *chargeBlock
	i         int // position in block
	left      int // charges after this one

	charge *charge
	// pins reports whether the charge may still change. While it may, its record is not
	// removed.
	pins      bool
	newRecord bool    // false if the charge before has the same record
	rec       *record // nil if it was removed
	schema    *schema // of rec
	pos       int     // of the bucket in rec, -1 if there is none
	bucket    *bucket // nil if there is none
	limit     *limit  // that of the record or, if there is none, of the charge
}

// start begins with the charges of an entry, which has none unless it is a reservation. A
// record whose charges are final may be gone and its handle reused, so its name is
// compared with key. If key is "", such a record counts as removed.
func (it *chargeIterator) start(p *partition, entry *idEntry, key string) {
	it.charge, it.left = nil, 0
	if !entry.isReservation() {
		return
	}
	res := p.reservations.at(entry.reservation())
	it.partition, it.key, it.canChange = p, key, entry.canChange()
	it.estimated = res.estimated
	it.block, it.i, it.left = &res.block, -1, int(res.count)
}

// next goes to the next charge, and returns false if there is none.
func (it *chargeIterator) next() bool {
	if it.left == 0 {
		return false
	}
	it.left--
	if it.i++; it.i == chargesPerBlock {
		it.i, it.block = 0, it.partition.charges.at(it.block.next)
	}
	last, c := it.charge, &it.block.charges[it.i]
	pins := it.canChange && !c.exceeded()
	it.charge = c
	if it.newRecord = last == nil || c.handle != last.handle || pins != it.pins; it.newRecord {
		it.pins = pins
		it.findRecord()
	}
	it.findBucket()
	return true
}

func (it *chargeIterator) findRecord() {
	p := it.partition
	it.rec, it.schema, it.pos = p.byHandle(it.charge.handle), nil, -1
	if it.rec == nil || !it.pins && !p.isOfScope(it.rec, it.scope()) {
		it.rec = nil
		return
	}
	it.schema = p.engine.catalog.schema(it.rec.schema)
}

// findBucket sets the limit and the bucket. Charges are usually in the order of the
// buckets of their record.
func (it *chargeIterator) findBucket() {
	it.bucket = nil
	id := it.charge.limit
	if it.rec == nil {
		it.limit = it.partition.engine.catalog.limit(id)
		return
	}
	limits := it.schema.limits
	if it.pos++; it.pos >= len(limits) || limits[it.pos].id != id {
		it.limit = it.partition.engine.catalog.limit(id)
		if it.pos = it.schema.find(it.limit.bucketID); it.pos < 0 {
			return
		}
	}
	it.limit = limits[it.pos]
	if it.pos < bucketsPerRecord {
		it.bucket = &it.rec.buckets[it.pos]
	} else {
		it.bucket = it.partition.bucketAt(it.rec, it.pos)
	}
}

// scope returns the scope of the charge.
func (it *chargeIterator) scope() string {
	return it.key[:min(int(it.block.scopeEnd[it.i])+1, len(it.key))]
}

// appendCharge appends a zero charge to the reservation of an entry. key[:scopeEnd] is its
// scope.
func (p *partition) appendCharge(entry *idEntry, scopeEnd int) *charge {
	res := p.reservations.at(entry.reservation())
	i := int(res.count)
	res.count++
	block := &res.block
	for ; i >= chargesPerBlock; i -= chargesPerBlock {
		if block.next == 0 {
			block.next, _ = p.charges.alloc()
			entry.set(flagMoreCharges)
		}
		block = p.charges.at(block.next)
	}
	block.scopeEnd[i] = uint8(scopeEnd - 1)
	return &block.charges[i]
}

// eachPendingCharge calls f for every charge to a bucket of rec that may still change.
func (p *partition) eachPendingCharge(rec *record, bucketID uint32, f func(*charge)) {
	p.eachPending(rec, bucketID, func(_ *idEntry, c *charge) { f(c) })
}

// eachPending is eachPendingCharge with the entries of the reservations and slices.
func (p *partition) eachPending(rec *record, bucketID uint32, f func(*idEntry, *charge)) {
	if rec.pins == 0 {
		return
	}
	visit := func(entryID uint32) {
		var it chargeIterator
		for it.start(p, p.entries.at(entryID), ""); it.next(); {
			if it.pins && it.rec == rec && it.limit.bucketID == bucketID {
				p.entryChanged(entryID)
				f(p.entries.at(entryID), it.charge)
			}
		}
	}
	for _, entryID := range p.leaseHeap {
		visit(entryID)
	}
	if p.expired == 0 {
		return
	}
	for entryID := p.entries.next(0); entryID != 0; entryID = p.entries.next(entryID) {
		if p.entries.at(entryID).state() == idExpired {
			visit(entryID)
		}
	}
}
