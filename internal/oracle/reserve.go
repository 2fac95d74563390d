// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"math/big"
	"slices"

	"github.com/bucketring/bucketring/limiter"
)

// A lease is a reservation.
type lease struct {
	request  identity
	decision limiter.Decision
	asked    limiter.Request
	holds    []*hold
	status   limiter.Status
	deadline int64 // Mono
	ended    int64 // Mono; when not held
	progress usage // the highest so far
	final    *limiter.Usage
}

// A hold is what a reservation charges to one limit.
type hold struct {
	*ask
	charge  *charge  // nil: a shadow limit that would have refused
	window  window   // fixed window: of the reserve
	first   *big.Int // what it charged when it was made
	target  *big.Int // what it should charge, by the latest word
	charged *big.Int // what it does: a bucket in debt may have dropped some
	least   *big.Int // what expiry leaves when there was no progress
}

// Reserve is [limiter.Engine.Reserve].
func (o *Oracle) Reserve(now limiter.Time, r *limiter.Request) (limiter.Decision, error) {
	now, asked := o.advance(now), identify("reserve", r)
	if _, ok := o.checks[r.ID]; ok {
		return limiter.Decision{}, limiter.ErrConflict
	}
	if l, ok := o.leases[r.ID]; ok {
		if l.request != asked || l.status == limiter.Cancelled {
			return limiter.Decision{}, limiter.ErrConflict
		}
		d := l.decision
		d.Replayed = true
		return d, nil
	}
	named := *r
	if r = &named; r.OutputTokens < 0 {
		r.OutputTokens = r.Plan.DefaultOutput
	}
	asks := o.asks(r, true)
	d := o.decide(now, r, asks, true)
	if d.Outcome == limiter.Denied {
		d.Limits = states(now, asks)
		d.Binding = binding(d, asks)
		return d, nil
	}
	l := &lease{request: asked, asked: *r, status: limiter.Held}
	l.deadline = now.Mono + l.ttl()
	for _, a := range asks {
		h := &hold{ask: a, first: new(big.Int), target: new(big.Int), charged: new(big.Int), least: a.costAt(0)}
		if a.reason == limiter.NoReason {
			h.target = a.cost
			h.charge = o.charge(now, a)
			h.charge.live = true
			h.first, h.charged = a.cost, a.cost
			h.window = h.charge.window
		}
		l.holds = append(l.holds, h)
	}
	d.Status = limiter.Held
	d.Limits = states(now, asks)
	d.Binding = binding(d, asks)
	l.decision = d
	o.leases[r.ID] = l
	return d, nil
}

// Settle is [limiter.Engine.Settle].
func (o *Oracle) Settle(now limiter.Time, u *limiter.Usage) (limiter.Decision, error) {
	now = o.advance(now)
	l, err := o.lease(u.Key, u.ID)
	switch {
	case err != nil:
		return limiter.Decision{}, err
	case l.status == limiter.Cancelled:
		return limiter.Decision{}, limiter.ErrConflict
	case l.status == limiter.Settled && u.Final && numbers(*l.final) != numbers(*u):
		return limiter.Decision{}, limiter.ErrConflict
	case l.status == limiter.Settled:
		return o.settlement(now, l), nil // a repeat, or progress that came late
	}
	used := usage{input: u.InputTokens, cached: max(u.CachedInputTokens, 0), output: u.OutputTokens}
	if u.InputTokens < 0 {
		used.input = l.asked.InputTokens
	}
	if u.OutputTokens < 0 {
		used.output = l.progress.output
	}
	if !u.Final {
		used.input = max(used.input, l.progress.input)
		used.cached = max(used.cached, l.progress.cached)
		used.output = max(used.output, l.progress.output)
		l.progress = used
		l.deadline = now.Mono + l.ttl()
	}
	reported := costMap(u.Costs)
	for _, h := range l.holds {
		amount := h.costOf(used)
		if own(h.limit.Dimension) {
			n, ok := reported[h.limit.Dimension]
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
		l.end(now.Mono, limiter.Settled)
		l.final = u
	}
	return o.settlement(now, l), nil
}

// Cancel is [limiter.Engine.Cancel].
func (o *Oracle) Cancel(now limiter.Time, key, id string) (limiter.Decision, error) {
	now = o.advance(now)
	l, err := o.lease(key, id)
	switch {
	case err != nil:
		return limiter.Decision{}, err
	case l.status == limiter.Settled:
		return limiter.Decision{}, limiter.ErrConflict
	case l.status != limiter.Cancelled:
		for _, h := range l.holds {
			o.correct(now, h, new(big.Int))
		}
		l.end(now.Mono, limiter.Cancelled)
	}
	return o.settlement(now, l), nil
}

// lease finds a reservation.
func (o *Oracle) lease(key, id string) (*lease, error) {
	l := o.leases[id]
	if _, ok := o.checks[id]; ok || l != nil && l.asked.Key != key {
		return nil, limiter.ErrConflict
	}
	if l == nil {
		return nil, limiter.ErrUnknownReservation
	}
	return l, nil
}

// expire frees the slot and keeps what was surely used.
func (o *Oracle) expire(now limiter.Time, l *lease) {
	for _, h := range l.holds {
		if own(h.limit.Dimension) {
			continue // nobody said that it was not used
		}
		if h.limit.Algorithm == limiter.FixedWindow && h.account.current(now) != h.window {
			continue // what that window counted, it counted
		}
		amount := h.costOf(l.progress)
		if h.least.Cmp(amount) > 0 {
			amount = h.least
		}
		o.correct(now, h, amount)
	}
	l.end(now.Mono, limiter.Expired)
}

// costOf is what usage takes of the limit of a hold.
func (h *hold) costOf(u usage) *big.Int {
	u.requests = h.request.Requests
	return cost(h.limit.Dimension, h.request.Plan.Rates, u)
}

// correct makes amount the whole charge of a hold, as if it had been from the
// moment of the reserve.
func (o *Oracle) correct(now limiter.Time, h *hold, amount *big.Int) {
	if h.charge == nil || h.limit.Algorithm == limiter.Concurrency {
		return
	}
	a, more := h.account, new(big.Int).Sub(amount, h.target)
	switch {
	case a.limit.Algorithm == limiter.FixedWindow && a.current(now) != h.window:
		if more.Sign() > 0 {
			a.add(now, more).lowest = new(big.Int) // not an admission
		}
		h.target, h.charged = amount, amount
	case a.limit.Algorithm == limiter.TokenBucket && more.Sign() > 0:
		before := a.used(now)
		a.correct(h.charge, new(big.Int).Add(h.charged, more))
		dropped := a.beyondDebt(now, before)
		o.Overrun[h.limit.Dimension] += dropped.Int64()
		h.target, h.charged = amount, new(big.Int).Sub(new(big.Int).Add(h.charged, more), dropped)
		a.correct(h.charge, h.charged)
	default:
		h.target = amount
		if h.charged.Cmp(amount) > 0 || a.limit.Algorithm != limiter.TokenBucket {
			h.charged = amount // what was dropped before stays dropped
		}
		a.correct(h.charge, h.charged)
	}
}

// beyondDebt is by how many whole units a bucket owes more than one capacity,
// if it owed no more before.
func (a *account) beyondDebt(now limiter.Time, before *big.Rat) *big.Int {
	most := new(big.Rat).Add(a.capacity(), a.capacity())
	if before.Cmp(most) > 0 {
		most = before
	}
	over := new(big.Rat).Sub(a.used(now), most)
	if over.Sign() < 0 {
		over.SetInt64(0)
	}
	return ceil(over)
}

// end makes the lease's charges final, but for what a late settle corrects.
func (l *lease) end(mono int64, s limiter.Status) {
	if l.status == limiter.Held {
		l.ended = mono
	}
	l.status = s
	for _, h := range l.holds {
		if h.charge != nil && h.limit.Algorithm == limiter.Concurrency {
			h.charge.live = false
			h.target, h.charged = new(big.Int), new(big.Int)
		}
	}
}

func (l *lease) ttl() int64 {
	if l.asked.TTL == 0 {
		return int64(limiter.DefaultTTL)
	}
	return int64(l.asked.TTL)
}

// numbers is what two final settles must agree on to be the same.
func numbers(u limiter.Usage) string {
	return fmt.Sprint(max(u.InputTokens, -1), max(u.CachedInputTokens, 0), max(u.OutputTokens, -1), costMap(u.Costs))
}

// settlement reports the limits of a reservation, with what it is charged in all.
func (o *Oracle) settlement(now limiter.Time, l *lease) limiter.Decision {
	d := limiter.Decision{Outcome: limiter.Allowed, Tier: l.decision.Tier, PolicyVersion: l.decision.PolicyVersion, Status: l.status, Binding: -1, GrantedOutputTokens: l.decision.GrantedOutputTokens}
	for _, h := range l.holds {
		s := h.account.state(now, h.account.limit, h.scope)
		s.Cost, s.Reserved, s.Exceeded = saturated(h.charged), saturated(h.first), h.reason != limiter.NoReason
		d.Limits = append(d.Limits, s)
	}
	return d
}

// own says whether a dimension is an operator's own.
func own(d limiter.Dimension) bool { return !slices.Contains(limiter.BuiltinDimensions, d) }
