// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/internal/amount"
)

// settle applies cumulative usage to a reservation.
func (p *partition) settle(now Time, root uint64, u *Usage, d *Decision) error {
	if err := p.begin(d); err != nil {
		return err
	}
	now = p.tick(now)
	entryID, entry, err := p.findReservation(root, u.Key, u.ID)
	if err != nil {
		return err
	}
	res := p.reservations.at(entry.reservation())
	switch entry.state() {
	case idCancelled:
		return &ConflictError{"the reservation was cancelled"}
	case idSettled:
		if u.Final && finalDigest(u) != res.ttl {
			return &ConflictError{"the reservation was settled with other numbers"}
		}
		p.reportReservation(entry, u.Key, NoPriority, d, now) // a repeated settle, or late progress
		d.repeats(p)
		return nil
	}
	n, x, err := u.amounts(res.input, res.progress, p.extrasOf(entry))
	if err != nil {
		return err
	}
	terms, v := p.terms.at(entry.terms()), vector{}
	if err := terms.cost(n, x, terms.after(u, terms.ServiceTiers), &v); err != nil {
		return err
	}
	if err := p.prepare(entry, u, &v, now); err != nil {
		return err
	}
	p.numberChange(d)
	p.entryChanged(entryID)
	d.makeRoom(int(res.count))
	var it chargeIterator
	for it.start(p, entry, u.Key); it.next(); {
		p.correct(&it, now, it.target(u, &v))
		if u.Final {
			p.finalize(&it)
		}
		p.reportCharge(&it, NoPriority, d, now)
	}
	p.tellSettled(root, entry, u, n, x, &v, now)
	counted := p.countedUse(entry)
	switch {
	case u.Final:
		p.countUse(root, entry, counted, usedBy(n, &v, &terms.Rates))
		p.end(entryID, entry, idSettled, now)
		res.ttl = finalDigest(u)
		p.setExtras(entry, extras{})
	default:
		res.progress = n
		p.setExtras(entry, x)
		entry.set(flagPermanent) // a caller uses the reservation
		p.countUse(root, entry, counted, p.countedUse(entry))
		if entry.state() == idHeld {
			entry.due = satAdd(res.ttl, now.Mono)
			p.heapFix(int(entry.next))
		}
	}
	p.reportEntry(entry, d)
	return nil
}

// cancel refunds the whole charge of a reservation.
func (p *partition) cancel(now Time, root uint64, key, id string, d *Decision) error {
	if err := p.begin(d); err != nil {
		return err
	}
	now = p.tick(now)
	entryID, entry, err := p.findReservation(root, key, id)
	if err != nil {
		return err
	}
	switch entry.state() {
	case idSettled:
		return &ConflictError{"the reservation was settled"}
	case idHeld, idExpired:
		p.numberChange(d)
		p.entryChanged(entryID)
		p.refundAll(entry, key, now)
		p.tellCancelled(root, entry, now)
		p.countUse(root, entry, p.countedUse(entry), Used{})
		p.end(entryID, entry, idCancelled, now)
	default:
		d.repeats(p)
	}
	p.reportReservation(entry, key, NoPriority, d, now)
	return nil
}

// refundAll refunds the whole charge of a reservation and makes that final. The caller
// must end the reservation.
func (p *partition) refundAll(entry *idEntry, key string, now Time) {
	var it chargeIterator
	for it.start(p, entry, key); it.next(); {
		p.advanceOnce(&it, now)
		p.correct(&it, now, 0)
		p.finalize(&it)
	}
}

// findReservation returns the entry of a reservation.
func (p *partition) findReservation(root uint64, key, id string) (uint32, *idEntry, error) {
	entryID, entry := p.findEntry(p.accounts.find(root), idKeyOf(root, id))
	switch {
	case entry == nil:
		return 0, nil, ErrUnknownReservation
	case !entry.isReservation():
		return 0, nil, &ConflictError{"the id was used for a check"}
	case p.isSlice(entry):
		return 0, nil, errSliceID
	case p.reservations.at(entry.reservation()).keyHash != xxhash.Sum64String(key):
		return 0, nil, &ConflictError{"the id was reserved under another key"}
	}
	return entryID, entry, nil
}

// advanceOnce advances the record of a charge to now, unless the charge before did.
// Charges to the same record are adjacent.
func (p *partition) advanceOnce(it *chargeIterator, now Time) {
	if it.newRecord && it.rec != nil {
		p.advance(it.rec, now)
	}
}

// extras returns the extras that u reports.
func (u *Usage) extras() extras {
	return extras{max(u.CacheWriteTokens, 0), max(u.CacheWrite1hTokens, 0), max(u.Images, 0), max(u.Searches, 0)}
}

// amounts returns the usage that u reports, with defaults for absent numbers. estimate is
// the input that was reserved. Progress never decreases; of two reports the one with more
// input says what the input consists of, and the later one if both have the same. reported
// are the extras of the progress.
func (u *Usage) amounts(estimate int64, progress amounts, reported extras) (amounts, extras, error) {
	x := u.extras()
	n := amounts{input: u.InputTokens, cached: max(u.CachedInputTokens, 0), output: u.OutputTokens}
	if n.input < 0 {
		n.input = estimate
	}
	if n.output < 0 {
		n.output = progress.output
	}
	for _, f := range [...]struct {
		name  string
		value int64
	}{
		{"input_tokens", n.input},
		{"output_tokens", n.output},
		{"cache_write_tokens", x.write},
		{"cache_write_1h_tokens", x.write1h},
		{"images", x.images},
		{"searches", x.searches},
	} {
		if f.value > MaxAmount {
			return n, x, numberError(f.name, f.value, "must be at most "+amount.MaxText)
		}
	}
	if n.cached > n.input {
		return n, x, numberError("cached_input_tokens", n.cached, "must not be more than input_tokens, "+strconv.FormatInt(n.input, 10))
	}
	if n.cached+x.write+x.write1h > n.input {
		field, value := "cache_write_tokens", x.write
		if x.write1h > x.write {
			field, value = "cache_write_1h_tokens", x.write1h
		}
		return n, x, numberError(field, value, "is a part of input_tokens, and all parts together must not be more than "+strconv.FormatInt(n.input, 10))
	}
	if !u.Final {
		if n.input < progress.input {
			n.input, n.cached = progress.input, progress.cached
			x.write, x.write1h = reported.write, reported.write1h
		}
		n.output = max(n.output, progress.output)
		x.images, x.searches = max(x.images, reported.images), max(x.searches, reported.searches)
	}
	return n, x, nil
}

// target returns what the charge must be after usage u with cost v.
func (it *chargeIterator) target(u *Usage, v *vector) int64 {
	return u.target(it.limit.dim, it.limit.Dimension, it.charge.charged, v)
}

// target returns what a charge in a dimension must be after usage u with cost v. Usage that
// is final frees slots.
func (u *Usage) target(dim uint8, dimension Dimension, charged int64, v *vector) int64 {
	target := int64(0)
	switch dim {
	case dimRequests:
		return charged
	case dimConcurrent:
	case dimCustom:
		cost, ok := customCost(u.Costs, dimension)
		if !ok {
			return charged
		}
		target = cost
	default:
		target = v[dim]
	}
	if u.Final {
		return target
	}
	return max(target, charged) // progress never lowers a charge
}

// prepare advances the records of a reservation to now. It returns an error if the count
// of a window could overflow, before a charge is changed.
func (p *partition) prepare(entry *idEntry, u *Usage, v *vector, now Time) error {
	var it chargeIterator
	for it.start(p, entry, u.Key); it.next(); {
		p.advanceOnce(&it, now)
		if !it.pins || it.bucket == nil || it.limit.Algorithm == TokenBucket {
			continue
		}
		used := int64(it.bucket.lo)
		if it.limit.Algorithm == SlidingWindow {
			used = 0
			if it.bucket.lo != 0 {
				used = p.rings.at(uint32(it.bucket.lo)).sum
			}
		}
		if err := it.limit.checkRange(used, it.target(u, v)-it.charge.charged); err != nil {
			return err
		}
	}
	return nil
}

// correct changes a charge to target, as if that had been charged at reserve time. Its
// record must have been advanced to now.
func (p *partition) correct(it *chargeIterator, now Time, target int64) {
	c := it.charge
	delta := target - c.charged
	if !it.pins || delta == 0 || it.bucket == nil {
		return
	}
	p.recordChanged(it.rec, 0) // it has a handle
	l, b := it.limit, it.bucket
	within := c.charged <= c.estimate
	c.charged = target
	if delta < 0 && c.dropped > 0 { // what the bucket was not charged is refunded first
		back := min(c.dropped, -delta)
		c.dropped -= back
		delta += back
		if within { // nothing was dropped as debt, so it came from a credit
			p.returnCredit(it, back, now)
		}
	}
	switch l.Algorithm {
	case TokenBucket:
		over := p.correctBucket(l, b, p.timelineOf(it.rec, it.pos), c.at, delta, it.estimated)
		c.dropped += over
		p.stats.overrun(l, over)
	case SlidingWindow:
		r := p.ringOf(l, *b, now)
		if r == nil && delta > 0 {
			r = p.ensureRing(l, b, now)
		}
		if r != nil && r.contains(c.at) {
			r.add(c.at, max(delta, -*r.count(c.at)))
		}
	case FixedWindow, counter:
		if delta > 0 {
			b.lo += uint64(delta) // counted in the current window if its own is over
		} else if b.hi == c.at {
			b.lo -= min(uint64(-delta), b.lo)
		}
	default:
		b.lo -= min(uint64(-delta), b.lo)
	}
}

// correctBucket changes an earlier charge to a token bucket by delta units. It returns
// the units that are dropped because they exceed the maximum debt.
func (p *partition) correctBucket(l *limit, b *bucket, t *timeline, mark, delta int64, estimated bool) (dropped int64) {
	before := b.level()
	if !t.hasMark(mark) { // not that of a valid copy
		return 0
	}
	if delta < 0 {
		b.setLevel(t.shift(mark, mulWide(-delta, l.window).neg(), before))
		return 0
	}
	after := t.shift(mark, mulWide(delta, l.window), before)
	if dropped = l.excessDebt(delta, before, after, estimated); dropped > 0 {
		after = t.shift(mark, mulWide(dropped, l.window).neg(), after)
	}
	b.setLevel(after)
	return dropped
}

// finalize makes a charge final and unpins its record.
func (p *partition) finalize(it *chargeIterator) {
	if !it.pins {
		return
	}
	p.beforeRecordChanges(it.rec)
	p.recordChanged(it.rec, 0)
	it.rec.pins--
	if it.bucket != nil && it.limit.Algorithm == TokenBucket {
		p.closeMark(it.rec, it.pos, it.charge.at)
	}
}

// end ends a reservation, whose charges must be final.
func (p *partition) end(entryID uint32, entry *idEntry, s idState, now Time) {
	switch {
	case entry.state() == idHeld:
		p.heapRemove(entryID)
		if s == idCancelled {
			p.pushCheck(entryID, now)
		} else {
			p.pushEnded(entryID, now)
		}
	default:
		p.expired--
		if s == idCancelled { // it keeps its place in the queue
			entry.due = min(entry.due, now.Mono+checkRetention)
			p.noteDue(entry.due)
		}
	}
	entry.setState(s)
	p.freeLabel(entry)
}

// expire ends a lease: it frees the slots and lowers the charge to the input or the
// progress, whichever is more. A late settle may still correct that.
func (p *partition) expire(entryID uint32, now Time) {
	p.expireCharging(entryID, false, now)
}

// expireCharging is expire, or leaves the charge as it is.
func (p *partition) expireCharging(entryID uint32, asCharged bool, now Time) {
	entry := p.entries.at(entryID)
	res := p.reservations.at(entry.reservation())
	if res.slice {
		p.expireSlice(entryID, now)
		return
	}
	p.seq++
	p.entryChanged(entryID)
	var inputCost, progressCost vector
	// Both were computed before without an error.
	terms := p.terms.at(entry.terms())
	_ = terms.cost(amounts{input: res.input}, extras{}, terms.basis, &inputCost)
	_ = terms.cost(res.progress, p.extrasOf(entry), terms.basis, &progressCost)
	var it chargeIterator
	for it.start(p, entry, ""); it.next(); {
		p.advanceOnce(&it, now)
		switch dim := it.limit.dim; dim {
		case dimConcurrent:
			p.correct(&it, now, 0)
		case dimRequests, dimCustom:
		default:
			if asCharged {
				progressCost[dim] = max(progressCost[dim], it.charge.charged) // for the ledger
				continue
			}
			if it.windowOver() {
				continue // nothing can be refunded, so a late settle starts from the full charge
			}
			p.correct(&it, now, max(inputCost[dim], progressCost[dim]))
		}
	}
	p.tellExpired(entry, &inputCost, &progressCost, now)
	p.heapRemove(entryID)
	p.pushEnded(entryID, now)
	entry.setState(idExpired)
	p.countUse(p.accounts.at(entry.account()).root, entry, Used{}, p.countedUse(entry))
	p.expired++
	p.stats.expired++
}

// windowOver reports whether the charge belongs to a fixed window that is over.
func (it *chargeIterator) windowOver() bool {
	return it.pins && it.bucket != nil && it.limit.Algorithm == FixedWindow && it.bucket.hi != it.charge.at
}
