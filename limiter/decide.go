// SPDX-License-Identifier: Apache-2.0

package limiter

import "github.com/cespare/xxhash/v2"

// decide answers a Check or a Reserve.
func (p *partition) decide(now Time, root uint64, r *Request, d *Decision, reserve bool) error {
	now = p.tick(now)
	var id [2]uint64
	var body uint64
	if r.ID != "" {
		if reserve && p.withdrawn(root, r.Attempt) {
			return ErrWithdrawn
		}
		id, body = idHash(root, r.ID), bodyDigest(r, reserve)
		if _, x := p.findHold(id); x != nil {
			switch {
			case x.body != body:
				return &ConflictError{"the id was used for another request"}
			case x.status == Cancelled:
				return &ConflictError{"the reservation was cancelled"}
			}
			if x.lease != 0 {
				p.leases.at(x.lease).heard.add(r.Attempt)
			}
			p.replay(x, r, d)
			return nil
		}
	}
	complete := p.gather(d, r, now)
	asked := r.OutputTokens
	if reserve && asked < 0 {
		asked = r.Plan.DefaultOutput
	}
	refused, mayShrink, err := p.assess(d, r, asked, reserve)
	if err != nil {
		return err
	}
	outcome, granted := Allowed, int64(0)
	if reserve {
		granted = asked
	}
	if mayShrink && reserve {
		output, ok, err := p.shrink(d, r, asked)
		if err != nil {
			return err
		}
		if ok {
			outcome, granted, refused = Degraded, output, false
		}
	}
	d.Tier, d.PolicyVersion, d.Replayed = r.Plan.Tier, r.Plan.Version, false
	d.Reason, d.RetryAfter, d.GrantedOutputTokens, d.Status = NoReason, 0, 0, NoStatus
	if refused {
		p.answer(d, r, now)
		p.deny(d, now)
		return nil
	}
	var x *hold
	ok := complete || p.complete(d, r, now)
	if ok && r.ID != "" {
		x, ok = p.admit(now, r, id, reserve)
	}
	if !ok {
		p.stats.tableFull++
		p.answer(d, r, now)
		full(d)
		return nil
	}
	p.take(d, r, x, now)
	d.Outcome, d.GrantedOutputTokens = outcome, granted
	p.answer(d, r, now)
	d.Binding = d.tightest(reserve)
	if x != nil {
		x.body = body
		p.remember(x, d)
	}
	return nil
}

// admit makes room for the memory of an admitted call, before any of it is
// charged. The hold is nil if a check is not to be remembered; a reservation
// must be.
func (p *partition) admit(now Time, r *Request, id [2]uint64, reserve bool) (*hold, bool) {
	no, x := p.addHold(id)
	if x == nil {
		p.stats.forgotten++ // a check is answered all the same
		return nil, !reserve
	}
	switch {
	case reserve:
	case r.Force: // it may be told for as long as a reservation may be settled
		p.push(&p.ended, no, now.Mono+rememberEnded)
		return x, true
	default:
		p.push(&p.checks, no, now.Mono+rememberCheck)
		return x, true
	}
	var ls *lease
	x.lease, ls = p.leases.alloc()
	ttl := r.TTL
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	*ls = lease{key: xxhash.Sum64String(r.Key), ttl: int64(ttl), rates: r.Plan.Rates, input: r.InputTokens}
	ls.heard.add(r.Attempt)
	x.status, x.due = Held, satAdd(int64(ttl), now.Mono)
	p.heapPush(no)
	return x, true
}

// take charges every item's cost and, for a hold, notes where it went.
func (p *partition) take(d *Decision, r *Request, x *hold, now Time) {
	for i := range d.items {
		it := &d.items[i]
		dropped := int64(0)
		if r.Force {
			dropped = p.drop(it)
		} else {
			it.rec.denied = false
		}
		if x != nil {
			p.note(x, it, dropped, r, now)
		}
		if it.cost > 0 && it.charged() {
			if it.limit.Algorithm == SlidingWindow {
				it.ring = p.ensureRing(it.limit, it.slot, now)
			}
			it.limit.charge(it.slot, it.ring, it.cost)
		}
	}
}

// drop takes from an item's cost what its bucket cannot owe, and returns that.
func (p *partition) drop(it *item) int64 {
	l := it.limit
	if l.Algorithm != TokenBucket {
		return 0
	}
	before := it.slot.level()
	dropped := l.beyondDebt(it.cost, before, before.add(mulWide(it.cost, l.window)))
	it.cost -= dropped
	p.stats.overrun(l, dropped)
	return dropped
}

// note adds an item that is about to be charged to a hold. Dropped is what its
// bucket will not be charged.
func (p *partition) note(x *hold, it *item, dropped int64, r *Request, now Time) {
	t := p.addTouch(x)
	t.limit, t.estimate, t.exceeded = it.limit.id, it.cost, it.refuse != NoReason
	t.end = uint16(r.Plan.Levels[it.level].End)
	if x.status != Held {
		return
	}
	t.anchor = p.anchor(it.rec, it.no)
	if it.charged() {
		t.charged, t.dropped, t.at = it.cost+dropped, dropped, p.chargedAt(it, now)
		it.rec.pins++
	}
}

// chargedAt returns where in time the charge of an item that is about to be
// taken will be found again.
func (p *partition) chargedAt(it *item, now Time) int64 {
	if it.limit.Algorithm == TokenBucket {
		slots := len(p.engine.catalog.schema(it.rec.schema).limits)
		return p.mark(it.rec, int(it.pos), slots)
	}
	return it.limit.when(*it.slot, now)
}

// remember stores the answer in the hold.
func (p *partition) remember(x *hold, d *Decision) {
	x.outcome, x.binding = d.Outcome, int16(d.Binding)
	x.tier, x.version, x.granted = p.engine.catalog.tierID(d.Tier), d.PolicyVersion, d.GrantedOutputTokens
	d.Status = x.status
	for i := range d.Limits {
		t, st := p.touch(x, i), &d.Limits[i]
		t.remaining, t.reset = st.Remaining-st.Debt, st.ResetAt
	}
}

// peek reports every limit of a plan and changes nothing.
func (p *partition) peek(now Time, r *Request, d *Decision) {
	now = p.tick(now)
	*d = Decision{Outcome: Allowed, Tier: r.Plan.Tier, PolicyVersion: r.Plan.Version, Limits: d.Limits[:0], items: d.items}
	for i := range r.Plan.Count {
		level := &r.Plan.Levels[i]
		if level.Limits != nil {
			p.peekSet(d, level.Limits.schema, r.Key[:level.End], "", now)
		}
		if level.Model != nil {
			p.peekSet(d, level.Model.schema, r.Key[:level.End], r.stateModel(), now)
		}
	}
	d.Binding = d.tightest(true)
}

func (p *partition) peekSet(d *Decision, s *schema, scope, model string, now Time) {
	_, rec := p.find(scope, model)
	for _, l := range s.limits {
		var scratch ring
		st := LimitState{Scope: scope}
		v, r := p.peekSlot(rec, l, &scratch, now)
		l.state(&st, v, r, now)
		d.Limits = append(d.Limits, st)
	}
}

// peekSlot returns the state that limit l would have in a record as of now. A
// ring is copied to scratch.
func (p *partition) peekSlot(rec *record, l *limit, scratch *ring, now Time) (s slot, r *ring) {
	pos := -1
	if rec != nil {
		pos = p.engine.catalog.schema(rec.schema).find(l.slot)
	}
	if pos < 0 {
		l.advance(&s, nil, 0, now)
		return s, nil
	}
	from := p.engine.catalog.schema(rec.schema).limits[pos]
	s = *p.slotAt(rec, pos)
	if from.Algorithm == SlidingWindow && s.lo != 0 {
		r = scratch
		*r = *p.rings.at(uint32(s.lo))
		r.advance(floorDiv(now.Mono, from.sub))
	}
	by := from
	if from.Algorithm == FixedWindow && l.Algorithm == FixedWindow {
		by = l
	}
	by.advance(&s, nil, max(0, now.Mono-rec.last), now)
	if from == l {
		return s, r
	}
	return from.become(l, s, r, now)
}

// tick runs what is due and returns now, never earlier than a time seen before.
func (p *partition) tick(now Time) Time {
	p.mono = max(p.mono, now.Mono)
	now.Mono = p.mono
	if p.nextDue <= now.Mono {
		p.runDue(now)
	}
	return now
}
