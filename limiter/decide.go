// SPDX-License-Identifier: Apache-2.0

package limiter

import "github.com/cespare/xxhash/v2"

// decide is Check, and Reserve if reserve is set.
func (p *partition) decide(now Time, root uint64, r *Request, d *Decision, reserve bool) error {
	now = p.tick(now)
	var id [2]uint64
	var body uint64
	if r.ID != "" {
		if reserve && p.isWithdrawn(root, r.Attempt) {
			return ErrWithdrawn
		}
		id, body = idHash(root, r.ID), bodyDigest(r, reserve)
		if _, entry := p.findEntry(id); entry != nil {
			switch {
			case entry.body != body:
				return &ConflictError{"the id was used for another request"}
			case entry.status == Cancelled:
				return &ConflictError{"the reservation was cancelled"}
			}
			if entry.reservationID != 0 {
				p.reservations.at(entry.reservationID).attempts.add(r.Attempt)
			}
			p.replay(entry, r, d)
			return nil
		}
	}
	allExist := p.assemble(d, r, now)
	requested := r.OutputTokens
	if reserve && requested < 0 {
		requested = r.Plan.DefaultOutput
	}
	denied, mayShrink, err := p.assess(d, r, requested, reserve)
	if err != nil {
		return err
	}
	outcome, granted := Allowed, int64(0)
	if reserve {
		granted = requested
	}
	if mayShrink && reserve {
		output, ok, err := p.shrink(d, r, requested)
		if err != nil {
			return err
		}
		if ok {
			outcome, granted, denied = Degraded, output, false
		}
	}
	d.Tier, d.PolicyVersion, d.Replayed = r.Plan.Tier, r.Plan.Version, false
	d.Reason, d.RetryAfter, d.GrantedOutputTokens, d.Status = NoReason, 0, 0, NoStatus
	if denied {
		p.reportLimits(d, r, now)
		p.deny(d, now)
		return nil
	}
	var entry *idEntry
	full := int64(0)
	if !allExist {
		full = p.createMissing(d, r, now)
	}
	if full == 0 && r.ID != "" {
		var ok bool
		if entry, ok = p.rememberID(now, r, id, reserve); !ok {
			full = roomRetry
		}
	}
	if full != 0 {
		p.stats.tableFull++
		p.reportLimits(d, r, now)
		denyTableFull(d, full)
		return nil
	}
	p.chargeAll(d, r, entry, now)
	d.Outcome, d.GrantedOutputTokens = outcome, granted
	p.reportLimits(d, r, now)
	d.Binding = d.tightest(reserve)
	if entry != nil {
		entry.body = body
		p.saveAnswer(entry, d)
	}
	return nil
}

// rememberID adds the id entry of an admitted request, before the request is charged.
// If there is no room for the id of a check, the entry is nil and the check goes on.
// It returns false if there is no room for a reservation.
func (p *partition) rememberID(now Time, r *Request, id [2]uint64, reserve bool) (*idEntry, bool) {
	entryID, entry := p.addEntry(id)
	if entry == nil {
		p.stats.forgotten++
		return nil, !reserve
	}
	switch {
	case reserve:
	case r.Force: // may be replayed as late as a settle
		p.push(&p.ended, entryID, now.Mono+endedRetention)
		return entry, true
	default:
		p.push(&p.checks, entryID, now.Mono+checkRetention)
		return entry, true
	}
	var res *reservation
	entry.reservationID, res = p.reservations.alloc()
	ttl := r.TTL
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	*res = reservation{keyHash: xxhash.Sum64String(r.Key), ttl: int64(ttl), rates: r.Plan.Rates, input: r.InputTokens}
	res.attempts.add(r.Attempt)
	entry.status, entry.due = Held, satAdd(int64(ttl), now.Mono)
	p.heapPush(entryID)
	return entry, true
}

// chargeAll charges the cost of every assessment and records the charges in entry,
// unless that is nil.
func (p *partition) chargeAll(d *Decision, r *Request, entry *idEntry, now Time) {
	for i := range d.assessments {
		a := &d.assessments[i]
		dropped := int64(0)
		if r.Force {
			dropped = p.dropExcess(a)
		} else {
			a.rec.denied = false
		}
		if entry != nil {
			p.addCharge(entry, a, dropped, r, now)
		}
		if a.cost > 0 && a.takesCost() {
			if a.limit.Algorithm == SlidingWindow {
				a.ring = p.ensureRing(a.limit, a.bucket, now)
			}
			a.limit.charge(a.bucket, a.ring, a.cost)
		}
	}
}

// dropExcess reduces a cost by what exceeds the bucket's maximum debt, and returns
// the reduction.
func (p *partition) dropExcess(a *assessment) int64 {
	l := a.limit
	if l.Algorithm != TokenBucket {
		return 0
	}
	before := a.bucket.level()
	dropped := l.excessDebt(a.cost, before, before.add(mulWide(a.cost, l.window)))
	a.cost -= dropped
	p.stats.overrun(l, dropped)
	return dropped
}

// addCharge records in entry a charge that is about to be made. dropped is the part
// that the bucket will not be charged.
func (p *partition) addCharge(entry *idEntry, a *assessment, dropped int64, r *Request, now Time) {
	c := p.appendCharge(entry)
	c.limit, c.estimate, c.exceeded = a.limit.id, a.cost, a.reason != NoReason
	c.scopeEnd = uint16(r.Plan.Levels[a.level].End)
	if entry.status != Held {
		return
	}
	c.handle = p.handleOf(a.rec, a.recordID)
	if a.takesCost() {
		c.charged, c.dropped, c.at = a.cost+dropped, dropped, p.chargedAt(a, now)
		a.rec.pins++
	}
}

// chargedAt returns the [charge].at of a charge that is about to be made.
func (p *partition) chargedAt(a *assessment, now Time) int64 {
	if a.limit.Algorithm == TokenBucket {
		buckets := len(p.engine.catalog.schema(a.rec.schema).limits)
		return p.openMark(a.rec, int(a.pos), buckets)
	}
	return a.limit.currentPeriod(*a.bucket, now)
}

// saveAnswer stores the decision in entry.
func (p *partition) saveAnswer(entry *idEntry, d *Decision) {
	entry.outcome, entry.binding = d.Outcome, int16(d.Binding)
	entry.tier, entry.version, entry.granted = p.engine.catalog.tierID(d.Tier), d.PolicyVersion, d.GrantedOutputTokens
	d.Status = entry.status
	for i := range d.Limits {
		c, st := p.chargeAt(entry, i), &d.Limits[i]
		c.remaining, c.reset = st.Remaining-st.Debt, st.ResetAt
	}
}

// peek reports every limit of a plan without changing its state.
func (p *partition) peek(now Time, r *Request, d *Decision) {
	now = p.tick(now)
	*d = Decision{Outcome: Allowed, Tier: r.Plan.Tier, PolicyVersion: r.Plan.Version, Limits: d.Limits[:0], assessments: d.assessments}
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
		b, r := p.peekBucket(rec, l, &scratch, now)
		l.reportBucket(&st, b, r, now)
		d.Limits = append(d.Limits, st)
	}
}

// peekBucket returns the state that limit l would have in a record as of now, without
// changing the record. rec may be nil. The ring is a copy in scratch.
func (p *partition) peekBucket(rec *record, l *limit, scratch *ring, now Time) (b bucket, r *ring) {
	pos := -1
	if rec != nil {
		pos = p.engine.catalog.schema(rec.schema).find(l.bucketID)
	}
	if pos < 0 {
		l.advance(&b, nil, 0, now)
		return b, nil
	}
	from := p.engine.catalog.schema(rec.schema).limits[pos]
	b = *p.bucketAt(rec, pos)
	if from.Algorithm == SlidingWindow && b.lo != 0 {
		r = scratch
		*r = *p.rings.at(uint32(b.lo))
		r.advance(floorDiv(now.Mono, from.sub))
	}
	by := from
	if from.Algorithm == FixedWindow && l.Algorithm == FixedWindow {
		by = l
	}
	by.advance(&b, nil, max(0, now.Mono-rec.advancedAt), now)
	if from == l {
		return b, r
	}
	return from.migrateTo(l, b, r, now)
}

// tick runs due work and returns now, with its Mono not before any seen earlier.
func (p *partition) tick(now Time) Time {
	p.mono = max(p.mono, now.Mono)
	now.Mono = p.mono
	if p.nextDue <= now.Mono {
		p.runDue(now)
	}
	return now
}
