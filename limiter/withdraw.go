// SPDX-License-Identifier: Apache-2.0

package limiter

import "github.com/cespare/xxhash/v2"

// attemptSet is the attempts of a reserve that got its answer. While all of them may
// be withdrawn, no caller is known to use the reservation.
type attemptSet struct {
	permanent bool // one of them cannot be withdrawn, or there are too many to list
	ids       [2]uint64
}

func (s *attemptSet) add(attempt uint64) {
	if attempt == 0 {
		s.permanent = true
		return
	}
	free := -1
	for i, a := range s.ids {
		switch a {
		case attempt:
			return
		case 0:
			free = i
		}
	}
	if free < 0 {
		s.permanent = true
		return
	}
	s.ids[free] = attempt
}

// remove removes an attempt and reports whether it was the last one.
func (s *attemptSet) remove(attempt uint64) (last bool) {
	for i, a := range s.ids {
		if a == attempt {
			s.ids[i] = 0
			return !s.permanent && s.ids == [len(s.ids)]uint64{}
		}
	}
	return false
}

// attemptHash identifies a withdrawn attempt among the request ids.
func attemptHash(root, attempt uint64) [2]uint64 {
	return [2]uint64{mix(root, attempt), mix(^attempt, root)}
}

// isWithdrawn reports whether an attempt was withdrawn.
func (p *partition) isWithdrawn(root, attempt uint64) bool {
	if attempt == 0 {
		return false
	}
	_, entry := p.findEntry(attemptHash(root, attempt))
	return entry != nil
}

// withdraw withdraws an attempt of a reserve, whether it has arrived or not.
func (p *partition) withdraw(now Time, root uint64, key, id string, attempt uint64) {
	now = p.tick(now)
	if attempt == 0 || p.isWithdrawn(root, attempt) {
		return
	}
	p.rememberWithdrawal(now, root, attempt)
	entryID, entry := p.findEntry(idHash(root, id))
	if entry == nil || entry.reservationID == 0 {
		return
	}
	res := p.reservations.at(entry.reservationID)
	if res.keyHash != xxhash.Sum64String(key) || !res.attempts.remove(attempt) {
		return
	}
	p.beforeIDChanges(entryID)
	p.advanceRecords(entry, key, now)
	switch entry.status {
	case Held:
		p.refundAll(entry, now)
		p.heapRemove(entryID)
		p.finalizeCharges(entry)
		p.deleteEntry(entryID)
	case Expired:
		p.refundAll(entry, now)
		p.finalizeCharges(entry)
		p.buryEntry(entryID)
	}
}

// rememberWithdrawal stores a withdrawn attempt, so that it is rejected if it arrives
// later. Withdrawals are free, so they may not use the last quarter of the ids; an
// attempt that arrives then is held until its lease ends.
func (p *partition) rememberWithdrawal(now Time, root, attempt uint64) {
	if !p.engine.ids.aboveLowWater() {
		return
	}
	if entryID, entry := p.addEntry(attemptHash(root, attempt)); entry != nil {
		entry.outcome, entry.binding, entry.tier = Allowed, -1, p.engine.catalog.tierID("")
		p.push(&p.checks, entryID, now.Mono+checkRetention)
	}
}

// refundAll refunds the whole charge of a reservation.
func (p *partition) refundAll(entry *idEntry, now Time) {
	for i := range int(entry.chargeCount) {
		p.correct(entry, i, now, 0)
	}
}
