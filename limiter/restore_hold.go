// SPDX-License-Identifier: Apache-2.0

package limiter

import "time"

// hold reads a remembered request id. Those to forget come in the order of
// their queues.
func (d *restorer) hold() {
	x := hold{id: [2]uint64{d.fixed(), d.fixed()}, body: d.fixed()}
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
		d.fail("tier %d of %d", tier, len(d.tiers))
		return
	case leased != (x.status != NoStatus) || x.outcome == 0:
		d.fail("a request id's parts do not belong together")
		return
	case age < -int64(time.Hour)*24*365 || age > int64(time.Hour)*24*365:
		d.fail("due time %d is out of range", age)
		return
	}
	if _, twin := d.p.findHold(x.id); twin != nil {
		d.fail("a request id is repeated")
		return
	}
	x.tier = d.tiers[tier]
	no, h := d.p.holds.alloc()
	*h = x
	d.p.ids.insert(uint32(x.id[0]), no)
	if leased {
		d.lease(h)
	}
	for range d.upTo(2*MaxLevels*maxLimits, "limits of a request id") {
		d.touch(h)
	}
	if d.err != nil {
		return
	}
	if int(h.binding) >= int(h.count) || h.binding < -1 {
		d.fail("binding %d of %d", h.binding, h.count)
		return
	}
	d.enqueue(no, h, d.now.Mono+age)
}

// enqueue puts a hold where its end will be noticed. Due times of a queue never
// decrease.
func (d *restorer) enqueue(no uint32, h *hold, due int64) {
	checks := &d.p.checks
	switch {
	case h.status == Held:
		h.due = due
		d.p.heapPush(no)
	case h.status == NoStatus && due <= d.now.Mono+rememberCheck && (checks.tail == 0 || d.p.holds.at(checks.tail).due <= due):
		d.push(checks, no, due)
	case due > d.now.Mono+rememberEnded:
		d.fail("due time %d is out of range", due-d.now.Mono)
	default: // forced checks among them
		d.push(&d.p.ended, no, due)
	}
}

func (d *restorer) push(q *fifo, no uint32, due int64) {
	if q.tail != 0 && d.p.holds.at(q.tail).due > due {
		d.fail("request ids are out of order")
		return
	}
	d.p.push(q, no, due)
}

func (d *restorer) lease(h *hold) {
	no, ls := d.p.leases.alloc()
	h.lease, ls.heard.stays = no, true // who heard of it is not known any more
	ls.key, ls.final = d.fixed(), d.fixed()
	ls.rates.Priced = d.bool()
	for _, n := range [...]*int64{&ls.ttl, &ls.input, &ls.used.input, &ls.used.cached, &ls.used.output} {
		if *n = d.natural("lease"); *n > MaxAmount && n != &ls.ttl {
			d.fail("usage of a lease is out of range")
		}
	}
	for _, n := range ls.rates.numbers() {
		*n = d.natural("rate")
	}
	if ls.used.cached > ls.used.input {
		d.fail("usage of a lease is out of range")
	}
}

func (d *restorer) touch(h *hold) {
	l := d.limitNo()
	if d.err != nil {
		return
	}
	if l.Algorithm == counter && h.lease != 0 {
		d.fail("a reservation of a counter")
		return
	}
	t := d.p.addTouch(h)
	t.limit, t.end, t.exceeded = l.id, uint16(d.upTo(256, "scope")), d.bool()
	t.estimate, t.charged, t.dropped = d.natural("estimate"), d.natural("charged"), d.natural("dropped")
	t.remaining, t.reset = d.int(), d.int()
	if t.remaining < -1<<62 {
		d.fail("remaining is out of range")
	}
	n := d.upTo(uint64(len(d.records)), "record")
	if n == 0 || d.err != nil {
		return
	}
	no := d.records[n-1]
	rec := d.p.records.at(no)
	t.anchor = d.p.anchor(rec, no)
	if !t.pinned(h) {
		return
	}
	t.at = d.int()
	rec.pins++
	have := d.p.engine.catalog.schema(rec.schema)
	pos := have.find(l.slot)
	if pos < 0 {
		return
	}
	switch have.limits[pos].Algorithm {
	case SlidingWindow:
		t.at = d.subWindow(have.limits[pos], t.at)
	case TokenBucket:
		c := claim{no, pos, t.at}
		if !d.p.line(rec, pos).has(t.at) || d.claimed[c] {
			d.fail("a charge to %q has no mark", l.Name)
			return
		}
		d.claimed[c] = true
	}
}
