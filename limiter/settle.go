// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/internal/amount"
)

// settle applies cumulative usage to a reservation.
func (p *partition) settle(now Time, root uint64, u *Usage, d *Decision) error {
	now = p.tick(now)
	entryID, entry, err := p.findReservation(now, root, u.Key, u.ID)
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
		p.reportReservation(entry, u.Key, d, now) // a repeated settle, or late progress
		return nil
	}
	n, err := res.amounts(u)
	if err != nil {
		return err
	}
	var v vector
	if err := p.rates.at(res.rates).cost(n, &v); err != nil {
		return err
	}
	if err := p.checkOverflow(entry, u, &v); err != nil {
		return err
	}
	p.beforeIDChanges(entryID)
	for i := range p.chargeCount(entry) {
		p.correct(entry, i, now, p.target(p.chargeAt(entry, i), u, &v))
	}
	if !u.Final {
		res.progress = n
		entry.set(flagPermanent) // a caller uses the reservation
		if entry.state() == idHeld {
			entry.due = satAdd(res.ttl, now.Mono)
			p.heapFix(int(entry.next))
		}
		p.reportReservation(entry, u.Key, d, now)
		return nil
	}
	p.finish(entryID, entry, idSettled, now)
	res.ttl = finalDigest(u)
	p.reportReservation(entry, u.Key, d, now)
	return nil
}

// cancel refunds the whole charge of a reservation.
func (p *partition) cancel(now Time, root uint64, key, id string, d *Decision) error {
	now = p.tick(now)
	entryID, entry, err := p.findReservation(now, root, key, id)
	if err != nil {
		return err
	}
	switch entry.state() {
	case idSettled:
		return &ConflictError{"the reservation was settled"}
	case idHeld, idExpired:
		p.beforeIDChanges(entryID)
		p.refundAll(entry, now)
		p.finish(entryID, entry, idCancelled, now)
	}
	p.reportReservation(entry, key, d, now)
	return nil
}

// findReservation returns the entry of a reservation, with its records advanced to now.
func (p *partition) findReservation(now Time, root uint64, key, id string) (uint32, *idEntry, error) {
	entryID, entry := p.findEntry(p.accounts.find(root), idKeyOf(root, id))
	switch {
	case entry == nil:
		return 0, nil, ErrUnknownReservation
	case !entry.isReservation():
		return 0, nil, &ConflictError{"the id was used for a check"}
	case p.reservations.at(entry.reservation()).keyHash != xxhash.Sum64String(key):
		return 0, nil, &ConflictError{"the id was reserved under another key"}
	}
	p.advanceRecords(entry, key, now)
	return entryID, entry, nil
}

// advanceRecords advances the records that a reservation charges, each once. Charges to
// the same record are adjacent.
func (p *partition) advanceRecords(entry *idEntry, key string, now Time) {
	var lastHandle uint32
	for i := range p.chargeCount(entry) {
		c := p.chargeAt(entry, i)
		if c.handle == lastHandle {
			continue
		}
		lastHandle = c.handle
		if rec, _, _ := p.recordOf(entry, i, key); rec != nil {
			p.advance(rec, now)
		}
	}
}

// amounts returns the usage that u reports, with defaults for absent numbers. Progress
// never decreases.
func (res *reservation) amounts(u *Usage) (amounts, error) {
	n := amounts{input: u.InputTokens, cached: max(u.CachedInputTokens, 0), output: u.OutputTokens}
	if n.input < 0 {
		n.input = res.input
	}
	if n.output < 0 {
		n.output = res.progress.output
	}
	for _, f := range [...]struct {
		name  string
		value int64
	}{{"input_tokens", n.input}, {"output_tokens", n.output}} {
		if f.value > MaxAmount {
			return n, numberError(f.name, f.value, "must be at most "+amount.MaxText)
		}
	}
	if n.cached > n.input {
		return n, numberError("cached_input_tokens", n.cached, "must not be more than input_tokens, "+strconv.FormatInt(n.input, 10))
	}
	if !u.Final {
		n.input, n.cached, n.output = max(n.input, res.progress.input), max(n.cached, res.progress.cached), max(n.output, res.progress.output)
	}
	return n, nil
}

// target returns what the charge must be after usage u with cost v.
func (p *partition) target(c *charge, u *Usage, v *vector) int64 {
	var target int64
	switch l := p.engine.catalog.limit(c.limit); l.dim {
	case dimRequests, dimConcurrent:
		return c.charged
	case dimCustom:
		cost, ok := customCost(u.Costs, l.Dimension)
		if !ok {
			return c.charged
		}
		target = cost
	default:
		target = v[l.dim]
	}
	if u.Final {
		return target
	}
	return max(target, c.charged) // progress never lowers a charge
}

// checkOverflow returns an error if the count of a window could overflow, before
// anything is changed.
func (p *partition) checkOverflow(entry *idEntry, u *Usage, v *vector) error {
	for i := range p.chargeCount(entry) {
		c := p.chargeAt(entry, i)
		if !c.pinsRecord(entry) {
			continue
		}
		rec, pos, ok := p.recordOf(entry, i, "")
		if !ok {
			continue
		}
		l := p.engine.catalog.schema(rec.schema).limits[pos]
		if l.Algorithm == TokenBucket {
			continue
		}
		b := *p.bucketAt(rec, pos)
		used := int64(b.lo)
		if l.Algorithm == SlidingWindow {
			used = 0
			if b.lo != 0 {
				used = p.rings.at(uint32(b.lo)).sum
			}
		}
		if err := l.checkRange(used, p.target(c, u, v)-c.charged); err != nil {
			return err
		}
	}
	return nil
}

// correct changes charge i of a reservation to target, as if that had been charged at
// reserve time. Its record must have been advanced to now.
func (p *partition) correct(entry *idEntry, i int, now Time, target int64) {
	c := p.chargeAt(entry, i)
	delta := target - c.charged
	if !c.pinsRecord(entry) || delta == 0 {
		return
	}
	rec, pos, ok := p.recordOf(entry, i, "")
	if !ok {
		return
	}
	l, b := p.engine.catalog.schema(rec.schema).limits[pos], p.bucketAt(rec, pos)
	c.charged = target
	switch l.Algorithm {
	case TokenBucket:
		if delta < 0 { // the dropped part is refunded first
			back := min(c.dropped, -delta)
			c.dropped -= back
			delta += back
		}
		over := p.correctBucket(l, b, p.timelineOf(rec, pos), c.at, delta)
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
	case FixedWindow:
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
func (p *partition) correctBucket(l *limit, b *bucket, t *timeline, mark int64, delta int64) (dropped int64) {
	before := b.level()
	if delta < 0 {
		b.setLevel(t.shift(mark, mulWide(-delta, l.window).neg(), before))
		return 0
	}
	after := t.shift(mark, mulWide(delta, l.window), before)
	if dropped = l.excessDebt(delta, before, after); dropped > 0 {
		after = t.shift(mark, mulWide(dropped, l.window).neg(), after)
	}
	b.setLevel(after)
	return dropped
}

// finish ends a reservation: it frees the slots and makes the charges final.
func (p *partition) finish(entryID uint32, entry *idEntry, s idState, now Time) {
	switch {
	case entry.state() == idHeld:
		p.releaseSlots(entry, now)
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
		}
	}
	p.finalizeCharges(entry)
	entry.setState(s)
}

// expire ends a lease: it frees the slots and lowers the charge to the input or the
// progress, whichever is more. A late settle may still correct that.
func (p *partition) expire(entryID uint32, now Time) {
	entry := p.entries.at(entryID)
	res := p.reservations.at(entry.reservation())
	p.beforeIDChanges(entryID)
	p.advanceRecords(entry, "", now)
	p.releaseSlots(entry, now)
	var inputCost, progressCost vector
	// Both were computed before without an error.
	_ = p.rates.at(res.rates).cost(amounts{input: res.input}, &inputCost)
	_ = p.rates.at(res.rates).cost(res.progress, &progressCost)
	for i := range p.chargeCount(entry) {
		c := p.chargeAt(entry, i)
		switch dim := p.engine.catalog.limit(c.limit).dim; dim {
		case dimRequests, dimConcurrent, dimCustom:
		default:
			if p.windowOver(entry, i) {
				continue // nothing can be refunded, so a late settle starts from the full charge
			}
			p.correct(entry, i, now, max(inputCost[dim], progressCost[dim]))
		}
	}
	p.heapRemove(entryID)
	p.pushEnded(entryID, now)
	entry.setState(idExpired)
	p.expired++
	p.stats.expired++
}

// windowOver reports whether the charge belongs to a fixed window that is over.
func (p *partition) windowOver(entry *idEntry, i int) bool {
	c := p.chargeAt(entry, i)
	if !c.pinsRecord(entry) {
		return false
	}
	rec, pos, ok := p.recordOf(entry, i, "")
	if !ok || p.engine.catalog.schema(rec.schema).limits[pos].Algorithm != FixedWindow {
		return false
	}
	return p.bucketAt(rec, pos).hi != c.at
}

// releaseSlots frees the concurrency slots of a reservation.
func (p *partition) releaseSlots(entry *idEntry, now Time) {
	for i := range p.chargeCount(entry) {
		if p.engine.catalog.limit(p.chargeAt(entry, i).limit).dim == dimConcurrent {
			p.correct(entry, i, now, 0)
		}
	}
}

// finalizeCharges makes the charges of a reservation final and unpins its records.
func (p *partition) finalizeCharges(entry *idEntry) {
	for i := range p.chargeCount(entry) {
		c := p.chargeAt(entry, i)
		if !c.pinsRecord(entry) {
			continue
		}
		rec := p.byHandle(c.handle)
		p.beforeRecordChanges(rec)
		rec.pins--
		l := p.engine.catalog.limit(c.limit)
		if pos := p.engine.catalog.schema(rec.schema).find(l.bucketID); pos >= 0 {
			if p.engine.catalog.schema(rec.schema).limits[pos].Algorithm == TokenBucket {
				p.closeMark(rec, pos, c.at)
			}
		}
	}
}
