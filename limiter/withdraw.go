// SPDX-License-Identifier: Apache-2.0

package limiter

import "github.com/cespare/xxhash/v2"

// addAttempt notes that an attempt got the answer of a reservation. While all attempts
// that got it may be withdrawn, no caller is known to use the reservation.
func (p *partition) addAttempt(entry *idEntry, attempt uint64) {
	if attempt == 0 {
		entry.set(flagPermanent)
		return
	}
	free := -1
	attempts := &p.reservations.at(entry.reservation()).attempts
	for i, a := range attempts {
		switch a {
		case attempt:
			return
		case 0:
			free = i
		}
	}
	if free < 0 { // too many to list
		entry.set(flagPermanent)
		return
	}
	attempts[free] = attempt
}

// removeAttempt removes an attempt and reports whether it was the last one.
func (p *partition) removeAttempt(entry *idEntry, attempt uint64) (last bool) {
	attempts := &p.reservations.at(entry.reservation()).attempts
	for i, a := range attempts {
		if a == attempt {
			attempts[i] = 0
			return !entry.is(flagPermanent) && *attempts == [len(attempts)]uint64{}
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

// withdraw withdraws an attempt of a reserve, whether it has arrived or not.
func (p *partition) withdraw(now Time, root uint64, key, id string, attempt uint64) {
	now = p.tick(now)
	if attempt == 0 || p.isWithdrawn(p.accounts.find(root), root, attempt) {
		return
	}
	p.rememberWithdrawal(now, root, attempt)
	entryID, entry := p.findEntry(p.accounts.find(root), idKeyOf(root, id))
	if entry == nil || !entry.isReservation() {
		return
	}
	if p.reservations.at(entry.reservation()).keyHash != xxhash.Sum64String(key) || !p.removeAttempt(entry, attempt) {
		return
	}
	p.beforeIDChanges(entryID)
	switch entry.state() {
	case idHeld:
		p.refundAll(entry, key, now)
		p.heapRemove(entryID)
		entry.setState(idCancelled)
		p.deleteEntry(entryID)
	case idExpired:
		p.refundAll(entry, key, now)
		p.expired--
		entry.setState(idCancelled)
		p.buryEntry(entryID)
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
