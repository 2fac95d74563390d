// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/bits"
	"time"
)

// state reports a limit.
func (l *limit) reportBucket(st *LimitState, b bucket, r *ring, now Time) {
	l.report(st, l.capacity-l.used(b, r), l.reset(b, r, now))
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
func (p *partition) reportLimits(d *Decision, r *Request, now Time) {
	if cap(d.Limits) < len(d.assessments) {
		d.Limits = make([]LimitState, len(d.assessments))
	}
	d.Limits = d.Limits[:len(d.assessments)]
	for i := range d.assessments {
		a, st := &d.assessments[i], &d.Limits[i]
		a.limit.reportBucket(st, *a.bucket, a.ring, now)
		st.Scope = r.Key[:r.Plan.Levels[a.level].End]
		st.Cost, st.Reserved, st.Exceeded = a.cost, 0, a.reason != NoReason
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
	for i := range d.assessments {
		a := &d.assessments[i]
		if a.reason == NoReason || a.limit.Shadow {
			continue
		}
		if a.rec != nil {
			a.rec.denied = true
		}
		wait := int64(-1)
		switch a.reason {
		case LimitExceeded:
			wait = max(1, a.limit.wait(*a.bucket, a.ring, a.cost, now))
		case OwnerUnreachable:
			wait = unreachableRetry
		}
		if a.reason.rank() > d.Reason.rank() || a.reason == LimitExceeded && d.Reason == LimitExceeded && wait > longest {
			d.Reason, d.Binding, longest = a.reason, i, wait
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
func denyTableFull(d *Decision) {
	d.Outcome, d.Reason, d.Binding, d.RetryAfter = Denied, TableFull, -1, time.Second
}

// replay repeats the answer of a remembered id.
func (p *partition) replay(entry *idEntry, r *Request, d *Decision) {
	d.Outcome, d.Reason, d.RetryAfter, d.Replayed = entry.outcome, NoReason, 0, true
	d.Tier, d.PolicyVersion = p.engine.catalog.tierName(entry.tier), entry.version
	d.GrantedOutputTokens, d.Binding, d.Status = entry.granted, int(entry.binding), entry.status
	if entry.reservationID != 0 {
		d.Status = Held // as first answered
	}
	d.Limits = d.Limits[:0]
	for i := range int(entry.chargeCount) {
		c := p.chargeAt(entry, i)
		st := LimitState{Scope: c.scope(r.Key), Cost: c.estimate, Exceeded: c.exceeded}
		p.engine.catalog.limit(c.limit).report(&st, c.remaining, c.reset)
		d.Limits = append(d.Limits, st)
	}
}

// current fills d with the limits of a reservation as they stand. Its records
// have been brought to now.
func (p *partition) reportReservation(entry *idEntry, key string, d *Decision, now Time) {
	d.Outcome, d.Reason, d.RetryAfter, d.Replayed = Allowed, NoReason, 0, false
	d.Tier, d.PolicyVersion = p.engine.catalog.tierName(entry.tier), entry.version
	d.GrantedOutputTokens, d.Binding, d.Status = entry.granted, -1, entry.status
	d.Limits = d.Limits[:0]
	for i := range int(entry.chargeCount) {
		c := p.chargeAt(entry, i)
		st := LimitState{Scope: c.scope(key), Cost: c.charged - c.dropped, Reserved: c.estimate, Exceeded: c.exceeded}
		if c.exceeded {
			st.Reserved = 0 // held nothing
		}
		if rec, pos, ok := p.recordOf(entry, c, key); ok {
			l, b := p.engine.catalog.schema(rec.schema).limits[pos], *p.bucketAt(rec, pos)
			l.reportBucket(&st, b, p.ringOf(l, b, now), now)
		} else { // gone, because nothing of it was used
			var b bucket
			l := p.engine.catalog.limit(c.limit)
			l.advance(&b, nil, 0, now)
			l.reportBucket(&st, b, nil, now)
		}
		d.Limits = append(d.Limits, st)
	}
}

// pinned says whether the touch's charge may still change, which keeps its
// record in place.
func (c *charge) pinsRecord(entry *idEntry) bool {
	return c.handle != 0 && !c.exceeded && (entry.status == Held || entry.status == Expired)
}

// recordOf returns the record and slot of a touch. Unless it is pinned the
// record may be gone, and its anchor in use for another.
func (p *partition) recordOf(entry *idEntry, c *charge, key string) (*record, int, bool) {
	rec := p.byHandle(c.handle)
	if rec == nil {
		return nil, 0, false
	}
	if !c.pinsRecord(entry) {
		var buf [maxName]byte
		name := p.appendName(buf[:0], rec)
		if n := int(c.scopeEnd); n > len(name) || string(name[:n]) != c.scope(key) || n < len(name) && name[n] != 0 {
			return nil, 0, false
		}
	}
	pos := p.engine.catalog.schema(rec.schema).find(p.engine.catalog.limit(c.limit).bucketID)
	return rec, pos, pos >= 0
}
