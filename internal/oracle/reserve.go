// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"math/big"
	"slices"

	"github.com/bucketring/bucketring/limiter"
)

// A reservation is one reserved request, live or ended.
type reservation struct {
	identity   identity
	decision   limiter.Decision
	request    limiter.Request
	charges    []*heldCharge
	status     limiter.Status
	deadline   int64 // Mono
	until      int64 // Mono, when it is forgotten; set once it is not held
	progress   usage // highest so far
	finalUsage *limiter.Usage
}

// A heldCharge is what a reservation charges to one limit.
type heldCharge struct {
	*assessment
	charge  *charge  // nil if it exceeded a shadow limit
	window  window   // fixed window: of the reserve
	first   *big.Int // the charge at reserve time
	target  *big.Int // the charge by the latest report
	charged *big.Int // target less what exceeded the maximum debt, or came from a credit
	credit  *big.Int // what came from a credit
	minimum *big.Int // the charge after expiry without progress
}

// Reserve is [limiter.Engine.Reserve].
func (o *Oracle) Reserve(now limiter.Time, r *limiter.Request) (limiter.Decision, error) {
	now, request := o.advance(now), identify("reserve", r)
	if _, ok := o.checks[r.ID]; ok {
		return limiter.Decision{}, limiter.ErrConflict
	}
	if res, ok := o.reservations[r.ID]; ok {
		if res.identity != request || res.status == limiter.Cancelled {
			return limiter.Decision{}, limiter.ErrConflict
		}
		return o.replay(now, r, res), nil
	}
	filled, unbounded := *r, r.OutputTokens < 0
	if r = &filled; unbounded {
		r.OutputTokens = r.Plan.DefaultOutput
	}
	assessments := o.assess(r, true)
	d := o.decide(now, r, assessments, true)
	if d.Outcome == limiter.Denied && r.EstimatedInput && exceedsCapacity(assessments) {
		o.reduceEstimate(now, r, unbounded)
		assessments = o.assess(r, true)
		d = o.decide(now, r, assessments, true)
	}
	if d.Outcome == limiter.Denied {
		d.Limits = deniedStates(now, assessments)
		d.Binding = binding(d, assessments)
		return d, nil
	}
	res := &reservation{identity: request, request: *r, status: limiter.Held}
	res.deadline = now.Mono + res.ttl()
	for _, a := range assessments {
		h := &heldCharge{assessment: a, first: new(big.Int), target: new(big.Int), charged: new(big.Int), credit: new(big.Int), minimum: a.costAt(0)}
		if a.reason == limiter.NoReason {
			h.target = a.cost
			h.charge = o.charge(now, a)
			h.charge.live = true
			h.first, h.charged = a.cost, a.cost
			if !r.Force {
				h.charged = h.charge.amount
				h.credit = new(big.Int).Sub(a.cost, h.charged)
			}
			h.window = h.charge.window
		}
		res.charges = append(res.charges, h)
	}
	d.Status = limiter.Held
	d.Limits = states(now, assessments)
	d.Binding = binding(d, assessments)
	res.decision = d
	o.reservations[r.ID] = res
	return d, nil
}

// Settle is [limiter.Engine.Settle].
func (o *Oracle) Settle(now limiter.Time, u *limiter.Usage) (limiter.Decision, error) {
	now = o.advance(now)
	res, err := o.findReservation(u.Key, u.ID)
	switch {
	case err != nil:
		return limiter.Decision{}, err
	case res.status == limiter.Cancelled:
		return limiter.Decision{}, limiter.ErrConflict
	case res.status == limiter.Settled && u.Final && finalNumbers(*res.finalUsage) != finalNumbers(*u):
		return limiter.Decision{}, limiter.ErrConflict
	case res.status == limiter.Settled:
		return o.report(now, res), nil // a repeated settle, or late progress
	}
	used := usage{
		requests: res.request.Requests, input: u.InputTokens, cached: max(u.CachedInputTokens, 0), output: u.OutputTokens,
		write: max(u.CacheWriteTokens, 0), write1h: max(u.CacheWrite1hTokens, 0), images: max(u.Images, 0), searches: max(u.Searches, 0),
		factor: reservedFactor(&res.request),
	}
	if u.ServiceTier != "" {
		used.factor = factorOf(res.request.Plan.Rates, u.ServiceTier)
	}
	if u.Rejected {
		used.requests = 0
	}
	if u.InputTokens < 0 {
		used.input = res.request.InputTokens
	}
	if u.OutputTokens < 0 {
		used.output = res.progress.output
	}
	if !u.Final {
		if last := res.progress; used.input < last.input {
			used.input, used.cached, used.write, used.write1h = last.input, last.cached, last.write, last.write1h
		}
		used.output = max(used.output, res.progress.output)
		used.images, used.searches = max(used.images, res.progress.images), max(used.searches, res.progress.searches)
		res.progress = used
		res.deadline = now.Mono + res.ttl()
	}
	costs := costMap(u.Costs)
	for _, h := range res.charges {
		amount := h.costOf(used)
		if isCustom(h.limit.Dimension) {
			n, ok := costs[h.limit.Dimension]
			if !ok {
				continue
			}
			amount = big.NewInt(n)
		}
		if u.Final || amount.Cmp(h.target) > 0 {
			o.correct(now, h, amount)
		}
	}
	if u.Final {
		res.end(now.Mono, limiter.Settled)
		res.finalUsage = u
	}
	return o.report(now, res), nil
}

// Cancel is [limiter.Engine.Cancel].
func (o *Oracle) Cancel(now limiter.Time, key, id string) (limiter.Decision, error) {
	now = o.advance(now)
	res, err := o.findReservation(key, id)
	switch {
	case err != nil:
		return limiter.Decision{}, err
	case res.status == limiter.Settled:
		return limiter.Decision{}, limiter.ErrConflict
	case res.status != limiter.Cancelled:
		for _, h := range res.charges {
			o.correct(now, h, new(big.Int))
		}
		res.end(now.Mono, limiter.Cancelled)
		res.until = min(res.until, now.Mono+rememberCheck)
	}
	return o.report(now, res), nil
}

// findReservation returns the reservation of an id.
func (o *Oracle) findReservation(key, id string) (*reservation, error) {
	res := o.reservations[id]
	if _, ok := o.checks[id]; ok || res != nil && res.request.Key != key {
		return nil, limiter.ErrConflict
	}
	if res == nil {
		return nil, limiter.ErrUnknownReservation
	}
	return res, nil
}

// expire frees the slots and lowers the charge to the input or the progress, whichever
// is more.
func (o *Oracle) expire(now limiter.Time, res *reservation) {
	for _, h := range res.charges {
		if isCustom(h.limit.Dimension) {
			continue // the estimate stays charged
		}
		if h.limit.Algorithm == limiter.FixedWindow && h.account.current(now) != h.window {
			continue // usage of a window that is over stays
		}
		used := res.progress
		used.requests, used.factor = res.request.Requests, reservedFactor(&res.request)
		amount := h.costOf(used)
		if h.minimum.Cmp(amount) > 0 {
			amount = h.minimum
		}
		o.correct(now, h, amount)
	}
	res.end(now.Mono, limiter.Expired)
}

// costOf returns the cost of usage under the limit.
func (h *heldCharge) costOf(u usage) *big.Int {
	if h.limit.Dimension == limiter.Requests {
		u.requests = h.request.Requests
	}
	return cost(h.limit.Dimension, h.request.Plan.Rates, u)
}

// correct changes the charge to amount, as if that had been charged at reserve time.
func (o *Oracle) correct(now limiter.Time, h *heldCharge, amount *big.Int) {
	if h.charge == nil || h.limit.Algorithm == limiter.Concurrency {
		return
	}
	h.refund(now, amount)
	a, more := h.account, new(big.Int).Sub(amount, h.target)
	switch {
	case a.limit.Algorithm == limiter.FixedWindow && a.current(now) != h.window:
		if more.Sign() > 0 {
			a.add(now, more).lowest = new(big.Int) // not an admission
		}
		h.target, h.charged = amount, new(big.Int).Sub(amount, h.credit)
	case a.limit.Algorithm == limiter.TokenBucket && more.Sign() > 0:
		before := a.used(now)
		a.correct(h.charge, new(big.Int).Add(h.charged, more))
		dropped := a.beyondDebt(now, before, h.request.EstimatedInput)
		o.Overrun[h.limit.Dimension] += dropped.Int64()
		h.target, h.charged = amount, new(big.Int).Sub(new(big.Int).Add(h.charged, more), dropped)
		a.correct(h.charge, h.charged)
	default:
		h.target = amount
		if h.charged.Cmp(amount) > 0 || a.limit.Algorithm != limiter.TokenBucket {
			h.charged = amount // the dropped part is refunded first
			if a.limit.Algorithm != limiter.TokenBucket {
				h.charged = new(big.Int).Sub(amount, h.credit)
			}
		}
		a.correct(h.charge, h.charged)
	}
}

// beyondDebt returns by how many units, rounded up, the debt of a bucket exceeds one
// capacity, or what it was before if that is more. The charge of a call with estimated
// input may take it to the largest amount.
func (a *account) beyondDebt(now limiter.Time, before *big.Rat, estimated bool) *big.Int {
	debt := a.capacity()
	if estimated {
		debt = new(big.Rat).SetInt64(limiter.MaxAmount)
	}
	most := new(big.Rat).Add(a.capacity(), debt)
	if before.Cmp(most) > 0 {
		most = before
	}
	over := new(big.Rat).Sub(a.used(now), most)
	if over.Sign() < 0 {
		over.SetInt64(0)
	}
	return ceil(over)
}

// end sets the status of an ended reservation and frees its slots.
func (res *reservation) end(mono int64, s limiter.Status) {
	if res.status == limiter.Held {
		res.until = mono + rememberReservation
	}
	res.status = s
	for _, h := range res.charges {
		if h.charge != nil && h.limit.Algorithm == limiter.Concurrency {
			h.charge.live = false
			h.target, h.charged = new(big.Int), new(big.Int)
		}
	}
}

func (res *reservation) ttl() int64 {
	if res.request.TTL == 0 {
		return int64(limiter.DefaultTTL)
	}
	return int64(res.request.TTL)
}

// finalNumbers returns what two final settles must have in common to be the same.
func finalNumbers(u limiter.Usage) string {
	return fmt.Sprint(max(u.InputTokens, -1), max(u.CachedInputTokens, 0), max(u.OutputTokens, -1), costMap(u.Costs),
		max(u.CacheWriteTokens, 0), max(u.CacheWrite1hTokens, 0), max(u.Images, 0), max(u.Searches, 0), u.ServiceTier, u.Rejected)
}

// replay returns the decision of a known reserve with the limits as they are now.
func (o *Oracle) replay(now limiter.Time, r *limiter.Request, res *reservation) limiter.Decision {
	d := o.report(now, res)
	d.Outcome, d.Status, d.Replayed = res.decision.Outcome, limiter.Held, true
	for i := range d.Limits {
		d.Limits[i].Cost, d.Limits[i].Reserved = res.decision.Limits[i].Cost, 0
		leaveFree(&d.Limits[i], res.charges[i].account.limit, r)
	}
	var assessments []*assessment
	for _, h := range res.charges {
		assessments = append(assessments, h.assessment)
	}
	d.Binding = binding(d, assessments)
	return d
}

// report returns the limits of a reservation with its current charges.
func (o *Oracle) report(now limiter.Time, res *reservation) limiter.Decision {
	d := limiter.Decision{Outcome: limiter.Allowed, Tier: res.decision.Tier, PolicyVersion: res.decision.PolicyVersion, Status: res.status, Binding: -1, GrantedOutputTokens: res.decision.GrantedOutputTokens}
	for _, h := range res.charges {
		s := h.account.state(now, h.account.limit, h.scope)
		s.Cost, s.Reserved, s.Exceeded = saturated(h.charged), saturated(h.first), h.reason != limiter.NoReason
		d.Limits = append(d.Limits, s)
	}
	return d
}

// isCustom reports whether a dimension is custom.
func isCustom(d limiter.Dimension) bool { return !slices.Contains(limiter.BuiltinDimensions, d) }
