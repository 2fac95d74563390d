// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/bits"
	"time"
)

// reportBucket fills in the state of a limit from its bucket.
func (l *limit) reportBucket(st *LimitState, b bucket, r *ring, now Time) {
	l.report(st, l.capacity-l.used(b, r), l.reset(b, r, now))
}

// report fills in the state of a limit. remaining is negative in debt.
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

// reportLimits fills in d.Limits from the assessments.
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

// tightest returns the index of the enforced limit with the smallest share remaining,
// or -1. Concurrency limits count only if the request takes slots.
func (d *Decision) tightest(takesSlots bool) int {
	best := -1
	for i := range d.Limits {
		if d.Limits[i].Shadow || d.Limits[i].Algorithm == Concurrency && !takesSlots {
			continue
		}
		if best < 0 || lessShare(&d.Limits[i], &d.Limits[best]) {
			best = i
		}
	}
	return best
}

// lessShare reports whether a smaller share of its capacity remains of a than of b.
// Nothing remains of a limit of 0.
func lessShare(a, b *LimitState) bool {
	ahi, alo := bits.Mul64(uint64(a.Remaining), uint64(max(b.Capacity, 1)))
	bhi, blo := bits.Mul64(uint64(b.Remaining), uint64(max(a.Capacity, 1)))
	return ahi < bhi || ahi == bhi && alo < blo
}

// deny completes a denial with its reason and retry time. Of several reasons it
// gives the one of the highest rank, and of several exceeded limits the longest wait.
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

// rank orders reasons by precedence. Those that time does not resolve are the
// highest. An unreachable owner precedes an exceeded limit, because the wait may be
// over once the owner can be asked.
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

// denyFull completes a denial for lack of room, until there may be some.
func denyFull(d *Decision, reason Reason, wait int64) {
	d.Outcome, d.Reason, d.Binding, d.RetryAfter = Denied, reason, -1, time.Duration(wait)
}

// replayReservation fills in d with the decision of a known reservation. Its records
// must have been advanced to now.
func (p *partition) replayReservation(entry *idEntry, key string, d *Decision, now Time) {
	p.reportReservation(entry, key, d, now)
	d.Outcome, d.Replayed = entry.outcome(), true
	d.Status = Held // as in the first answer
	for i := range d.Limits {
		st := &d.Limits[i]
		st.Cost, st.Reserved = p.chargeAt(entry, i).estimate, 0
	}
	d.Binding = d.tightest(true)
}

// replayCheck fills in d with the decision of a known check. The costs that depend on the
// policy are those of the decision.
func (p *partition) replayCheck(entry *idEntry, r *Request, d *Decision, now Time) {
	p.peek(now, r, d)
	d.Replayed = true
	d.Binding = d.tightest(false)
	for i := range d.Limits {
		if st := &d.Limits[i]; st.Dimension != Concurrent {
			st.Cost = entry.checkCost(r, st.Dimension)
		}
	}
}

// checkCost returns what a remembered check cost in a dimension. r is its request.
func (entry *idEntry) checkCost(r *Request, dimension Dimension) (cost int64) {
	switch dimension {
	case Requests:
		return r.Requests
	case InputTokens:
		return r.InputTokens
	case OutputTokens:
		return r.OutputTokens
	case Tokens:
		return entry.value[0]
	case Spend:
		return entry.value[1]
	case Concurrent:
		return 0
	}
	cost, _ = customCost(r.Costs, dimension)
	return cost
}

// reportReservation fills in d with the current state of a reservation's limits. Its
// records must have been advanced to now.
func (p *partition) reportReservation(entry *idEntry, key string, d *Decision, now Time) {
	res := p.reservations.at(entry.reservation())
	d.Outcome, d.Reason, d.RetryAfter, d.Replayed = Allowed, NoReason, 0, false
	d.Tier, d.PolicyVersion = p.engine.catalog.tierName(res.tierID()), res.version
	d.GrantedOutputTokens, d.Binding, d.Status = entry.granted(), -1, entry.status()
	d.Limits = d.Limits[:0]
	var last *charge // the charge before, and its record if that exists
	var rec *record
	for i := range res.chargeCount() {
		block, j := p.chargeBlockOf(entry, i)
		c := &block.charges[j]
		st := LimitState{Scope: key[:min(int(block.scopeEnd[j])+1, len(key))], Cost: c.charged - c.dropped, Reserved: c.estimate, Exceeded: c.exceeded()}
		if c.exceeded() {
			st.Reserved = 0 // was not charged
		}
		if last == nil || c.handle != last.handle {
			rec, _, _ = p.recordOf(entry, i, key)
		}
		last = c
		pos := -1
		if rec != nil {
			pos = p.engine.catalog.schema(rec.schema).find(p.engine.catalog.limit(c.limit).bucketID)
		}
		if pos >= 0 {
			l, b := p.engine.catalog.schema(rec.schema).limits[pos], *p.bucketAt(rec, pos)
			l.reportBucket(&st, b, p.ringOf(l, b, now), now)
		} else { // the record was removed, because nothing of it was used
			var b bucket
			l := p.engine.catalog.limit(c.limit)
			l.advance(&b, nil, 0, now)
			l.reportBucket(&st, b, nil, now)
		}
		d.Limits = append(d.Limits, st)
	}
}

// pinsRecord reports whether the charge may still change. While it may, its record
// must not be removed.
func (c *charge) pinsRecord(entry *idEntry) bool { return !c.exceeded() && entry.canChange() }

// recordOf returns the record of a charge and the position of its bucket. If the
// charge does not pin the record, that may be gone and its handle reused, so the name
// is compared with key.
func (p *partition) recordOf(entry *idEntry, i int, key string) (*record, int, bool) {
	c := p.chargeAt(entry, i)
	rec := p.byHandle(c.handle)
	if rec == nil {
		return nil, 0, false
	}
	if !c.pinsRecord(entry) {
		name := rec.name[:min(int(rec.length), inlineName)]
		if rec.length > inlineName {
			var buf [maxName]byte
			name = p.appendName(buf[:0], rec)
		}
		scope := p.scope(entry, i, key)
		if n := len(scope); n > len(name) || string(name[:n]) != scope || n < len(name) && name[n] != 0 {
			return nil, 0, false
		}
	}
	pos := p.engine.catalog.schema(rec.schema).find(p.engine.catalog.limit(c.limit).bucketID)
	return rec, pos, pos >= 0
}
