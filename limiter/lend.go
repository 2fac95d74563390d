// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/limiter/slice"
)

// Loan is what [Engine.Lend] lends: a slice of the limits of one call. The caller sets the
// fields up to Rate, and may reuse a Loan to avoid allocations.
type Loan struct {
	// ID is that of the slice, for [Engine.Return]. It must be unique among the ids under
	// the key's root, and no caller of Check or Reserve may choose it.
	ID string
	// Client means that the asker is a process with the client library, from which a slice
	// cannot be recalled.
	Client bool
	// Share is the part of the key's calls that come from the asker, in thousandths.
	Share int64
	// Holders is how many hold slices of the key, the asker included, at least 1.
	Holders int
	// Reserve means that the call is a reserve, and the slice for reserves of its kind: with
	// the same key, tier, model and service tier, and any costs.
	Reserve bool
	// Rate is how many calls per second the asker decides. It is lent no more than it then
	// needs until the end of its lease, since what is lent to a process that dies is charged
	// in full. 0: not known.
	Rate int64

	// Amounts is what the holder may spend of each limit, in the order of [Decision].Limits.
	// It is 0 for limits that the call costs nothing. In a slice for checks it is 0 for
	// concurrency limits, too, and for limits in shadow mode, which bound nothing there. In
	// one for reserves, whose costs differ, each limit bounds the slice: a reserve that costs
	// something of a limit with 0 is for the owner.
	Amounts []int64
	// Calls is for how many calls like the request the slice has room. It is at most
	// [MaxKept] in a slice for reserves.
	Calls int64
	// Tariff says what reserves cost each limit, in a slice for reserves. Otherwise it is
	// nil. Its memory is reused if it is not nil before.
	Tariff *Tariff
	// Lease is how long the holder may spend the slice, counted from when it asked.
	Lease time.Duration
}

// errSliceID is the error of a call with the id of a slice that is not about slices.
var errSliceID = &ConflictError{"the id is that of a slice"}

// Lend charges a slice of the limits of r, so that its holder can decide calls like r from
// memory: checks with the same costs or, if l.Reserve is set, reserves of the same kind with
// any costs, as long as the slice has room for what l.Tariff says that they cost. The charge
// is that of l.Calls calls like r and, for each token bucket, what the bucket refills during
// the lease, see [slice.Margin]. It does not charge r itself, which must have been allowed by
// Check or, in full, by Reserve. The holder or its owner ends the slice by
// [Engine.Return]; if that is not done within the lease, which the engine counts longer, see
// [slice.Kept], the slice counts as spent in full at the end of its lease.
//
// It lends nothing, changes no usage and returns false if the engine has a [Ledger], if r would
// be denied, degraded or forced, a limit of r has [SlicesOff] or headroom, or l.Client is set and a limit that r costs something
// has not [SlicesClients]; if less than a fifth of a limit's capacity is left, or the slice
// would hold fewer than four calls, see [slice.Size]; if the lease would be shorter than
// [slice.LeastLease]; if no enforced limit bounds the slice; or if the root has its share of
// [Options].MaxIDs. A slice counts as a live reservation there, and its records are not
// evicted. Nothing is lent for reserves that take a slot of a concurrency limit, because a
// slot is free again only when its holder says so, or that cost money without a price.
//
// d may be the decision of r. If a slice was lent, d gets Change and Large, in Limits the
// state of the limits without the slice, and the Binding of these; its other fields stay. The
// error is a [*FieldError], [ErrClosed], or matches [ErrConflict] if the id is known.
func (e *Engine) Lend(now Time, r *Request, l *Loan, d *Decision) (ok bool, err error) {
	s, root := e.lock(r.Key)
	defer s.Unlock()
	return s.lend(now, root, r, l, d)
}

func (p *partition) lend(now Time, root uint64, r *Request, l *Loan, d *Decision) (ok bool, err error) {
	if now, err = p.beginLoan(now, root, l.ID); err != nil {
		return false, err
	}
	if r.Force || p.engine.ledger != nil || !p.assemble(d, r, now) {
		return false, nil
	}
	output := r.OutputTokens
	if l.Reserve && output < 0 {
		output = r.Plan.DefaultOutput
	}
	if denied, _, err := p.assess(d, r, output, l.Reserve); err != nil || denied {
		return false, err
	}
	if l.Reserve && !d.lendsReserves(&r.Plan.Rates) {
		return false, nil
	}
	entry := p.beginSlice(now, root, r, l, d)
	if entry == nil {
		return false, nil
	}
	p.reportLimits(d, r, now)
	d.Binding = d.tightest(l.Reserve)
	p.chargeSlice(now, entry, r, l, d)
	if !l.Reserve {
		p.reservations.at(entry.reservation()).setSliceChecks(r, l.Calls)
	}
	return true, nil
}

// beginLoan returns now as the partition has it, or why no slice with that id may be lent.
func (p *partition) beginLoan(now Time, root uint64, id string) (Time, error) {
	switch {
	case id == "":
		return now, &FieldError{Field: "slice", Value: `""`, Problem: "must not be empty"}
	case p.records.closed:
		return now, ErrClosed
	}
	now = p.tick(now)
	if _, entry := p.findEntry(p.accounts.find(root), idKeyOf(root, id)); entry != nil {
		return now, &ConflictError{"the id of the slice was used before"}
	}
	return now, nil
}

// beginSlice remembers a slice of the assessed limits, and sets the calls and the lease of l.
// It returns nil if nothing can be lent.
func (p *partition) beginSlice(now Time, root uint64, r *Request, l *Loan, d *Decision) *idEntry {
	holder, owner := d.sliceLease(l.Client, now)
	if holder < slice.LeastLease {
		return nil
	}
	calls := d.loanCalls(l, holder, owner)
	if calls == 0 {
		return nil
	}
	entryID, entry := p.addEntry(root, idKeyOf(root, l.ID), idHeld)
	if entry == nil {
		return nil
	}
	reservationID, res := p.reservations.alloc()
	entry.setReservation(reservationID, p.terms.share(&r.Plan.Rates, r.basis(&r.Plan.Rates, true), r.Plan.Tier, r.Plan.Version))
	res.keyHash, res.ttl, res.slice = xxhash.Sum64String(r.Key), int64(owner), true
	entry.set(flagPermanent)
	entry.due = satAdd(int64(owner), now.Mono)
	p.heapPush(entryID)
	l.Calls, l.Lease = calls, holder
	return entry
}

// chargeSlice charges a slice that beginSlice returned.
func (p *partition) chargeSlice(now Time, entry *idEntry, r *Request, l *Loan, d *Decision) {
	owner := time.Duration(p.reservations.at(entry.reservation()).ttl)
	l.Amounts = l.Amounts[:0]
	for i := range d.assessments {
		a := &d.assessments[i]
		amount := p.lendLimit(entry, a, l.Calls, owner, r, l.Reserve, now)
		if a.limit.Shadow && !l.Reserve {
			amount = 0
		}
		l.Amounts = append(l.Amounts, amount)
	}
	l.setTariff(r.Plan, d)
	if p.records.tracked {
		p.listCharged(d, true)
	}
	p.numberChange(d)
	p.slices++
	p.stats.slicesLent++
}

// lendsReserves reports whether reserves can be answered from a slice of the assessed limits.
func (d *Decision) lendsReserves(rates *Rates) bool {
	for i := range d.assessments {
		switch l := d.assessments[i].limit; {
		case l.dim == dimConcurrent, l.dim == dimSpend && !rates.Priced:
			return false
		}
	}
	return true
}

// setTariff sets l.Tariff for the assessed limits.
func (l *Loan) setTariff(p *Plan, d *Decision) {
	if !l.Reserve {
		l.Tariff = nil
		return
	}
	if l.Tariff == nil {
		l.Tariff = &Tariff{}
	}
	l.Tariff.set(p, d)
}

// sliceLease returns how long a slice may be spent, and how long the owner keeps it: no
// longer than it counts in every limit that it is charged to.
func (d *Decision) sliceLease(client bool, now Time) (holder, owner time.Duration) {
	most := time.Duration(math.MaxInt64)
	for i := range d.assessments {
		a := &d.assessments[i]
		if a.limit.Shadow || !a.isLent() {
			continue
		}
		switch l := a.limit; l.Algorithm {
		case TokenBucket:
			most = min(most, slice.RefillTime(l.capacity, l.Amount, l.Window))
		case SlidingWindow:
			most = min(most, l.Window)
		case FixedWindow, counter:
			most = min(most, time.Duration(a.bucket.hi-now.Wall))
		}
	}
	ttl := slice.MemberLease
	if client {
		ttl = slice.ClientLease
	}
	return slice.Lease(ttl, max(most, 1))
}

// loanCalls returns for how many calls a slice is lent, or 0.
func (d *Decision) loanCalls(l *Loan, holder, owner time.Duration) int64 {
	calls := d.sliceCalls(l, owner)
	if l.Rate > 0 {
		calls = min(calls, slice.Needed(l.Rate, holder))
	}
	if l.Reserve {
		calls = min(calls, MaxKept)
	}
	return calls
}

// sliceCalls returns how many calls a slice has room for, or 0 if none may be lent.
func (d *Decision) sliceCalls(l *Loan, lease time.Duration) int64 {
	most, bound := int64(MaxAmount), false
	for i := range d.assessments {
		a := &d.assessments[i]
		switch {
		case a.limit.Slices == SlicesOff || a.limit.Headroom != Headroom{}:
			return 0
		case !a.isLent():
			continue
		case l.Client && a.limit.Slices != SlicesClients:
			return 0
		case a.limit.Shadow:
			most = min(most, MaxAmount/a.cost)
			continue
		}
		left := max(0, a.limit.capacity-a.limit.used(*a.bucket, a.ring)-a.margin(lease))
		size := slice.Size(left, a.limit.capacity, min(max(l.Share, 0), 1000), a.cost, l.Holders)
		most, bound = min(most, size/a.cost), true
	}
	if !bound {
		return 0
	}
	return most
}

// isLent reports whether a slice has a part of the limit.
func (a *assessment) isLent() bool { return !a.skipped && a.cost > 0 }

// margin returns what is charged beside a slice.
func (a *assessment) margin(lease time.Duration) int64 {
	if a.limit.Algorithm != TokenBucket || a.limit.Shadow {
		return 0
	}
	return slice.Margin(a.limit.Amount, a.limit.Window, lease)
}

// lendLimit charges the part of a limit for that many calls, and records the charge in the
// entry of the slice. It returns what the holder may spend. A limit in shadow mode is
// charged no more than fits. The record of a limit that a reserve costs nothing is kept, too,
// because what the reserve uses may cost something.
func (p *partition) lendLimit(entry *idEntry, a *assessment, calls int64, lease time.Duration, r *Request, reserve bool, now Time) (amount int64) {
	l := a.limit
	c := p.appendCharge(entry, r.Plan.Levels[a.level].End)
	c.limit, c.handle, c.at = l.id, p.handleOf(a.rec, a.recordID), notCharged
	if !a.isLent() && !reserve {
		return 0
	}
	if a.cost > 0 {
		c.estimate = calls * a.cost
		c.charged = c.estimate + a.margin(lease)
	}
	if l.Shadow {
		c.charged = min(c.estimate, max(0, l.capacity-l.used(*a.bucket, a.ring)))
	}
	c.at = p.chargedAt(a, now)
	a.rec.pins++
	if c.charged > 0 {
		if l.Algorithm == SlidingWindow {
			a.ring = p.ensureRing(l, a.bucket, now)
		}
		l.charge(a.bucket, a.ring, c.charged)
	}
	return c.estimate
}
