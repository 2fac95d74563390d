// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"bytes"
	"math"
)

// changeSet is what a message changes in one partition. It is reused.
type changeSet struct {
	records []decoder
	entries []changedEntry
	removed []removedID
	pinned  []pinnedRecord
	due     []uint32 // entries to be added to queues
	// unpinned are the handles of records from which entries took pins away, and outdated is
	// how many of them the message has not replaced.
	unpinned []uint32
	outdated int
	keys     int // room that was taken for records
	ids      int // and for ids
	newKeys  int
}

// changedEntry is an entry of a message. entryID is that of the entry that it replaces in
// its place of a queue, or 0.
type changedEntry struct {
	entryHead
	rest    decoder
	entryID uint32
}

// pinnedRecord is a record with the pins that it must have in the end.
type pinnedRecord struct{ handle, pins uint32 }

func (c *changeSet) begin() {
	*c = changeSet{records: c.records[:0], entries: c.entries[:0], removed: c.removed[:0], pinned: c.pinned[:0], due: c.due[:0], unpinned: c.unpinned[:0]}
}

// collect reads the items of a partition without changing it.
func (d *restorer) collect() {
	c := d.changes
	for len(d.buf) > 0 && d.err == nil {
		switch d.upTo(tagRemoved, "item") {
		case tagRecord:
			part := d.part()
			c.records = append(c.records, part)
			outer := d.decoder
			d.decoder = part
			d.uint() // pins
			scope, model, _ := bytes.Cut(d.bytes(maxName, "name"), []byte{0})
			part.err, d.decoder = d.err, outer
			if d.err = part.err; d.err == nil {
				if _, rec := d.p.find(string(scope), string(model)); rec == nil {
					c.newKeys++
				}
			}
		case tagID:
			part := d.part()
			outer := d.decoder
			d.decoder = part
			h := d.entryHead()
			c.entries = append(c.entries, changedEntry{entryHead: h, rest: d.decoder})
			err := d.err
			d.decoder = outer
			d.err = err
		case tagRemoved:
			id := removedID{root: d.fixed(), idKey: idKey{hash: d.fixed()}}
			id.more = uint32(d.upTo(math.MaxUint32, "request id"))
			c.removed = append(c.removed, id)
		default:
			d.fail("an item is of no kind")
		}
	}
}

// makeRoom takes room for new records and ids. It must be called before anything is
// changed, because it may remove others.
func (d *restorer) makeRoom() {
	c, p := d.changes, d.p
	for c.keys < c.newKeys {
		if !p.keyPool().acquire(&p.keyQuota) {
			if p.evict(d.now, search{}) != 0 {
				break
			}
			p.stats.copyDropped++
			continue
		}
		c.keys++
	}
	for i := range c.entries {
		account := p.accounts.find(c.entries[i].root)
		if account != 0 {
			if _, known := p.lookUp(account, c.entries[i].key); known != nil {
				continue // and it is not forgotten, or counted again then
			}
		}
		if p.idPool().acquire(&p.idQuota) {
			c.ids++
		} else if account != 0 && p.accounts.at(account).n > 1 && p.forgetOldest(p.accounts.at(account)) {
			p.stats.copyDropped++
			p.idQuota--
			c.ids++
		}
	}
}

// returnRoom returns the room that was not used.
func (d *restorer) returnRoom() {
	d.p.keyPool().left.Add(int64(d.changes.keys))
	d.p.idPool().left.Add(int64(d.changes.ids))
}

// takeRoom takes a unit of the room, which is n, or of what was removed meanwhile. If there
// is none, what must stay gets one nevertheless.
func (d *restorer) takeRoom(pool *quota, local, n *int, mustStay bool) bool {
	switch {
	case *n > 0:
		*n--
	case pool.acquire(local):
	case mustStay:
		pool.left.Add(-1)
	default:
		d.p.stats.copyDropped++
		return false
	}
	return true
}

// applyChanges applies what was collected. Entries are taken away first and added last, so
// that records can be replaced in between.
func (d *restorer) applyChanges() {
	c := d.changes
	for _, id := range c.removed {
		d.takeAway(id, nil)
	}
	for i := range c.entries {
		e := &c.entries[i]
		e.entryID = d.takeAway(removedID{e.root, e.key}, &e.entryHead)
	}
	for i := range c.records {
		if d.decoder = c.records[i]; d.err != nil {
			return
		}
		if d.record(); len(d.buf) > 0 {
			d.fail("%d bytes of trailing data in a record", len(d.buf))
		}
	}
	for i := range c.entries {
		if d.err != nil {
			return
		}
		d.decoder = c.entries[i].rest
		d.changeEntry(&c.entries[i])
	}
	d.enqueueAll(c.due)
	d.removeOutdated()
	for _, pinned := range c.pinned {
		if rec := d.p.byHandle(pinned.handle); rec == nil || rec.pins != pinned.pins {
			d.fail("a record has other reservations than its owner's")
		}
	}
}

// takeAway removes an entry, if there is one, without a change to what it charged. If next
// is its next version, the entry may keep its place in a queue, and its id is returned.
func (d *restorer) takeAway(id removedID, next *entryHead) (entryID uint32) {
	p := d.p
	entryID, entry := p.lookUp(p.accounts.find(id.root), id.idKey)
	if entry == nil {
		return 0
	}
	p.beforeIDChanges(entryID)
	var it chargeIterator
	for it.start(p, entry, ""); it.next(); {
		if it.pins && it.rec != nil {
			d.unpin(it.rec)
		}
	}
	was := entry.state()
	if was == idExpired {
		p.expired--
		entry.setState(idSettled) // its charges stay
	}
	switch {
	case was == idHeld:
		p.slices -= uint32(boolInt(p.isSlice(entry)))
		p.heapRemove(entryID)
		p.deleteEntry(entryID)
		return 0
	case next == nil || next.state == idHeld || next.body != entry.body || next.due > entry.due+generation:
		p.buryEntry(entryID)
		p.noteDue(entry.due)
		return 0
	}
	if entry.isReservation() {
		p.freeReservation(entry)
	}
	if was == idWithdrawal {
		p.accounts.at(entry.account()).withdrawals--
	}
	*entry = idEntry{hash: entry.hash, more: entry.more, due: entry.due, next: entry.next, owner: entry.account()<<8 | uint32(idCheck)}
	return entryID
}

// unpin takes a pin away from a record.
func (d *restorer) unpin(rec *record) {
	rec.pins--
	if rec.flags&recordOutdated == 0 {
		rec.flags |= recordOutdated
		d.changes.unpinned = append(d.changes.unpinned, rec.handle)
		d.changes.outdated++
	}
}

// removeOutdated removes the records that have no pins any more and that the message does
// not replace. A charge that becomes final changes its record, so the owner has removed
// them since. What they have here is older: charges that the owner corrected, with their
// marks.
func (d *restorer) removeOutdated() {
	c, p := d.changes, d.p
	if c.outdated == 0 || d.err != nil {
		return
	}
	for _, handle := range c.unpinned {
		rec := p.byHandle(handle)
		if rec == nil || rec.flags&recordOutdated == 0 {
			continue
		}
		if rec.flags &^= recordOutdated; rec.pins == 0 {
			p.remove(*p.handles.at(handle))
		}
	}
}

// changeEntry adds an entry, or fills in the one whose place it takes.
func (d *restorer) changeEntry(e *changedEntry) {
	p, c := d.p, d.changes
	if e.entryID == 0 {
		live := e.state == idHeld || e.state == idExpired
		if d.takeRoom(p.idPool(), &p.idQuota, &c.ids, live) {
			c.due = d.addEntry(e.entryHead, c.due)
		}
		return
	}
	entry := p.entries.at(e.entryID)
	due := entry.due
	entry.setState(e.state)
	if e.state == idWithdrawal {
		p.accounts.at(entry.account()).withdrawals++
	}
	d.entry(e.entryHead, entry)
	entry.due = min(entry.due, due) // queues are ordered by it
	p.noteDue(entry.due)
}

// replaceRecord returns the record that a message changes, with buckets to be filled. It
// creates it if necessary. rec is the one that has the name, or nil.
func (d *restorer) replaceRecord(recordID uint32, rec *record, name []byte, scope, model string, of *schema, handle, pins uint32) (uint32, *record) {
	p := d.p
	if other := p.byHandle(handle); other != nil && other != rec { // it was removed at the owner
		if other.pins > 0 {
			d.fail("record %q: its handle is that of another", name)
			return 0, nil
		}
		p.remove(*p.handles.at(handle))
	}
	if rec == nil {
		if !d.takeRoom(p.keyPool(), &p.keyQuota, &d.changes.keys, pins > 0) {
			d.freeRings(of)
			return 0, nil
		}
		if recordID, rec = d.insertRecord(name, scope, model, of); rec == nil {
			d.changes.keys++
			return 0, nil
		}
	} else {
		if rec.flags&recordOutdated != 0 {
			rec.flags &^= recordOutdated
			d.changes.outdated--
		}
		p.beforeRecordChanges(rec)
		p.freeRings(rec)
		p.freeTimelines(rec)
		if rec.schema != of.id {
			p.reshape(rec, of)
		}
		rec.advancedAt = d.now.Mono
		if rec.handle != handle && rec.handle != 0 {
			p.handles.free(rec.handle)
			rec.handle = 0
		}
	}
	d.changes.pinned = append(d.changes.pinned, pinnedRecord{handle, pins})
	return recordID, rec
}

// freeRings frees the rings of a record that was read and is dropped.
func (d *restorer) freeRings(of *schema) {
	for i, l := range of.limits {
		if l.Algorithm == SlidingWindow && d.buckets[i].lo != 0 {
			d.p.rings.free(uint32(d.buckets[i].lo))
		}
	}
}

// dropCopies removes what a copy has above its room, as far as it may be removed.
func (p *partition) dropCopies(now Time) {
	for p.keyPool().left.Load() < 0 && p.evict(now, search{}) == 0 {
		p.returnQuota()
		p.stats.copyDropped++
	}
	for p.idPool().left.Load() < 0 {
		account := p.largestAccount()
		if account == 0 {
			return
		}
		a := p.accounts.at(account)
		a.n++ // keeps the account
		gave := p.forgetOldest(a)
		a.n--
		p.accounts.release(account)
		if !gave {
			return
		}
		p.idPool().give(&p.idQuota)
		p.stats.copyDropped++
	}
}
