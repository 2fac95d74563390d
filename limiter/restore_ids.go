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
		} else if d.err == nil && d.p.entries.at(entryID).status != Held {
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
	x := idEntry{id: [2]uint64{d.fixed(), d.fixed()}, body: d.fixed()}
	age := d.int()
	x.outcome = Outcome(d.upTo(uint64(Degraded), "outcome"))
	x.status = Status(d.upTo(uint64(Expired), "status"))
	x.binding = int16(d.int())
	tier := d.uint()
	tierID, tierKnown := d.tiers[tier]
	x.version, x.granted = d.fixed(), d.int()
	leased := d.bool()
	switch {
	case d.err != nil:
		return 0
	case !tierKnown:
		d.fail("tier %d is not defined", tier)
		return 0
	case leased != (x.status != NoStatus) || x.outcome == 0:
		d.fail("outcome and status of a request id do not match")
		return 0
	case age < -int64(time.Hour)*24*365 || age > int64(time.Hour)*24*365:
		d.fail("due time %d of a request id is out of range", age)
		return 0
	}
	if _, twin := d.p.findEntry(x.id); twin != nil {
		d.fail("a request id is repeated")
		return 0
	}
	x.tier, x.due = tierID, d.now.Mono+age
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
		return 0
	}
	if int(entry.binding) >= int(entry.chargeCount) || entry.binding < -1 {
		d.fail("binding limit %d of %d is out of range", entry.binding, entry.chargeCount)
	}
	if entry.status == Held {
		d.p.heapPush(entryID)
	}
	return entryID
}

// enqueue adds an entry to a queue. Entries come by due time.
func (d *restorer) enqueue(entryID uint32, entry *idEntry) {
	switch {
	case entry.status == NoStatus && entry.due <= d.now.Mono+checkRetention:
		d.p.push(&d.p.checks, entryID, entry.due)
	case entry.due > d.now.Mono+endedRetention:
		d.fail("due time %d of a request id is out of range", entry.due-d.now.Mono)
	default: // ended reservations and forced checks
		d.p.push(&d.p.ended, entryID, entry.due)
	}
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
	handle := d.upTo(math.MaxUint32, "handle")
	if handle == 0 || d.err != nil {
		return
	}
	c.handle = uint32(handle)
	pins := c.pinsRecord(entry)
	if c.handle = d.handles[handle]; c.handle == 0 {
		if pins {
			d.fail("a charge to %q has no record", l.Name)
		}
		return
	}
	recordID := *d.p.handles.at(c.handle)
	rec := d.p.records.at(recordID)
	if !pins {
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
