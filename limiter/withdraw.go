// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/internal/keypath"
)

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
	p.seq++
	p.rememberWithdrawal(now, root, attempt)
	return p.findEntry(p.accounts.find(root), idKeyOf(root, id))
}

// withdraw withdraws an attempt of a reserve, whether it has arrived or not.
func (p *partition) withdraw(now Time, root uint64, key, id string, attempt uint64) (change uint64, err error) {
	if p.records.closed {
		return 0, ErrClosed
	}
	now = p.tick(now)
	if entryID, entry := p.findToWithdraw(now, root, id, attempt); entry != nil && entry.isReservation() {
		p.withdrawReservation(now, entryID, entry, key, attempt)
	}
	return p.seq, nil
}

func (p *partition) withdrawReservation(now Time, entryID uint32, entry *idEntry, key string, attempt uint64) {
	if p.isSlice(entry) || p.reservations.at(entry.reservation()).keyHash != xxhash.Sum64String(key) {
		return
	}
	p.entryChanged(entryID)
	if !p.removeAttempt(entry, attempt, 0) {
		return
	}
	switch entry.state() {
	case idHeld:
		p.refundAll(entry, key, now)
		p.heapRemove(entryID)
		entry.setState(idCancelled)
		entry.due = p.mono + 1 // it is removed before its time, even if it was due
		p.deleteEntry(entryID)
	case idExpired:
		p.refundAll(entry, key, now)
		root := p.accounts.at(entry.account()).root
		p.tellCancelled(root, entry, now)
		p.countUse(root, entry, p.countedUse(entry), Used{})
		p.expired--
		entry.setState(idCancelled)
		p.buryEntry(entryID)
	}
}

// withdrawCheck withdraws an attempt of a check, whether it has arrived or not.
func (p *partition) withdrawCheck(now Time, root uint64, r *Request, d *Decision) error {
	if err := p.begin(d); err != nil {
		return err
	}
	now = p.tick(now)
	if entryID, entry := p.findToWithdraw(now, root, r.ID, r.Attempt); entry != nil && entry.state() == idCheck && entry.body == bodyDigest(r, xxhash.Sum64String(r.Key), false) {
		p.entryChanged(entryID)
		if p.removeAttempt(entry, r.Attempt, r.Plan.Version) {
			p.refundCheck(now, entryID, entry, r, d)
		}
	}
	d.repeats(p)
	return nil
}

// refundCheck refunds a check and forgets it.
func (p *partition) refundCheck(now Time, entryID uint32, entry *idEntry, r *Request, d *Decision) {
	p.assemble(d, r, now)
	for i := range d.assessments {
		a := &d.assessments[i]
		// A shadow limit that was exceeded was not charged, which is not remembered.
		if a.rec != nil && !a.limit.Shadow && !p.wasReset(p.accounts.at(entry.account()).root, r, a, entry.age(now), now) {
			p.recordChanged(a.rec, a.recordID)
			a.refund(entry.checkCost(r, a.limit.Dimension), entry.age(now), now)
		}
	}
	root := keypath.RootHash(r.Key)
	p.tellCheck(root, r, true, now)
	p.countCheck(root, r, true)
	p.buryEntry(entryID)
}

// age returns how long ago a check was charged, in nanoseconds, until the check has been
// remembered for endedRetention-checkRetention.
func (entry *idEntry) age(now Time) int64 {
	left := entry.due - now.Mono
	if left > checkRetention { // it was forced
		return endedRetention - left
	}
	return checkRetention - left
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
