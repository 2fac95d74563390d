// SPDX-License-Identifier: Apache-2.0

package limiter

import "time"

// ids reads the remembered ids of a root. They come in the order of their queues.
func (d *restorer) ids() {
	root := d.fixed()
	if d.err == nil && (root%Partitions != uint64(d.partition) || d.p.accounts.find(root) != 0) {
		d.fail("the root of request ids is of another partition or repeated")
	}
	n := d.count("request ids")
	if d.err == nil && n == 0 {
		d.fail("a root has no request ids")
	}
	if d.err != nil {
		return
	}
	account := d.p.accounts.ensure(root)
	if account == 0 {
		d.fail("request ids of too many roots")
		return
	}
	for range n {
		d.entry(account)
	}
}

func (d *restorer) entry(account uint32) {
	k := idKey{hash: d.fixed()}
	moreAndBody := d.fixed()
	k.more = uint32(moreAndBody >> 32)
	age := d.int()
	s := idState(d.upTo(uint64(idExpired), "state"))
	switch {
	case d.err != nil:
		return
	case s == idForgotten:
		d.fail("a request id is forgotten")
		return
	case age < -int64(time.Hour)*24*365 || age > int64(time.Hour)*24*365:
		d.fail("due time %d of a request id is out of range", age)
		return
	}
	if _, twin := d.p.findEntry(account, k); twin != nil {
		d.fail("a request id is repeated")
		return
	}
	entryID, entry := d.p.insertEntry(account, k, s)
	d.p.expired += uint32(boolInt(s == idExpired))
	entry.body = uint32(moreAndBody)
	if entry.isReservation() {
		d.reservation(entry)
	} else {
		entry.value = [2]int64{d.natural("value"), d.int()}
		if s != idCount && (entry.value[0] > MaxAmount || entry.value[1] < 0 || entry.value[1] > MaxAmount) {
			d.fail("costs of a check are out of range")
		}
	}
	if d.err == nil {
		d.enqueue(entryID, entry, account, d.now.Mono+age)
	}
}

// enqueue adds an entry to the heap of leases or to a queue. Due times of a queue must
// not decrease, except those of cancelled reservations.
func (d *restorer) enqueue(entryID uint32, entry *idEntry, account uint32, due int64) {
	a := d.p.accounts.at(account)
	long := entry.state() == idSettled || entry.state() == idExpired
	switch {
	case entry.state() == idHeld:
		entry.due = due
		d.p.heapPush(entryID)
	case !long && due <= d.now.Mono+checkRetention && a.ended.head == 0 && d.follows(&a.checks, due):
		d.p.push(&a.checks, entryID, due)
	case due > d.now.Mono+endedRetention:
		d.fail("due time %d of a request id is out of range", due-d.now.Mono)
	case entry.state() == idCancelled || d.follows(&a.ended, due):
		d.p.push(&a.ended, entryID, due) // ended reservations and forced checks
	default:
		d.fail("request ids are out of order")
	}
}

// follows reports whether an entry that is due then may come after the last of a queue.
func (d *restorer) follows(q *idQueue, due int64) bool {
	return q.tail == 0 || d.p.entries.at(q.tail).due <= due
}

func (d *restorer) reservation(entry *idEntry) {
	tier := d.uint()
	if d.err == nil && tier >= uint64(len(d.tiers)) {
		d.fail("reference to tier %d of %d", tier, len(d.tiers))
	}
	if d.err != nil {
		return
	}
	reservationID, res := d.p.reservations.alloc()
	entry.value[0] = int64(reservationID)
	entry.set(flagPermanent) // the snapshot does not have the attempts
	res.tier, res.version = d.tiers[tier]<<8, d.fixed()
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
	res.rates = d.p.rates.share(&rates)
	if res.progress.cached > res.progress.input {
		d.fail("usage of a lease is out of range")
	}
	for range d.upTo(2*MaxLevels*maxLimits, "limits of a reservation") {
		d.charge(entry, res)
	}
}

func (d *restorer) charge(entry *idEntry, res *reservation) {
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
	c := d.p.appendCharge(res, scopeEnd)
	c.limit = l.id
	if d.bool() {
		c.at = notCharged
	}
	c.estimate, c.charged, c.dropped = d.natural("estimate"), d.natural("charged"), d.natural("dropped")
	n := d.upTo(uint64(len(d.records)), "record")
	if n == 0 && d.err == nil && c.pinsRecord(entry) {
		d.fail("a charge that may change has no record")
	}
	if n == 0 || d.err != nil {
		return
	}
	recordID := d.records[n-1]
	rec := d.p.records.at(recordID)
	c.handle = d.p.handleOf(rec, recordID)
	if !c.pinsRecord(entry) {
		return
	}
	if c.at = d.int(); c.exceeded() {
		d.fail("period of a charge is out of range")
		return
	}
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
