// SPDX-License-Identifier: Apache-2.0

package limiter

import "github.com/cespare/xxhash/v2"

// decide is Check, and Reserve if reserve is set.
func (p *partition) decide(now Time, root uint64, r *Request, d *Decision, reserve bool) error {
	if err := p.begin(d); err != nil {
		return err
	}
	if r.Priority != NoPriority {
		if err := r.checkPriority(); err != nil {
			return err
		}
	}
	now = p.tick(now)
	if !r.Force {
		d.Rate, d.AskerShare = p.sample(now, root, r)
	}
	var id idKey
	var keyHash uint64
	var body uint32
	if r.ID != "" {
		account := p.accounts.find(root)
		if p.isWithdrawn(account, root, r.Attempt) {
			return ErrWithdrawn
		}
		id = idKeyOf(root, r.ID)
		p.preload(account, id)
		keyHash = xxhash.Sum64String(r.Key)
		body = bodyDigest(r, keyHash, reserve)
		if entryID, entry := p.findEntry(account, id); entry != nil {
			return p.repeat(entryID, entry, body, r, d, now)
		}
	}
	allExist := p.assemble(d, r, now)
	r, outcome, granted, err := p.decideCost(d, r, reserve)
	if err != nil {
		return err
	}
	d.Tier, d.PolicyVersion, d.Replayed = r.Plan.Tier, r.Plan.Version, false
	d.Reason, d.RetryAfter, d.GrantedOutputTokens, d.Status = NoReason, 0, 0, NoStatus
	if outcome == Denied {
		p.reportLimits(d, r, now)
		p.deny(d, now)
		return nil
	}
	if !allExist {
		if wait := p.createMissing(d, r, now); wait != 0 {
			p.stats.tableFull++
			p.reportLimits(d, r, now)
			denyFull(d, TableFull, wait)
			return nil
		}
	}
	var entry *idEntry
	if r.ID != "" {
		if entry = p.rememberID(now, root, r, id, reserve); entry == nil && reserve {
			p.stats.idsFull++
			p.reportLimits(d, r, now)
			denyFull(d, IDsFull, roomRetry)
			return nil
		}
	}
	if entry != nil {
		entry.body = body
		if reserve {
			p.reservations.at(entry.reservation()).keyHash = keyHash
			p.labelReservation(entry, r, now)
			if entry.value[1] = granted; outcome == Degraded {
				entry.set(flagDegraded)
			}
			d.Status = Held
		} else {
			d.saveCosts(entry)
		}
	}
	if p.chargeAll(d, r, entry, now) || entry != nil {
		p.seq++
		d.Change, d.Large = p.seq, d.Large || reserve
	}
	if !reserve {
		p.tellCheck(root, r, false, now)
		p.countCheck(root, r, false)
	}
	d.Outcome, d.GrantedOutputTokens = outcome, granted
	p.reportLimits(d, r, now)
	d.Binding = d.tightest(reserve)
	return nil
}

// decideCost assesses a request, and returns it with its estimate reduced if that is above
// what the limits could ever admit.
func (p *partition) decideCost(d *Decision, r *Request, reserve bool) (_ *Request, o Outcome, granted int64, err error) {
	requested := r.OutputTokens
	if reserve && requested < 0 {
		requested = r.Plan.DefaultOutput
	}
	o, granted, err = p.grant(d, r, requested, reserve)
	if err == nil && o == Denied && reserve && r.EstimatedInput && d.exceedsCapacity() {
		reduced := *r
		if requested, err = p.reduceEstimate(d, &reduced, requested); err != nil {
			return r, 0, 0, err
		}
		r = &reduced
		o, granted, err = p.grant(d, r, requested, reserve)
	}
	return r, o, granted, err
}

// grant assesses a request. The outcome of a reserve is Degraded if it fits with less
// output than requested.
func (p *partition) grant(d *Decision, r *Request, requested int64, reserve bool) (o Outcome, granted int64, err error) {
	denied, mayShrink, err := p.assess(d, r, requested, reserve)
	switch {
	case err != nil:
		return 0, 0, err
	case !reserve && denied:
		return Denied, 0, nil
	case !reserve:
		return Allowed, 0, nil
	case mayShrink:
		output, ok, err := p.shrink(d, r, requested)
		if err != nil {
			return 0, 0, err
		}
		if ok {
			return Degraded, output, nil
		}
	}
	if denied {
		return Denied, 0, nil
	}
	return Allowed, requested, nil
}

// repeat answers a request whose id is known.
func (p *partition) repeat(entryID uint32, entry *idEntry, body uint32, r *Request, d *Decision, now Time) error {
	switch {
	case p.isSlice(entry):
		return errSliceID
	case entry.body != body || entry.state() == idCount || entry.state() == idWithdrawal:
		return &ConflictError{"the id was used for another request"}
	case entry.state() == idCancelled:
		return &ConflictError{"the reservation was cancelled"}
	}
	p.entryChanged(entryID)
	version := r.Plan.Version
	if entry.isReservation() {
		version = 0
	}
	if p.addAttempt(entry, r.Attempt, version) {
		p.seq++
	}
	if entry.isReservation() {
		p.replayReservation(entry, r.Key, r.class(), d, now)
	} else {
		p.replayCheck(entry, r, d, now)
	}
	d.repeats(p)
	return nil
}

// saveCosts stores in a check's entry the costs that depend on the policy.
func (d *Decision) saveCosts(entry *idEntry) {
	for i := range d.assessments {
		switch a := &d.assessments[i]; a.limit.dim {
		case dimTokens:
			entry.value[0] |= a.cost // beside the tags of attempts
		case dimSpend:
			entry.value[1] |= a.cost
		}
	}
}

// rememberID adds the id entry of an admitted request, before the request is charged. It
// returns nil if there is no room: only live reservations have the share of the root. A
// check goes on without.
func (p *partition) rememberID(now Time, root uint64, r *Request, id idKey, reserve bool) *idEntry {
	s := idCheck
	if reserve {
		s = idHeld
	}
	entryID, entry := p.addEntry(root, id, s)
	switch {
	case entry == nil:
		if !reserve {
			p.stats.forgotten++
		}
		return nil
	case !reserve && r.Force: // may be replayed as late as a settle
		p.addAttempt(entry, r.Attempt, r.Plan.Version)
		p.pushEnded(entryID, now)
		return entry
	case !reserve:
		p.addAttempt(entry, r.Attempt, r.Plan.Version)
		p.pushCheck(entryID, now)
		return entry
	}
	reservationID, res := p.reservations.alloc()
	entry.setReservation(reservationID, p.terms.share(&r.Plan.Rates, r.basis(&r.Plan.Rates, true), r.Plan.Tier, r.Plan.Version))
	ttl := r.TTL
	if ttl <= 0 {
		ttl = DefaultTTL
	}
	res.ttl, res.input, res.estimated = int64(ttl), r.InputTokens, r.EstimatedInput
	p.addAttempt(entry, r.Attempt, 0)
	entry.due = satAdd(int64(ttl), now.Mono)
	p.heapPush(entryID)
	return entry
}

// chargeAll charges the cost of every assessment and records the charges in entry if
// it is a reservation. entry may be nil. It sets d.Large and reports whether anything was
// charged.
func (p *partition) chargeAll(d *Decision, r *Request, entry *idEntry, now Time) (changed bool) {
	for i := range d.assessments {
		a := &d.assessments[i]
		dropped, credited := int64(0), int64(0)
		if a.credited > 0 && a.takesCost() {
			credited = p.spendCredit(r, a, now)
		}
		if r.Force {
			dropped = p.dropExcess(a, r.EstimatedInput)
		} else {
			a.rec.flags &^= recordDenied
		}
		if entry != nil && entry.isReservation() {
			p.addCharge(entry, a, dropped, r, now).dropped += credited
		}
		if a.cost > 0 && a.takesCost() {
			changed = true
			if a.cost >= a.limit.large {
				d.Large = true
			}
			if a.limit.Algorithm == SlidingWindow {
				a.ring = p.ensureRing(a.limit, a.bucket, now)
			}
			a.limit.charge(a.bucket, a.ring, a.cost-credited)
		}
	}
	if p.records.tracked {
		p.listCharged(d, entry != nil && entry.isReservation())
	}
	return changed
}

// listCharged lists the records that were charged, or are referred to by a reservation.
func (p *partition) listCharged(d *Decision, reserved bool) {
	for i := range d.assessments {
		if a := &d.assessments[i]; reserved || a.cost > 0 && a.takesCost() {
			p.recordChanged(a.rec, a.recordID)
		}
	}
}

// dropExcess reduces a cost by what exceeds the bucket's maximum debt, and returns
// the reduction.
func (p *partition) dropExcess(a *assessment, estimated bool) int64 {
	l := a.limit
	if l.Algorithm != TokenBucket {
		return 0
	}
	before := a.bucket.level()
	dropped := l.excessDebt(a.cost, before, before.add(mulWide(a.cost, l.window)), estimated)
	a.cost -= dropped
	p.stats.overrun(l, dropped)
	return dropped
}

// addCharge records in entry a charge that is about to be made. dropped is the part
// that the bucket will not be charged.
func (p *partition) addCharge(entry *idEntry, a *assessment, dropped int64, r *Request, now Time) *charge {
	c := p.appendCharge(entry, r.Plan.Levels[a.level].End)
	c.limit, c.estimate, c.handle = a.limit.id, a.cost, p.handleOf(a.rec, a.recordID)
	switch {
	case a.takesCost():
		c.charged, c.dropped, c.at = a.cost+dropped, dropped, p.chargedAt(a, now)
		a.rec.pins++
	default:
		c.at = notCharged
	}
	return c
}

// chargedAt returns the [charge].at of a charge that is about to be made.
func (p *partition) chargedAt(a *assessment, now Time) int64 {
	if a.limit.Algorithm == TokenBucket {
		return p.openMark(a.rec, int(a.pos))
	}
	return a.limit.currentPeriod(*a.bucket, now)
}

// peek reports every limit of a plan without changing its state.
func (p *partition) peek(now Time, r *Request, d *Decision) {
	now = p.tick(now)
	class := r.class()
	*d = Decision{Outcome: Allowed, Tier: r.Plan.Tier, PolicyVersion: r.Plan.Version, Limits: d.Limits[:0], assessments: d.assessments}
	for i := range r.Plan.Count {
		level := &r.Plan.Levels[i]
		if level.Limits != nil {
			p.peekSet(d, level.Limits.schema, r.Key[:level.End], "", class, now)
		}
		if level.Model != nil {
			p.peekSet(d, level.Model.schema, r.Key[:level.End], r.stateModel(), class, now)
		}
	}
	d.Binding = d.tightest(true)
}

func (p *partition) peekSet(d *Decision, s *schema, scope, model string, class Priority, now Time) {
	_, rec := p.find(scope, model)
	for _, l := range s.limits {
		var scratch ring
		st := LimitState{Scope: scope}
		b, r := p.peekBucket(rec, l, &scratch, now)
		l.reportBucket(&st, &b, r, class, now)
		if p.records.first.credited {
			st.Credit = p.creditLeft(scope, model, l, now)
		}
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
