// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/bits"
	"time"
)

// state reports a limit.
func (l *limit) state(st *LimitState, s slot, r *ring, now Time) {
	l.report(st, l.capacity-l.used(s, r), l.reset(s, r, now))
}

// report fills in a limit's state from what remains, which is negative in debt,
// and when it resets.
func (l *limit) report(st *LimitState, remaining, reset int64) {
	st.Name, st.Dimension, st.Algorithm, st.Shadow = l.Name, l.Dimension, l.Algorithm, l.Shadow
	st.Limit, st.Capacity = l.Amount, l.capacity
	st.Remaining, st.Debt = max(remaining, 0), max(-remaining, 0)
	st.Window, st.ResetAt = l.Window, reset
	if l.Calendar != NoCalendar {
		w := l.windowAt(reset - 1)
		st.Window = time.Duration(w.end - w.start)
	}
}

// answer fills in the state of every item.
func (p *partition) answer(d *Decision, r *Request, now Time) {
	if cap(d.Limits) < len(d.items) {
		d.Limits = make([]LimitState, len(d.items))
	}
	d.Limits = d.Limits[:len(d.items)]
	for i := range d.items {
		it, st := &d.items[i], &d.Limits[i]
		it.limit.state(st, *it.slot, it.ring, now)
		st.Scope = r.Key[:r.Plan.Levels[it.level].End]
		st.Cost, st.Reserved, st.Exceeded = it.cost, 0, it.refuse != NoReason
	}
}

// tightest returns the enforced limit with the smallest share left, or -1.
// Concurrency counts if the call takes slots.
func (d *Decision) tightest(slots bool) int {
	best := -1
	for i := range d.Limits {
		if d.Limits[i].Shadow || d.Limits[i].Algorithm == Concurrency && !slots {
			continue
		}
		if best < 0 || lessShare(&d.Limits[i], &d.Limits[best]) {
			best = i
		}
	}
	return best
}

// lessShare says whether a has less of its capacity left than b. A limit of 0
// has nothing left.
func lessShare(a, b *LimitState) bool {
	ahi, alo := bits.Mul64(uint64(a.Remaining), uint64(max(b.Capacity, 1)))
	bhi, blo := bits.Mul64(uint64(b.Remaining), uint64(max(a.Capacity, 1)))
	return ahi < bhi || ahi == bhi && alo < blo
}

// deny completes an answer with why, and when to try again. A cause that time
// does not mend comes first; then an owner that cannot be asked, since what
// limits say without it may not be true when it can; then the longest wait.
func (p *partition) deny(d *Decision, now Time) {
	d.Outcome, d.Binding = Denied, -1
	var longest int64
	for i := range d.items {
		it := &d.items[i]
		if it.refuse == NoReason || it.limit.Shadow {
			continue
		}
		if it.rec != nil {
			it.rec.denied = true
		}
		wait := int64(-1)
		switch it.refuse {
		case LimitExceeded:
			wait = max(1, it.limit.wait(*it.slot, it.ring, it.cost, now))
		case OwnerUnreachable:
			wait = unreachableRetry
		}
		if it.refuse.rank() > d.Reason.rank() || it.refuse == LimitExceeded && d.Reason == LimitExceeded && wait > longest {
			d.Reason, d.Binding, longest = it.refuse, i, wait
		}
	}
	d.RetryAfter = time.Duration(longest)
}

// rank orders the reasons of limits by which one an answer gives.
func (r Reason) rank() int {
	switch r {
	case NoReason:
		return 0
	case LimitExceeded:
		return 1
	case OwnerUnreachable:
		return 2
	default:
		return 3
	}
}

// full completes an answer that is denied for want of room.
func full(d *Decision) {
	d.Outcome, d.Reason, d.Binding, d.RetryAfter = Denied, TableFull, -1, time.Second
}

// replay repeats the answer of a remembered id.
func (p *partition) replay(x *hold, r *Request, d *Decision) {
	d.Outcome, d.Reason, d.RetryAfter, d.Replayed = x.outcome, NoReason, 0, true
	d.Tier, d.PolicyVersion = p.engine.catalog.tierName(x.tier), x.version
	d.GrantedOutputTokens, d.Binding, d.Status = x.granted, int(x.binding), x.status
	if x.lease != 0 {
		d.Status = Held // as first answered
	}
	d.Limits = d.Limits[:0]
	for i := range int(x.count) {
		t := p.touch(x, i)
		st := LimitState{Scope: t.scope(r.Key), Cost: t.estimate, Exceeded: t.exceeded}
		p.engine.catalog.limit(t.limit).report(&st, t.remaining, t.reset)
		d.Limits = append(d.Limits, st)
	}
}

// current fills d with the limits of a reservation as they stand. Its records
// have been brought to now.
func (p *partition) current(x *hold, key string, d *Decision, now Time) {
	d.Outcome, d.Reason, d.RetryAfter, d.Replayed = Allowed, NoReason, 0, false
	d.Tier, d.PolicyVersion = p.engine.catalog.tierName(x.tier), x.version
	d.GrantedOutputTokens, d.Binding, d.Status = x.granted, -1, x.status
	d.Limits = d.Limits[:0]
	for i := range int(x.count) {
		t := p.touch(x, i)
		st := LimitState{Scope: t.scope(key), Cost: t.charged - t.dropped, Reserved: t.estimate, Exceeded: t.exceeded}
		if t.exceeded {
			st.Reserved = 0 // held nothing
		}
		if rec, pos, ok := p.recordOf(x, t, key); ok {
			l, s := p.engine.catalog.schema(rec.schema).limits[pos], *p.slotAt(rec, pos)
			l.state(&st, s, p.ringOf(l, s, now), now)
		} else { // gone, because nothing of it was used
			var s slot
			l := p.engine.catalog.limit(t.limit)
			l.advance(&s, nil, 0, now)
			l.state(&st, s, nil, now)
		}
		d.Limits = append(d.Limits, st)
	}
}

// pinned says whether the touch's charge may still change, which keeps its
// record in place.
func (t *touch) pinned(x *hold) bool {
	return t.anchor != 0 && !t.exceeded && (x.status == Held || x.status == Expired)
}

// recordOf returns the record and slot of a touch. Unless it is pinned the
// record may be gone, and its anchor in use for another.
func (p *partition) recordOf(x *hold, t *touch, key string) (*record, int, bool) {
	rec := p.anchored(t.anchor)
	if rec == nil {
		return nil, 0, false
	}
	if !t.pinned(x) {
		var buf [maxName]byte
		name := p.appendName(buf[:0], rec)
		if n := int(t.end); n > len(name) || string(name[:n]) != t.scope(key) || n < len(name) && name[n] != 0 {
			return nil, 0, false
		}
	}
	pos := p.engine.catalog.schema(rec.schema).find(p.engine.catalog.limit(t.limit).slot)
	return rec, pos, pos >= 0
}
