// SPDX-License-Identifier: Apache-2.0

package limiter

import "github.com/cespare/xxhash/v2"

// attemptTag returns the tag of an attempt in an entry, not 0. The tag of a check depends
// on the policy version: a check can only be withdrawn under the policy that decided it,
// because its charges are computed again. Of a reservation the version is 0.
func attemptTag(attempt, version uint64) uint32 {
	return max(uint32(mix(attempt, version)), 1)
}

// addAttempt notes that an attempt got the answer of an entry. While all attempts that
// got it may be withdrawn, no caller is known to use the answer.
func (entry *idEntry) addAttempt(attempt, version uint64) {
	if attempt == 0 {
		entry.set(flagPermanent)
		return
	}
	tag, free := attemptTag(attempt, version), -1
	for i, a := range entry.attempts {
		switch a {
		case tag:
			return
		case 0:
			free = i
		}
	}
	if free < 0 { // too many to list
		entry.set(flagPermanent)
		return
	}
	entry.attempts[free] = tag
}

// removeAttempt removes an attempt and reports whether it was the last one.
func (entry *idEntry) removeAttempt(attempt, version uint64) (last bool) {
	tag := attemptTag(attempt, version)
	for i, a := range entry.attempts {
		if a == tag {
			entry.attempts[i] = 0
			return !entry.is(flagPermanent) && entry.attempts == [len(entry.attempts)]uint32{}
		}
	}
	return false
}

// attemptKey identifies a withdrawn attempt among the request ids.
func attemptKey(root, attempt uint64) idKey {
	return idKey{mix(root, attempt), uint32(mix(^attempt, root))}
}

// isWithdrawn reports whether an attempt was withdrawn.
func (p *partition) isWithdrawn(account uint32, root, attempt uint64) bool {
	if attempt == 0 || account == 0 || p.accounts.at(account).withdrawals == 0 {
		return false
	}
	_, entry := p.findEntry(account, attemptKey(root, attempt))
	return entry != nil
}

// findToWithdraw remembers that an attempt is withdrawn. It returns the entry of its
// request id, or nil if there is none or if the attempt was withdrawn before.
func (p *partition) findToWithdraw(now Time, root uint64, id string, attempt uint64) (uint32, *idEntry) {
	if attempt == 0 || p.isWithdrawn(p.accounts.find(root), root, attempt) {
		return 0, nil
	}
	p.rememberWithdrawal(now, root, attempt)
	return p.findEntry(p.accounts.find(root), idKeyOf(root, id))
}

// withdraw withdraws an attempt of a reserve, whether it has arrived or not.
func (p *partition) withdraw(now Time, root uint64, key, id string, attempt uint64) {
	now = p.tick(now)
	entryID, entry := p.findToWithdraw(now, root, id, attempt)
	if entry == nil || !entry.isReservation() {
		return
	}
	if p.reservations.at(entry.reservation()).keyHash != xxhash.Sum64String(key) || !entry.removeAttempt(attempt, 0) {
		return
	}
	p.beforeIDChanges(entryID)
	p.advanceRecords(entry, key, now)
	switch entry.state() {
	case idHeld:
		p.refundAll(entry, now)
		p.heapRemove(entryID)
		p.finalizeCharges(entry)
		p.deleteEntry(entryID)
	case idExpired:
		p.refundAll(entry, now)
		p.buryEntry(entryID)
	}
}

// withdrawCheck withdraws an attempt of a check, whether it has arrived or not.
func (p *partition) withdrawCheck(now Time, root uint64, r *Request, d *Decision) {
	now = p.tick(now)
	entryID, entry := p.findToWithdraw(now, root, r.ID, r.Attempt)
	if entry == nil || entry.state() != idCheck || entry.body != bodyDigest(r, false) || !entry.removeAttempt(r.Attempt, r.Plan.Version) {
		return
	}
	p.beforeIDChanges(entryID)
	p.assemble(d, r, now)
	for i := range d.assessments {
		a := &d.assessments[i]
		// A shadow limit that was exceeded was not charged, which is not remembered.
		if a.rec != nil && !a.limit.Shadow {
			a.refund(entry.checkCost(r, a.limit.Dimension), now.Mono+checkRetention-entry.due, now)
		}
	}
	p.buryEntry(entryID)
}

// refund refunds a cost that was charged age nanoseconds ago. It never refunds what the
// limit has given back since.
//
// A token bucket has no mark of the charge of a check. Its level was never below what
// the refill since has left of the cost, so refunding that much leaves at least the
// level that there would be without the charge.
func (a *assessment) refund(cost, age int64, now Time) {
	l, b := a.limit, a.bucket
	switch l.Algorithm {
	case TokenBucket:
		left := mulWide(cost, l.window).sub(mulWide(l.Amount, age))
		if left.negative() {
			return
		}
		b.setLevel(b.level().sub(minWide(left, b.level())))
	case SlidingWindow:
		if k := floorDiv(now.Mono-age, l.sub); a.ring != nil && a.ring.contains(k) {
			a.ring.add(k, -min(cost, *a.ring.count(k)))
		}
	case FixedWindow:
		if now.Wall-age >= l.windowAt(b.hi-1).start {
			b.lo -= min(uint64(cost), b.lo)
		}
	}
}

// rememberWithdrawal stores a withdrawn attempt, so that it is rejected if it arrives
// later. Withdrawals are free, so no other id is forgotten for one. If the root has its
// share, an attempt that arrives later is held until its lease ends.
func (p *partition) rememberWithdrawal(now Time, root, attempt uint64) {
	account, pool := p.accounts.ensure(root), p.engine.ids
	if account == 0 {
		return
	}
	n := p.accounts.at(account).n
	if int64(n) >= pool.share() || !pool.takeFree(&p.idQuota) {
		p.accounts.release(account)
		return
	}
	pool.observe(root, n+1)
	entryID, _ := p.insertEntry(account, attemptKey(root, attempt), idWithdrawal)
	p.pushCheck(entryID, now)
}

// refundAll refunds the whole charge of a reservation.
func (p *partition) refundAll(entry *idEntry, now Time) {
	for i := range p.chargeCount(entry) {
		p.correct(entry, i, now, 0)
	}
}
