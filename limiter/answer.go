// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/bits"
	"time"
)

// state reports a limit.
func (l *limit) state(s slot, r *ring, now Time) LimitState {
	return l.report(l.capacity-l.used(s, r), l.reset(s, r, now))
}

// report builds a limit's state from what remains, which is negative in debt,
// and when it resets.
func (l *limit) report(remaining, reset int64) LimitState {
	st := LimitState{
		Name: l.Name, Dimension: l.Dimension, Algorithm: l.Algorithm, Shadow: l.Shadow,
		Limit: l.Amount, Capacity: l.capacity, Remaining: max(remaining, 0), Debt: max(-remaining, 0),
		Window: l.Window, ResetAt: reset,
	}
	if l.Calendar != NoCalendar {
		w := l.windowAt(reset - 1)
		st.Window = time.Duration(w.end - w.start)
	}
	return st
}

// answer fills d with the state of every item.
func (p *partition) answer(d *Decision, r *Request, now Time) {
	d.Tier, d.PolicyVersion, d.Replayed = r.Plan.Tier, r.Plan.Version, false
	d.Reason, d.RetryAfter, d.GrantedOutputTokens, d.Status = NoReason, 0, 0, NoStatus
	d.Limits = d.Limits[:0]
	for i := range p.items {
		it := &p.items[i]
		st := it.limit.state(it.slot, it.ring, now)
		st.Scope = r.Key[:r.Plan.Levels[it.level].End]
		st.Cost, st.Exceeded = it.cost, it.refuse != NoReason
		d.Limits = append(d.Limits, st)
	}
}

// tightest returns the enforced limit with the smallest share left, or -1.
func (p *partition) tightest(d *Decision) int {
	best := -1
	for i := range d.Limits {
		if d.Limits[i].Shadow || p.items[i].skip {
			continue
		}
		if best < 0 || lessShare(&d.Limits[i], &d.Limits[best]) {
			best = i
		}
	}
	return best
}

// lessShare says whether a has less of its capacity left than b.
func lessShare(a, b *LimitState) bool {
	ahi, alo := bits.Mul64(uint64(a.Remaining), uint64(b.Capacity))
	bhi, blo := bits.Mul64(uint64(b.Remaining), uint64(a.Capacity))
	return ahi < bhi || ahi == bhi && alo < blo
}

// deny completes an answer with why, and when to try again. A cause that time
// does not mend comes first, then the longest wait.
func (p *partition) deny(d *Decision, now Time) {
	d.Outcome, d.Binding = Denied, -1
	var longest int64
	for i := range p.items {
		it := &p.items[i]
		if it.refuse == NoReason || it.limit.Shadow {
			continue
		}
		if it.rec != nil {
			it.rec.denied = true
		}
		if it.refuse != LimitExceeded {
			if d.Reason == NoReason || d.Reason == LimitExceeded {
				d.Reason, d.Binding = it.refuse, i
			}
			continue
		}
		wait := max(1, it.limit.wait(it.slot, it.ring, it.cost, now))
		if d.Reason == NoReason || d.Reason == LimitExceeded && wait > longest {
			d.Reason, d.Binding, longest = LimitExceeded, i, wait
		}
	}
	d.RetryAfter = time.Duration(longest)
	if d.Reason != LimitExceeded {
		d.RetryAfter = -1
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
		st := p.engine.catalog.limit(t.limit).report(t.remaining, t.reset)
		st.Scope, st.Cost, st.Exceeded = r.Key[:t.end], t.estimate, t.exceeded
		d.Limits = append(d.Limits, st)
	}
}

// current fills d with the limits of a reservation as they stand.
func (p *partition) current(x *hold, key string, d *Decision, now Time) {
	d.Outcome, d.Reason, d.RetryAfter, d.Replayed = Allowed, NoReason, 0, false
	d.Tier, d.PolicyVersion = p.engine.catalog.tierName(x.tier), x.version
	d.GrantedOutputTokens, d.Binding, d.Status = x.granted, -1, x.status
	d.Limits = d.Limits[:0]
	for i := range int(x.count) {
		t := p.touch(x, i)
		l := p.engine.catalog.limit(t.limit)
		st := l.report(l.capacity, 0)
		if rec, pos, ok := p.chargedTo(x, t, key[:t.end]); ok {
			p.advance(rec, now)
			l = p.engine.catalog.schema(rec.schema).limits[pos]
			s := *p.slotAt(rec, pos)
			st = l.state(s, p.ringOf(l, s, now), now)
		}
		st.Scope, st.Cost, st.Exceeded = key[:t.end], t.charged, t.exceeded
		d.Limits = append(d.Limits, st)
	}
}

// chargedTo returns the record and slot of a charge. Once a reservation has
// ended its records may be gone, and their numbers in use for others.
func (p *partition) chargedTo(x *hold, t *touch, scope string) (*record, int, bool) {
	if t.record == 0 || !p.records.has(t.record) {
		return nil, 0, false
	}
	rec := p.records.at(t.record)
	if x.status != Held && x.status != Expired {
		var buf [maxName]byte
		if s, _ := splitName(p.appendName(buf[:0], rec)); s != scope {
			return nil, 0, false
		}
	}
	pos := p.engine.catalog.schema(rec.schema).find(p.engine.catalog.limit(t.limit).slot)
	return rec, pos, pos >= 0
}
