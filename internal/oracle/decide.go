// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"math"
	"math/big"
	"slices"
	"sort"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// denial returns why the limit denies a cost, if it does, and how long to wait.
func (a *assessment) denial(now limiter.Time, cost *big.Int) (limiter.Reason, time.Duration) {
	if a.limit.Algorithm == limiter.Concurrency && !a.reserve {
		return limiter.NoReason, 0
	}
	if a.request.Force {
		return limiter.NoReason, 0
	}
	if a.limit.Dimension == limiter.Spend && !a.request.Plan.Rates.Priced && (a.request.InputTokens > 0 || a.request.OutputTokens > 0) {
		return limiter.NoPrice, -1
	}
	if _, ok := a.covers(now, cost); ok {
		return limiter.NoReason, 0
	}
	c := ratOf(cost)
	switch {
	case a.limit.Closed && c.Sign() > 0:
		return limiter.OwnerUnreachable, time.Second
	case a.limit.Amount == 0 && !a.limit.Closed:
		return limiter.ExceedsCapacity, -1
	case c.Sign() == 0:
		return limiter.NoReason, 0
	case c.Cmp(roomFor(a.limit, a.account.capacity(), a.request)) > 0 && c.Cmp(roomFor(a.limit, rat(a.limit.FullCapacity), a.request)) <= 0:
		return limiter.OwnerUnreachable, time.Second // the owner may admit it
	case c.Cmp(roomFor(a.limit, a.account.capacity(), a.request)) > 0:
		return limiter.ExceedsCapacity, -1
	}
	if wait := a.account.wait(now, c.Add(c, headroom(a.limit, a.account.capacity(), a.request))); wait > 0 {
		return limiter.LimitExceeded, time.Duration(wait)
	}
	return limiter.NoReason, 0
}

// headroom returns what a request must leave free of a capacity of a limit.
func headroom(l limiter.Limit, capacity *big.Rat, r *limiter.Request) *big.Rat {
	class := r.Priority
	if class == limiter.NoPriority {
		class = r.Plan.Priority
	}
	part := l.Headroom.Standard
	switch class {
	case limiter.Interactive:
		part = 0
	case limiter.Batch:
		part = l.Headroom.Batch
	}
	free := big.NewRat(part, 1_000_000)
	return ratOf(ceil(free.Mul(free, capacity)))
}

// roomFor returns how much of a capacity a request may use.
func roomFor(l limiter.Limit, capacity *big.Rat, r *limiter.Request) *big.Rat {
	return new(big.Rat).Sub(capacity, headroom(l, capacity, r))
}

// leaveFree takes the headroom off what remains of a limit for a request.
func leaveFree(s *limiter.LimitState, l limiter.Limit, r *limiter.Request) {
	s.Headroom = floor(headroom(l, rat(s.Capacity), r)).Int64()
	s.Remaining = max(0, s.Remaining-s.Headroom)
}

// decide decides a request and sets the cost and the reason of each assessment, for the
// granted output.
func (o *Oracle) decide(now limiter.Time, r *limiter.Request, assessments []*assessment, reserve bool) limiter.Decision {
	full := r.OutputTokens
	for _, a := range assessments {
		a.account.apply(now, a.limit)
	}
	d := limiter.Decision{Outcome: limiter.Allowed, Tier: r.Plan.Tier, PolicyVersion: r.Plan.Version}
	if reserve {
		d.GrantedOutputTokens = full
	}
	if fits(now, assessments, full, reserve) {
		setCosts(now, assessments, full, reserve)
		return d
	}
	output := full
	if reserve && shrinkable(now, assessments) {
		// Costs do not decrease with the output, so the grants that fit are the lowest.
		steps := sort.Search(int((full-1)/16), func(i int) bool { return !fits(now, assessments, 16*int64(i+1), reserve) })
		granted, minimum := 16*int64(steps), minOutput(r, full)
		if granted >= minimum && steps > 0 {
			setCosts(now, assessments, granted, reserve)
			d.Outcome, d.GrantedOutputTokens = limiter.Degraded, granted
			return d
		}
		output = min((minimum+15)/16*16, full)
	}
	d.Outcome, d.GrantedOutputTokens = limiter.Denied, 0
	setCosts(now, assessments, output, reserve)
	// Reasons that time does not resolve precede an unreachable owner, and that precedes
	// exceeded limits.
	for _, reasons := range [][]limiter.Reason{{limiter.ExceedsCapacity, limiter.NoPrice}, {limiter.OwnerUnreachable}, {limiter.LimitExceeded}} {
		for _, a := range assessments {
			if a.limit.Shadow || !slices.Contains(reasons, a.reason) {
				continue
			}
			if d.Reason == limiter.NoReason {
				d.Reason = a.reason
			}
			d.RetryAfter = max(d.RetryAfter, a.wait)
			if a.wait < 0 {
				d.RetryAfter = -1
			}
		}
		if d.Reason != limiter.NoReason {
			break
		}
	}
	return d
}

// fits reports whether every enforced limit admits the request with that output.
func fits(now limiter.Time, assessments []*assessment, output int64, reserve bool) bool {
	for _, a := range assessments {
		cost := a.cost
		if reserve {
			cost = a.costAt(output)
		}
		if reason, _ := a.denial(now, cost); reason != limiter.NoReason && !a.limit.Shadow {
			return false
		}
	}
	return true
}

// setCosts sets the costs and reasons for that output.
func setCosts(now limiter.Time, assessments []*assessment, output int64, reserve bool) {
	for _, a := range assessments {
		if reserve {
			a.cost = a.costAt(output)
		}
		a.reason, a.wait = a.denial(now, a.cost)
	}
}

// shrinkable reports whether a smaller output may help: some of the denying limits count
// output, and all of those are set to degrade.
func shrinkable(now limiter.Time, assessments []*assessment) bool {
	found := false
	for _, a := range assessments {
		switch a.limit.Dimension {
		case limiter.Tokens, limiter.OutputTokens, limiter.Spend:
			reason, _ := a.denial(now, a.cost)
			if reason == limiter.NoReason || a.limit.Shadow {
				continue
			}
			if !a.limit.Degrade || a.limit.Closed || reason == limiter.NoPrice {
				return false
			}
			found = true
		}
	}
	return found
}

// minOutput returns the smallest output that the caller accepts.
func minOutput(r *limiter.Request, full int64) int64 {
	if r.MinOutputTokens > 0 {
		return r.MinOutputTokens
	}
	return max(256, full/8)
}

// deniedStates is states after a denial.
func deniedStates(now limiter.Time, assessments []*assessment) []limiter.LimitState {
	list := states(now, assessments)
	for i, a := range assessments {
		if a.reason == limiter.LimitExceeded && !a.limit.Shadow {
			list[i].Wait = a.wait
		}
	}
	return list
}

// states returns the states of the limits of a request.
func states(now limiter.Time, assessments []*assessment) []limiter.LimitState {
	var list []limiter.LimitState
	for _, a := range assessments {
		s := a.account.state(now, a.limit, a.scope)
		s.Cost, s.Exceeded, s.PerModel = saturated(a.cost), a.reason != limiter.NoReason, a.perModel
		leaveFree(&s, a.limit, a.request)
		list = append(list, s)
	}
	return list
}

// state returns the state of an account under limit l.
func (a *account) state(now limiter.Time, l limiter.Limit, scope string) limiter.LimitState {
	adjusted := *a
	adjusted.limit = l
	used, capacity := adjusted.used(now), adjusted.capacity()
	left := new(big.Rat).Sub(capacity, used)
	s := limiter.LimitState{
		Name: l.Name, Dimension: l.Dimension, Scope: scope, Algorithm: l.Algorithm,
		Limit: l.Amount, Capacity: floor(capacity).Int64(), Window: l.Window, Shadow: l.Shadow, Hidden: l.Hidden,
		Queue:     l.Queue,
		Remaining: max(0, saturated(floor(left))),
		Debt:      max(0, saturated(new(big.Int).Neg(floor(left)))),
		ResetAt:   now.Wall,
	}

	switch l.Algorithm {
	case limiter.TokenBucket:
		if l.Amount > 0 {
			s.ResetAt += saturated(ceil(used.Mul(used, big.NewRat(int64(l.Window), l.Amount))))
		}
	case limiter.SlidingWindow:
		for _, c := range a.log {
			if sub := subWindow(l, c.at); c.amount.Sign() > 0 && subWindow(l, now.Mono)-sub <= 64 {
				s.ResetAt = now.Wall + (sub+65)*subWindowLength(l) - now.Mono
			}
		}
	case limiter.FixedWindow:
		w := adjusted.current(now)
		s.ResetAt, s.Window = w.end, time.Duration(w.end-w.start)
	case limiter.Concurrency:
		s.ResetAt = 0
	}
	return s
}

// saturated returns n, at most MaxInt64.
func saturated(n *big.Int) int64 {
	if n.IsInt64() {
		return n.Int64()
	}
	return math.MaxInt64
}

// binding returns the [limiter.Decision].Binding: the index of the denying limit with
// the longest wait or, if the request is allowed, of the enforced limit with the
// smallest share remaining.
func binding(d limiter.Decision, assessments []*assessment) int {
	best := -1
	for i, a := range assessments {
		if a.limit.Shadow || a.check && a.limit.Algorithm == limiter.Concurrency {
			continue
		}
		if d.Outcome == limiter.Denied {
			if a.reason == d.Reason && (best < 0 || a.wait > assessments[best].wait) {
				best = i
			}
		} else if best < 0 || share(d.Limits[i]).Cmp(share(d.Limits[best])) < 0 {
			best = i
		}
	}
	return best
}

// share returns the remaining share of a limit's capacity.
func share(s limiter.LimitState) *big.Rat {
	if s.Capacity == 0 {
		return new(big.Rat)
	}
	return big.NewRat(s.Remaining, s.Capacity)
}
