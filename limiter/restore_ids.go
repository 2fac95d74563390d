// SPDX-License-Identifier: Apache-2.0

package limiter

import "time"

// entry reads a remembered request id. Entries come in the order of their queues.
func (d *restorer) entry() {
	x := idEntry{id: [2]uint64{d.fixed(), d.fixed()}, body: d.fixed()}
	age := d.int()
	x.outcome = Outcome(d.upTo(uint64(Degraded), "outcome"))
	x.status = Status(d.upTo(uint64(Expired), "status"))
	x.binding = int16(d.int())
	tier := d.uint()
	x.version, x.granted = d.fixed(), d.int()
	leased := d.bool()
	switch {
	case d.err != nil:
		return
	case tier >= uint64(len(d.tiers)):
		d.fail("reference to tier %d of %d", tier, len(d.tiers))
		return
	case leased != (x.status != NoStatus) || x.outcome == 0:
		d.fail("outcome and status of a request id do not match")
		return
	case age < -int64(time.Hour)*24*365 || age > int64(time.Hour)*24*365:
		d.fail("due time %d of a request id is out of range", age)
		return
	}
	if _, twin := d.p.findEntry(x.id); twin != nil {
		d.fail("a request id is repeated")
		return
	}
	x.tier = d.tiers[tier]
	entryID, entry := d.p.entries.alloc()
	*entry = x
	d.p.ids.insert(uint32(x.id[0]), entryID)
	if leased {
		d.reservation(entry)
	}
	for range d.upTo(2*MaxLevels*maxLimits, "limits of a request id") {
		d.charge(entry)
	}
	if d.err != nil {
		return
	}
	if int(entry.binding) >= int(entry.chargeCount) || entry.binding < -1 {
		d.fail("binding limit %d of %d is out of range", entry.binding, entry.chargeCount)
		return
	}
	d.enqueue(entryID, entry, d.now.Mono+age)
}

// enqueue adds an entry to the heap of leases or to a queue. Due times of a queue must
// not decrease.
func (d *restorer) enqueue(entryID uint32, entry *idEntry, due int64) {
	checks := &d.p.checks
	switch {
	case entry.status == Held:
		entry.due = due
		d.p.heapPush(entryID)
	case entry.status == NoStatus && due <= d.now.Mono+checkRetention && (checks.tail == 0 || d.p.entries.at(checks.tail).due <= due):
		d.push(checks, entryID, due)
	case due > d.now.Mono+endedRetention:
		d.fail("due time %d of a request id is out of range", due-d.now.Mono)
	default: // ended reservations and forced checks
		d.push(&d.p.ended, entryID, due)
	}
}

func (d *restorer) push(q *idQueue, entryID uint32, due int64) {
	if q.tail != 0 && d.p.entries.at(q.tail).due > due {
		d.fail("request ids are out of order")
		return
	}
	d.p.push(q, entryID, due)
}

func (d *restorer) reservation(entry *idEntry) {
	reservationID, res := d.p.reservations.alloc()
	entry.reservationID, res.attempts.permanent = reservationID, true // the snapshot does not have the attempts
	res.keyHash, res.finalDigest = d.fixed(), d.fixed()
	res.rates.Priced = d.bool()
	for _, n := range [...]*int64{&res.ttl, &res.input, &res.progress.input, &res.progress.cached, &res.progress.output} {
		if *n = d.natural("lease"); *n > MaxAmount && n != &res.ttl {
			d.fail("usage of a lease is out of range")
		}
	}
	for _, n := range res.rates.numbers() {
		*n = d.natural("rate")
	}
	if res.progress.cached > res.progress.input {
		d.fail("usage of a lease is out of range")
	}
}

func (d *restorer) charge(entry *idEntry) {
	l := d.limitRef()
	if d.err != nil {
		return
	}
	if l.Algorithm == counter && entry.reservationID != 0 {
		d.fail("a reservation charges a counter")
		return
	}
	c := d.p.appendCharge(entry)
	c.limit, c.scopeEnd, c.exceeded = l.id, uint16(d.upTo(256, "scope")), d.bool()
	c.estimate, c.charged, c.dropped = d.natural("estimate"), d.natural("charged"), d.natural("dropped")
	c.remaining, c.reset = d.int(), d.int()
	if c.remaining < -1<<62 {
		d.fail("remaining is out of range")
	}
	n := d.upTo(uint64(len(d.records)), "record")
	if n == 0 || d.err != nil {
		return
	}
	recordID := d.records[n-1]
	rec := d.p.records.at(recordID)
	c.handle = d.p.handleOf(rec, recordID)
	if !c.pinsRecord(entry) {
		return
	}
	c.at = d.int()
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
