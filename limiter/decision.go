// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/bits"
	"time"
)

// reportBucket fills in the state of a limit from its bucket, for a class.
func (l *limit) reportBucket(st *LimitState, b *bucket, r *ring, class Priority, now Time) {
	var used, reset int64
	if l.Algorithm == TokenBucket && b.hi == 0 && b.lo != 0 && l.Amount != 0 { // the usual case: one division each
		level := b.level()
		used, reset = level.divCeil(l.window), satAdd(level.divCeil(l.Amount), max(now.Wall, 0))
	} else {
		used, reset = l.used(*b, r), l.reset(*b, r, now)
	}
	st.Name, st.Dimension, st.Algorithm, st.Shadow, st.Hidden = l.Name, l.Dimension, l.Algorithm, l.Shadow, l.Hidden
	st.Definition, st.Limit, st.Capacity = l.id, l.Amount, l.capacity
	remaining := l.capacity - used // negative in debt
	st.Headroom = l.headroom[class]
	st.Remaining, st.Debt = max(remaining-st.Headroom, 0), max(-remaining, 0)
	st.Queue, st.Wait = l.Queue, 0
	st.Window, st.ResetAt = l.Window, reset
	if l.Calendar != NoCalendar {
		w := l.windowAt(reset - 1)
		st.Window = time.Duration(w.end - w.start)
	}
}

// reportLimits fills in d.Limits from the assessments.
func (p *partition) reportLimits(d *Decision, r *Request, now Time) {
	d.makeRoom(len(d.assessments))
	d.Limits = d.Limits[:len(d.assessments)]
	class := r.class()
	for i := range d.assessments {
		a, st := &d.assessments[i], &d.Limits[i]
		a.limit.reportBucket(st, a.bucket, a.ring, class, now)
		st.Scope = r.Key[:r.Plan.Levels[a.level].End]
		st.Cost, st.Reserved, st.Exceeded, st.PerModel = a.cost, 0, a.reason != NoReason, a.model
	}
}

// begin prepares d for a call that may change state. The error is ErrClosed.
func (p *partition) begin(d *Decision) error {
	d.Change, d.Large, d.Rate, d.AskerShare = 0, false, 0, 0
	if p.records.closed {
		return ErrClosed
	}
	return nil
}

// numberChange takes the next number for a change of a reservation.
func (p *partition) numberChange(d *Decision) {
	p.seq++
	d.Change, d.Large = p.seq, true
}

// repeats marks a decision that depends on earlier changes. Which ones is not known, so it
// is as if it depended on the latest.
func (d *Decision) repeats(p *partition) { d.Change, d.Large = p.seq, true }

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
			a.rec.flags |= recordDenied
		}
		wait := int64(-1)
		switch a.reason {
		case LimitExceeded:
			wait = max(1, a.limit.wait(*a.bucket, a.ring, a.cost+a.headroom, now))
			d.Limits[i].Wait = time.Duration(wait)
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

// replayReservation fills in d with the decision of a known reservation.
func (p *partition) replayReservation(entry *idEntry, key string, class Priority, d *Decision, now Time) {
	p.reportReservation(entry, key, class, d, now)
	d.Outcome, d.Replayed = entry.outcome(), true
	d.Status = Held // as in the first answer
	var it chargeIterator
	it.start(p, entry, "")
	for i := range d.Limits {
		it.next()
		d.Limits[i].Cost, d.Limits[i].Reserved = it.charge.estimate, 0
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
		d.Limits[i].Credit = 0
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
		return entry.tokens()
	case Spend:
		return entry.spend()
	case Concurrent:
		return 0
	}
	cost, _ = customCost(r.Costs, dimension)
	return cost
}

// reportReservation fills in d with the state of a reservation and of its limits as of
// now.
func (p *partition) reportReservation(entry *idEntry, key string, class Priority, d *Decision, now Time) {
	p.reportEntry(entry, d)
	d.makeRoom(int(p.reservations.at(entry.reservation()).count))
	var it chargeIterator
	for it.start(p, entry, key); it.next(); {
		p.advanceOnce(&it, now)
		p.reportCharge(&it, class, d, now)
	}
}

// reportEntry fills in d with the state of a reservation, without its limits.
func (p *partition) reportEntry(entry *idEntry, d *Decision) {
	terms := p.terms.at(entry.terms())
	d.Outcome, d.Reason, d.RetryAfter, d.Replayed = Allowed, NoReason, 0, false
	d.Tier, d.PolicyVersion = terms.tier, terms.version
	d.GrantedOutputTokens, d.Binding, d.Status = entry.granted(), -1, entry.status()
}

// makeRoom empties d.Limits and makes room for n.
func (d *Decision) makeRoom(n int) {
	if cap(d.Limits) < n {
		d.Limits = make([]LimitState, n)
	}
	d.Limits = d.Limits[:0]
}

// reportCharge appends the limit of a charge to d, as of now. Its record must have been
// advanced to now. d must have room.
func (p *partition) reportCharge(it *chargeIterator, class Priority, d *Decision, now Time) {
	d.Limits = d.Limits[:len(d.Limits)+1]
	st, c := &d.Limits[len(d.Limits)-1], it.charge
	st.Scope, st.Cost, st.Reserved, st.PerModel = it.scope(), c.charged-c.dropped, c.estimate, false
	// A charge to a limit that was reset since counts nowhere, as if it were not charged.
	st.Exceeded = c.exceeded() && !c.wasReset()
	if c.exceeded() {
		st.Reserved = 0 // was not charged
	}
	if it.bucket != nil {
		it.limit.reportBucket(st, it.bucket, p.ringOf(it.limit, *it.bucket, now), class, now)
		return
	}
	var b bucket // the record was removed, because nothing of it was used
	it.limit.advance(&b, nil, 0, now)
	it.limit.reportBucket(st, &b, nil, class, now)
}
