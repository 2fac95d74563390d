// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// settle applies cumulative usage to a reservation.
func (p *partition) settle(now Time, root uint64, u *Usage, d *Decision) error {
	now = p.tick(now)
	no, x, err := p.reservation(now, root, u.Key, u.ID)
	if err != nil {
		return err
	}
	ls := p.leases.at(x.lease)
	switch x.status {
	case Cancelled:
		return &ConflictError{"the reservation was cancelled"}
	case Settled:
		if u.Final && finalDigest(u) != ls.final {
			return &ConflictError{"the reservation was settled with other numbers"}
		}
		p.current(x, u.Key, d, now) // a repeat, or a progress that came late
		return nil
	}
	n, err := ls.amounts(u)
	if err != nil {
		return err
	}
	var v vector
	if err := ls.rates.cost(n, &v); err != nil {
		return err
	}
	if err := p.checkOverflow(x, u, &v); err != nil {
		return err
	}
	for i := range int(x.count) {
		p.correct(x, i, now, p.target(p.touch(x, i), u, &v))
	}
	if !u.Final {
		ls.used, ls.heard.stays = n, true // somebody goes by it
		if x.status == Held {
			x.due = satAdd(ls.ttl, now.Mono)
			p.heapFix(int(x.heap))
		}
		p.current(x, u.Key, d, now)
		return nil
	}
	ls.final = finalDigest(u)
	p.end(no, x, Settled, now)
	p.current(x, u.Key, d, now)
	return nil
}

// cancel gives back all that a reservation charged.
func (p *partition) cancel(now Time, root uint64, key, id string, d *Decision) error {
	now = p.tick(now)
	no, x, err := p.reservation(now, root, key, id)
	if err != nil {
		return err
	}
	switch x.status {
	case Settled:
		return &ConflictError{"the reservation was settled"}
	case Held, Expired:
		p.undo(x, now)
		p.end(no, x, Cancelled, now)
	}
	p.current(x, key, d, now)
	return nil
}

// reservation finds the hold of a reserve, and brings its records to now.
func (p *partition) reservation(now Time, root uint64, key, id string) (uint32, *hold, error) {
	no, x := p.findHold(idHash(root, id))
	switch {
	case x == nil:
		return 0, nil, ErrUnknownReservation
	case x.lease == 0:
		return 0, nil, &ConflictError{"the id is a check's"}
	case p.leases.at(x.lease).key != xxhash.Sum64String(key):
		return 0, nil, &ConflictError{"the id was reserved under another key"}
	}
	p.bring(x, key, now)
	return no, x, nil
}

// bring advances the records that a reservation touches, each once. Those of
// one record follow each other.
func (p *partition) bring(x *hold, key string, now Time) {
	var last uint32
	for i := range int(x.count) {
		t := p.touch(x, i)
		if t.anchor == last {
			continue
		}
		last = t.anchor
		if rec, _, _ := p.recordOf(x, t, key); rec != nil {
			p.advance(rec, now)
		}
	}
}

// amounts returns the usage that u reports, absent numbers filled in. Progress
// never goes back.
func (ls *lease) amounts(u *Usage) (amounts, error) {
	n := amounts{input: u.InputTokens, cached: max(u.CachedInputTokens, 0), output: u.OutputTokens}
	if n.input < 0 {
		n.input = ls.input
	}
	if n.output < 0 {
		n.output = ls.used.output
	}
	for _, f := range [...]struct {
		name  string
		value int64
	}{{"input_tokens", n.input}, {"output_tokens", n.output}} {
		if f.value > MaxAmount {
			return n, &FieldError{Field: f.name, Value: strconv.FormatInt(f.value, 10), Problem: "must be at most 2^53"}
		}
	}
	if n.cached > n.input {
		return n, &FieldError{Field: "cached_input_tokens", Value: strconv.FormatInt(n.cached, 10), Problem: "must not be more than input_tokens, " + strconv.FormatInt(n.input, 10)}
	}
	if !u.Final {
		n.input, n.cached, n.output = max(n.input, ls.used.input), max(n.cached, ls.used.cached), max(n.output, ls.used.output)
	}
	return n, nil
}

// target returns what a touch must have charged after usage u with cost v.
func (p *partition) target(t *touch, u *Usage, v *vector) int64 {
	var target int64
	switch l := p.engine.catalog.limit(t.limit); l.dim {
	case dimRequests, dimConcurrent:
		return t.charged
	case dimOwn:
		cost, ok := ofDimension(u.Costs, l.Dimension)
		if !ok {
			return t.charged
		}
		target = cost
	default:
		target = v[l.dim]
	}
	if u.Final {
		return target
	}
	return max(target, t.charged) // the estimate, or more; never less while it runs
}

// checkOverflow refuses usage that a counter could not hold, before any of it
// is applied.
func (p *partition) checkOverflow(x *hold, u *Usage, v *vector) error {
	for i := range int(x.count) {
		t := p.touch(x, i)
		if !t.pinned(x) {
			continue
		}
		rec, pos, ok := p.recordOf(x, t, "")
		if !ok {
			continue
		}
		l := p.engine.catalog.schema(rec.schema).limits[pos]
		if l.Algorithm == TokenBucket {
			continue
		}
		s := *p.slotAt(rec, pos)
		used := int64(s.lo)
		if l.Algorithm == SlidingWindow {
			used = 0
			if s.lo != 0 {
				used = p.rings.at(uint32(s.lo)).sum
			}
		}
		if err := l.holds(used, p.target(t, u, v)-t.charged); err != nil {
			return err
		}
	}
	return nil
}

// correct makes touch i of a reservation charge target, as if it had at the time
// of the reserve. Its record has been brought to now.
func (p *partition) correct(x *hold, i int, now Time, target int64) {
	t := p.touch(x, i)
	delta := target - t.charged
	if !t.pinned(x) || delta == 0 {
		return
	}
	rec, pos, ok := p.recordOf(x, t, "")
	if !ok {
		return
	}
	l, s := p.engine.catalog.schema(rec.schema).limits[pos], p.slotAt(rec, pos)
	t.charged = target
	switch l.Algorithm {
	case TokenBucket:
		if delta < 0 { // what was dropped is given back first
			back := min(t.dropped, -delta)
			t.dropped -= back
			delta += back
		}
		over := p.correctBucket(l, s, p.line(rec, pos), t.at, delta)
		t.dropped += over
		p.stats.overrun(l, over)
	case SlidingWindow:
		r := p.ringOf(l, *s, now)
		if r == nil && delta > 0 {
			r = p.ensureRing(l, s, now)
		}
		if r != nil && r.holds(t.at) {
			r.add(t.at, max(delta, -*r.cell(t.at)))
		}
	case FixedWindow:
		if delta > 0 {
			s.lo += uint64(delta) // counted in full, now if its own window has closed
		} else if s.hi == t.at {
			s.lo -= min(uint64(-delta), s.lo)
		}
	default:
		s.lo -= min(uint64(-delta), s.lo)
	}
}

// correctBucket changes a charge in a bucket's past. It returns the units of an
// increase that are dropped because a bucket owes at most one capacity.
func (p *partition) correctBucket(l *limit, s *slot, t *timeline, mark int64, delta int64) (dropped int64) {
	before := s.level()
	if delta < 0 {
		s.setLevel(t.shift(mark, mulWide(-delta, l.window).neg(), before))
		return 0
	}
	after := t.shift(mark, mulWide(delta, l.window), before)
	if dropped = l.beyondDebt(delta, before, after); dropped > 0 {
		after = t.shift(mark, mulWide(dropped, l.window).neg(), after)
	}
	s.setLevel(after)
	return dropped
}

// end finishes a reservation: its slots are free and its charges final.
func (p *partition) end(no uint32, x *hold, status Status, now Time) {
	if x.status == Held {
		p.freeSlots(x, now)
		p.heapRemove(no)
		p.push(&p.ended, no, now.Mono+rememberEnded)
	}
	p.release(x)
	x.status = status
}

// expire ends a lease that ran out: its slots are free, and what stays charged
// is its input or its progress, until a late settle corrects that.
func (p *partition) expire(no uint32, now Time) {
	x := p.holds.at(no)
	ls := p.leases.at(x.lease)
	p.bring(x, "", now)
	p.freeSlots(x, now)
	var least, seen vector
	// Both were computed when they came, so neither overflows.
	_ = ls.rates.cost(amounts{input: ls.input}, &least)
	_ = ls.rates.cost(ls.used, &seen)
	for i := range int(x.count) {
		t := p.touch(x, i)
		switch dim := p.engine.catalog.limit(t.limit).dim; dim {
		case dimRequests, dimConcurrent, dimOwn:
		default:
			if p.closed(x, t) {
				continue // nothing can be given back, so a late settle starts from all of it
			}
			p.correct(x, i, now, max(least[dim], seen[dim]))
		}
	}
	p.heapRemove(no)
	p.push(&p.ended, no, now.Mono+rememberEnded)
	x.status = Expired
	p.stats.expired++
}

// closed says whether the fixed window that a touch charged is over.
func (p *partition) closed(x *hold, t *touch) bool {
	if !t.pinned(x) {
		return false
	}
	rec, pos, ok := p.recordOf(x, t, "")
	if !ok || p.engine.catalog.schema(rec.schema).limits[pos].Algorithm != FixedWindow {
		return false
	}
	return p.slotAt(rec, pos).hi != t.at
}

// freeSlots gives back the concurrency slots of a reservation.
func (p *partition) freeSlots(x *hold, now Time) {
	for i := range int(x.count) {
		if p.engine.catalog.limit(p.touch(x, i).limit).dim == dimConcurrent {
			p.correct(x, i, now, 0)
		}
	}
}

// release lets go of the records of a reservation, whose charges are now final.
func (p *partition) release(x *hold) {
	for i := range int(x.count) {
		t := p.touch(x, i)
		if !t.pinned(x) {
			continue
		}
		rec := p.anchored(t.anchor)
		rec.pins--
		l := p.engine.catalog.limit(t.limit)
		if pos := p.engine.catalog.schema(rec.schema).find(l.slot); pos >= 0 {
			if p.engine.catalog.schema(rec.schema).limits[pos].Algorithm == TokenBucket {
				p.unmark(rec, pos, t.at)
			}
		}
	}
}
