// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"fmt"
	"math"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// Return ends the slice id of key: it takes back all that was charged for it, as if it had
// never been lent, and charges as of now what was spent of each limit, in the order of
// [Loan].Amounts, and the reservations that are kept. Of a limit in shadow mode as much may be
// spent as so many calls cost, and no more is charged than fits. For [Engine.Usage], used is
// what reserves have used that have ended; of checks it is known from what was spent.
//
// Each of kept becomes a reservation as if [Engine.Reserve] had made it now, with its costs
// and what is left of its lease, so that a repeated reserve gets the same decision, and that
// it can be settled and cancelled, and expires. If the same reserve was sent to the owner, too,
// which knows its id, it is dropped, and only the reservation at the owner is charged. If
// there is no room for its id, or another call has used it, its costs are charged for good.
//
// The error is [ErrUnknownReservation] if no such slice is lent: it was returned before, its
// lease is over, and it was charged in full, or it never was. Then nothing changes, and a
// caller need not try again. Any other error changes nothing either: a [*FieldError] if an
// amount is negative or more than was lent, with what is kept, used is no amount, or the number
// of limits is another, if reservations are kept of a slice of a counter, or if a reservation cannot have
// been made from the slice; [ErrClosed]; or one that matches [ErrConflict] if the id is not
// that of a slice, or that of a slice of another key.
//
// d gets Change and Large, and no decision, also with [ErrUnknownReservation]: the change of an
// earlier return may be no other node's yet.
func (e *Engine) Return(now Time, key, id string, spent []int64, kept []Kept, used Used, d *Decision) error {
	s, root := e.lock(key)
	defer s.Unlock()
	return s.returnSlice(now, root, key, id, spent, kept, used, d)
}

func (p *partition) returnSlice(now Time, root uint64, key, id string, spent []int64, kept []Kept, used Used, d *Decision) error {
	if err := p.begin(d); err != nil {
		return err
	}
	now = p.tick(now)
	entryID, entry := p.findEntry(p.accounts.find(root), idKeyOf(root, id))
	switch {
	case entry == nil:
		d.repeats(p)
		return ErrUnknownReservation
	case !p.isSlice(entry):
		return &ConflictError{"the id is not that of a slice"}
	case p.reservations.at(entry.reservation()).keyHash != xxhash.Sum64String(key):
		return &ConflictError{"the slice is of another key"}
	case entry.due <= now.Mono: // more leases are over than tick has ended
		p.expireSlice(entryID, now)
		d.repeats(p)
		return ErrUnknownReservation
	}
	if err := p.checkKept(entry, key, kept); err != nil {
		return err
	}
	if err := p.checkSpent(entry, key, spent, kept, now); err != nil {
		return err
	}
	if err := checkUsed(&used); err != nil {
		return err
	}
	p.countSpent(root, entry, spent, used)
	p.takeBack(entryID, key, now)
	for i := range kept {
		p.keep(entry, root, key, &kept[i], now)
	}
	p.chargeSpent(entry, key, spent, now)
	p.forgetSlice(entryID)
	d.Change, d.Large = p.seq, true
	p.stats.slicesReturned++
	return nil
}

// checkSpent returns an error unless that much can have been spent of a slice, together with
// what is kept.
func (p *partition) checkSpent(entry *idEntry, key string, spent []int64, kept []Kept, now Time) error {
	if n := int(p.reservations.at(entry.reservation()).count); len(spent) != n {
		return &FieldError{Field: "spent", Value: strconv.Itoa(len(spent)), Problem: fmt.Sprintf("must have as many amounts as the slice has limits, %d", n)}
	}
	var it chargeIterator
	i := 0
	for it.start(p, entry, key); it.next(); i++ {
		most, total := it.charge.estimate, spent[i]
		if it.limit.Algorithm == counter && len(kept) > 0 {
			return numberError("kept", int64(len(kept)), "must have no entries: the slice is of a counter")
		}
		if total < 0 || total > most {
			return numberError("spent", total, fmt.Sprintf("must be from 0 to the %d that were lent of limit %s of %s", most, it.limit.Name, it.scope()))
		}
		for j := range kept {
			if total += kept[j].Costs[i]; total > most {
				return numberError("kept.costs", total-spent[i], fmt.Sprintf("with the %d that were spent must be at most the %d that were lent of limit %s of %s", spent[i], most, it.limit.Name, it.scope()))
			}
		}
		p.advanceOnce(&it, now)
		if it.pins && it.bucket != nil {
			if err := it.limit.checkRange(it.limit.used(*it.bucket, p.ringOf(it.limit, *it.bucket, now)), total); err != nil {
				return err
			}
		}
	}
	return nil
}

// expireSlice ends a slice whose lease is over: it counts as spent in full at the last
// instant of its lease, or as late as the state of a record is.
func (p *partition) expireSlice(entryID uint32, now Time) {
	entry := p.entries.at(entryID)
	last := entry.due - 1
	at := Time{Mono: last, Wall: now.Wall - (now.Mono - last)}
	p.seq++
	p.entryChanged(entryID)
	var it chargeIterator
	for it.start(p, entry, ""); it.next(); {
		p.advanceOnce(&it, at)
		switch {
		case !it.pins:
		case it.limit.Algorithm == counter: // as lent
		case it.limit.Algorithm == FixedWindow && at.Wall < it.charge.at:
			// The lease was over before the window was, so the charge is in the right one,
			// even if that is over by now.
		default:
			p.correct(&it, at, 0)
			p.chargeFinal(&it, it.charge.estimate, at)
		}
		p.finalize(&it)
	}
	p.countSpent(p.accounts.at(entry.account()).root, entry, nil, Used{})
	p.forgetSlice(entryID)
	p.stats.slicesExpired++
}

// takeBack takes the charges of a slice back. That of a counter is corrected by chargeSpent, in
// one step: what is in the counter may be less meanwhile, because hits were given back.
func (p *partition) takeBack(entryID uint32, key string, now Time) {
	p.seq++
	p.entryChanged(entryID)
	var it chargeIterator
	for it.start(p, p.entries.at(entryID), key); it.next(); {
		p.advanceOnce(&it, now)
		if it.limit.Algorithm != counter {
			p.correct(&it, now, 0)
		}
	}
}

// chargeSpent charges what was spent of a slice whose charges were taken back at the same
// time, and makes them final.
func (p *partition) chargeSpent(entry *idEntry, key string, spent []int64, now Time) {
	var it chargeIterator
	i := 0
	for it.start(p, entry, key); it.next(); i++ {
		switch {
		case !it.pins:
		case it.limit.Algorithm == counter:
			p.correct(&it, now, spent[i])
		default:
			p.chargeFinal(&it, spent[i], now)
		}
		p.finalize(&it)
	}
}

// forgetSlice forgets a slice whose charges are final.
func (p *partition) forgetSlice(entryID uint32) {
	entry := p.entries.at(entryID)
	p.heapRemove(entryID)
	entry.setState(idCancelled)
	entry.due = p.mono + 1 // it is removed before its time, even if it was due
	p.slices--
	p.deleteEntry(entryID)
}

// chargeFinal charges n units that were spent of a slice, whatever the limit says. at is not
// before the last time that the bucket was changed, except that of an expired slice. The
// record must have been advanced to it.
func (p *partition) chargeFinal(it *chargeIterator, n int64, at Time) {
	l, b := it.limit, it.bucket
	if b == nil || n == 0 {
		return
	}
	var r *ring
	if l.Algorithm == SlidingWindow {
		r = p.ensureRing(l, b, at)
	}
	if l.Shadow {
		n = min(n, max(0, l.capacity-l.used(*b, r)))
	}
	switch l.Algorithm {
	case TokenBucket:
		before := b.level()
		dropped := l.excessDebt(n, before, before.add(mulWide(n, l.window)), false)
		b.setLevel(before.add(mulWide(n-dropped, l.window)))
		p.stats.overrun(l, dropped)
	case SlidingWindow:
		if k := floorDiv(at.Mono, l.sub); r.contains(k) {
			r.add(k, n)
		}
	default:
		b.lo = min(b.lo+uint64(n), math.MaxInt64)
	}
}
