// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
)

// entries reads the id entries of a snapshot.
func (d *restorer) entries() {
	outer := d.decoder
	var due []uint32
	for _, d.decoder = range d.ids {
		h := d.entryHead()
		if d.err == nil {
			due = d.addEntry(h, due)
		}
		if d.err != nil {
			outer.err = cmp.Or(outer.err, d.err)
			break
		}
	}
	d.decoder = outer
	d.enqueueAll(due)
}

// addEntry reads the rest of a new entry. Unless it is live, it is appended to due.
func (d *restorer) addEntry(h entryHead, due []uint32) []uint32 {
	account := d.p.accounts.ensure(h.root)
	_, twin := d.p.lookUp(account, h.key)
	switch {
	case account == 0:
		d.fail("request ids of too many roots")
	case twin != nil:
		d.fail("a request id is repeated")
	}
	if d.err != nil {
		if d.changes != nil {
			d.changes.ids++ // it does not need its room
		}
		return due
	}
	entryID, entry := d.p.insertEntry(account, h.key, h.state)
	if d.entry(h, entry); d.err == nil && h.state == idHeld {
		d.p.heapPush(entryID)
		return due
	}
	return append(due, entryID)
}

// enqueueAll adds entries to queues, each at its place: what a message repeats may have been
// removed and added again, and be due before others that are there.
func (d *restorer) enqueueAll(due []uint32) {
	if d.err != nil {
		return
	}
	slices.SortFunc(due, func(a, b uint32) int {
		x, y := d.p.entries.at(a), d.p.entries.at(b)
		return cmp.Or(cmp.Compare(x.account(), y.account()), cmp.Compare(x.due, y.due))
	})
	var places [2]uint32
	account := uint32(0)
	for _, entryID := range due {
		entry := d.p.entries.at(entryID)
		if entry.account() != account {
			account, places = entry.account(), [2]uint32{}
		}
		d.enqueue(entryID, entry, &places)
	}
}

// entryHead is the first part of an entry's item.
type entryHead struct {
	root      uint64
	key       idKey
	body      uint32
	due       int64
	state     idState
	permanent bool
}

func (d *restorer) entryHead() (h entryHead) {
	h.root = d.fixed()
	h.key.hash = d.fixed()
	moreAndBody := d.fixed()
	h.key.more, h.body = uint32(moreAndBody>>32), uint32(moreAndBody)
	age := d.int()
	h.state = idState(d.upTo(uint64(idExpired), "state"))
	h.permanent = d.bool()
	h.due = d.now.Mono + age
	switch {
	case d.err != nil:
	case h.root%Partitions != uint64(d.partition):
		d.fail("a request id is of another partition")
	case h.state == idForgotten:
		d.fail("a request id is forgotten")
	case age < -int64(time.Hour)*24*365 || age > int64(time.Hour)*24*365:
		d.fail("due time %d of a request id is out of range", age)
	}
	return h
}

// entry reads the rest of an item into an entry that has the key and state of its head.
func (d *restorer) entry(h entryHead, entry *idEntry) {
	entry.body, entry.due = h.body, h.due
	if h.permanent {
		entry.set(flagPermanent)
	}
	d.p.expired += uint32(boolInt(h.state == idExpired))
	if entry.isReservation() {
		d.reservation(entry)
	} else {
		entry.value = [2]int64{d.natural("value"), d.int()}
		if h.state != idCount && (entry.value[0] > MaxAmount || entry.value[1] < 0 || entry.value[1] > MaxAmount) {
			d.fail("costs of a check are out of range")
		}
		if h.state == idCheck {
			entry.setAttempts(checkAttempts(d.upTo(uint64(len(layouts))<<attemptBits-1, "attempts")))
		}
	}
	if len(d.buf) > 0 {
		d.fail("%d bytes of trailing data in a request id", len(d.buf))
	}
}

// enqueue adds an entry to a queue of its account. Entries of an account come by due time,
// and places are where the last ones of checks and ended were put.
func (d *restorer) enqueue(entryID uint32, entry *idEntry, places *[2]uint32) {
	a := d.p.accounts.at(entry.account())
	switch long := entry.state() == idSettled || entry.state() == idExpired; {
	case !long && entry.due <= d.now.Mono+checkRetention:
		places[0] = d.p.pushInOrder(&a.checks, entryID, places[0])
	case entry.due > d.now.Mono+endedRetention:
		d.fail("due time %d of a request id is out of range", entry.due-d.now.Mono)
	default: // ended reservations and forced checks
		places[1] = d.p.pushInOrder(&a.ended, entryID, places[1])
	}
}

func (d *restorer) reservation(entry *idEntry) {
	number := d.uint()
	names, known := d.tiers[number]
	if d.err == nil && !known {
		d.fail("tier %d is not defined", number)
	}
	if d.err != nil {
		return
	}
	reservationID, res := d.p.reservations.alloc()
	version := d.fixed()
	flags := d.upTo(7, "flags of a reservation")
	if flags&1 != 0 {
		entry.set(flagDegraded)
	}
	res.estimated, res.slice = flags&2 != 0, flags&4 != 0
	if res.slice {
		d.p.slices++
		if flags != 4 || entry.state() != idHeld {
			d.fail("flags %d of a slice, or its state, are not those of one", flags)
		}
	}
	entry.value[1] = d.natural("grant")
	res.keyHash, res.ttl = d.fixed(), int64(d.fixed())
	if entry.state() != idSettled && res.ttl < 0 {
		d.fail("lease: must not be negative, got %d", res.ttl)
	}
	for i := range res.attempts {
		res.attempts[i] = uint32(d.upTo(math.MaxUint32, "attempt"))
	}
	for _, n := range [...]*int64{&res.input, &res.progress.input, &res.progress.cached, &res.progress.output} {
		if *n = d.natural("usage"); *n > MaxAmount {
			d.fail("usage of a lease is out of range")
		}
	}
	tier, rates, _ := strings.Cut(names, namesEnd)
	t := terms{Rates: Rates{Name: rates, Priced: d.bool()}, tier: tier, version: version}
	for _, n := range t.numbers() {
		*n = d.natural("rate")
	}
	t.setUsualExtras()
	entry.setReservation(reservationID, 0)
	charges := d.upTo(2*MaxLevels*maxLimits, "limits of a reservation")
	for range charges {
		d.charge(entry)
	}
	var x extras
	if len(d.buf) > 0 {
		x = d.extras(&t)
	}
	if n := res.progress; n.cached+x.write+x.write1h > n.input {
		d.fail("usage of a lease is out of range")
	}
	entry.setReservation(reservationID, d.p.terms.share(&t.Rates, t.basis, tier, version))
	d.p.setExtras(entry, x)
	if len(d.buf) > 0 {
		d.label(entry)
	}
}

// extras reads what few reservations have.
func (d *restorer) extras(t *terms) (x extras) {
	for _, n := range x.numbers() {
		if *n = d.natural("usage"); *n > MaxAmount {
			d.fail("usage of a lease is out of range")
		}
	}
	for _, n := range t.extraNumbers() {
		if *n = d.natural("rate"); *n > MaxAmount {
			d.fail("rate of a lease is out of range")
		}
	}
	if t.factor < normalFactor || t.factor > MaxServiceFactor {
		d.fail("service tier of a lease is out of range")
	}
	var err error
	if t.ServiceTiers, err = serviceTiersOf(string(d.bytes(maxServiceTable, "service tiers"))); err != nil {
		d.fail("%w", err)
	}
	return x
}

// label reads the rest of an item, the label of a reservation that can change.
func (d *restorer) label(entry *idEntry) {
	switch _, err := labelOf(d.buf); {
	case d.err != nil:
		return
	case err != nil:
		d.fail("%w", err)
	case len(d.buf) > maxLabel || !entry.canChange() || d.p.isSlice(entry):
		d.fail("%d bytes of a label are too many, or not expected", len(d.buf))
	default:
		d.p.setLabel(entry, d.buf)
		d.buf = nil
	}
}

func (d *restorer) charge(entry *idEntry) {
	l := d.limitRef()
	if d.err != nil {
		return
	}
	if l.Algorithm == counter && !d.p.isSlice(entry) {
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
	if c.estimate > MaxAmount && d.p.isSlice(entry) {
		d.fail("estimate of a slice is out of range")
	}
	c.handle = uint32(d.upTo(maxHandle, "handle"))
	if c.exceeded() || !entry.canChange() || d.err != nil {
		return
	}
	rec := d.p.byHandle(c.handle)
	if rec == nil {
		d.fail("a charge to %q has no record", l.Name)
		return
	}
	if c.at = d.int(); c.exceeded() {
		d.fail("period of a charge is out of range")
		return
	}
	rec.pins++
	have := d.catalog.schema(rec.schema)
	pos := have.find(l.bucketID)
	if pos < 0 {
		return
	}
	switch have.limits[pos].Algorithm {
	case SlidingWindow:
		c.at = d.subWindow(have.limits[pos], c.at)
	case TokenBucket:
		key := claim{c.handle, pos, c.at}
		if !d.p.timelineOf(rec, pos).hasMark(c.at) || d.claims[key] {
			d.fail("a charge to %q has no mark", l.Name)
			return
		}
		if d.changes == nil {
			d.claims[key] = true
		}
	}
}
