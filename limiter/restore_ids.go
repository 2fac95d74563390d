// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// entries reads the id entries.
func (d *restorer) entries() {
	outer := d.decoder
	var due []uint32
	for _, d.decoder = range d.ids {
		if entryID := d.entry(); d.err == nil && len(d.buf) > 0 {
			d.fail("%d bytes of trailing data in a request id", len(d.buf))
		} else if d.err == nil && d.p.entries.at(entryID).state() != idHeld {
			due = append(due, entryID)
		}
		if d.err != nil {
			outer.err = cmp.Or(outer.err, d.err)
			break
		}
	}
	d.decoder = outer
	slices.SortFunc(due, func(a, b uint32) int { return cmp.Compare(d.p.entries.at(a).due, d.p.entries.at(b).due) })
	for _, entryID := range due {
		d.enqueue(entryID, d.p.entries.at(entryID))
	}
}

// entry reads a remembered request id.
func (d *restorer) entry() (entryID uint32) {
	root := d.fixed()
	k := idKey{hash: d.fixed()}
	moreAndBody := d.fixed()
	k.more = uint32(moreAndBody >> 32)
	age := d.int()
	s := idState(d.upTo(uint64(idExpired), "state"))
	switch {
	case d.err != nil:
		return 0
	case root%Partitions != uint64(d.partition):
		d.fail("a request id is of another partition")
		return 0
	case s == idForgotten:
		d.fail("a request id is forgotten")
		return 0
	case age < -int64(time.Hour)*24*365 || age > int64(time.Hour)*24*365:
		d.fail("due time %d of a request id is out of range", age)
		return 0
	}
	account := d.p.accounts.ensure(root)
	if account == 0 {
		d.fail("request ids of too many roots")
		return 0
	}
	if _, twin := d.p.lookUp(account, k); twin != nil {
		d.fail("a request id is repeated")
		return 0
	}
	entryID, entry := d.p.insertEntry(account, k, s)
	entry.body, entry.due = uint32(moreAndBody), d.now.Mono+age
	entry.set(flagPermanent) // the snapshot does not have the attempts
	d.p.expired += uint32(boolInt(s == idExpired))
	if entry.isReservation() {
		d.reservation(entry)
	} else {
		entry.value = [2]int64{d.natural("value"), d.int()}
		if s != idCount && (entry.value[0] > MaxAmount || entry.value[1] < 0 || entry.value[1] > MaxAmount) {
			d.fail("costs of a check are out of range")
		}
	}
	if d.err == nil && s == idHeld {
		d.p.heapPush(entryID)
	}
	return entryID
}

// enqueue adds an entry to a queue. Entries come by due time.
func (d *restorer) enqueue(entryID uint32, entry *idEntry) {
	a := d.p.accounts.at(entry.account())
	switch long := entry.state() == idSettled || entry.state() == idExpired; {
	case !long && entry.due <= d.now.Mono+checkRetention:
		d.p.push(&a.checks, entryID, entry.due)
	case entry.due > d.now.Mono+endedRetention:
		d.fail("due time %d of a request id is out of range", entry.due-d.now.Mono)
	default: // ended reservations and forced checks
		d.p.push(&a.ended, entryID, entry.due)
	}
}

func (d *restorer) reservation(entry *idEntry) {
	number := d.uint()
	tier, known := d.tiers[number]
	if d.err == nil && !known {
		d.fail("tier %d is not defined", number)
	}
	if d.err != nil {
		return
	}
	reservationID, res := d.p.reservations.alloc()
	version := d.fixed()
	if d.bool() {
		entry.set(flagDegraded)
	}
	entry.value[1] = d.natural("grant")
	res.keyHash, res.ttl = d.fixed(), int64(d.fixed())
	if entry.state() != idSettled && res.ttl < 0 {
		d.fail("lease: must not be negative, got %d", res.ttl)
	}
	for _, n := range [...]*int64{&res.input, &res.progress.input, &res.progress.cached, &res.progress.output} {
		if *n = d.natural("usage"); *n > MaxAmount {
			d.fail("usage of a lease is out of range")
		}
	}
	rates := Rates{Priced: d.bool()}
	for _, n := range rates.numbers() {
		*n = d.natural("rate")
	}
	entry.setReservation(reservationID, d.p.terms.share(&rates, tier, version))
	if res.progress.cached > res.progress.input {
		d.fail("usage of a lease is out of range")
	}
	for range d.upTo(2*MaxLevels*maxLimits, "limits of a reservation") {
		d.charge(entry)
	}
}

func (d *restorer) charge(entry *idEntry) {
	l := d.limitRef()
	if d.err != nil {
		return
	}
	if l.Algorithm == counter {
		d.fail("a reservation charges a counter")
		return
	}
	scopeEnd := int(d.upTo(MaxKeyBytes, "scope"))
	if scopeEnd == 0 {
		d.fail("the scope of a charge is empty")
		return
	}
	c := d.p.appendCharge(entry, scopeEnd)
	c.limit = l.id
	if d.bool() {
		c.at = notCharged
	}
	c.estimate, c.charged, c.dropped = d.natural("estimate"), d.natural("charged"), d.natural("dropped")
	c.handle = d.handles[d.upTo(math.MaxUint32, "handle")]
	if c.exceeded() || !entry.canChange() || d.err != nil {
		return
	}
	if c.handle == 0 {
		d.fail("a charge to %q has no record", l.Name)
		return
	}
	if c.at = d.int(); c.exceeded() {
		d.fail("period of a charge is out of range")
		return
	}
	recordID := *d.p.handles.at(c.handle)
	rec := d.p.records.at(recordID)
	rec.pins++
	have := d.p.engine.catalog.schema(rec.schema)
	pos := have.find(l.bucketID)
	if pos < 0 {
		return
	}
	switch have.limits[pos].Algorithm {
	case SlidingWindow:
		c.at = d.subWindow(have.limits[pos], c.at)
	case TokenBucket:
		key := claim{recordID, pos, c.at}
		if !d.p.timelineOf(rec, pos).hasMark(c.at) || d.claims[key] {
			d.fail("a charge to %q has no mark", l.Name)
			return
		}
		d.claims[key] = true
	}
}
