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

// refuses says whether the limit refuses a cost, why, and how long to wait.
func (a *ask) refuses(now limiter.Time, cost *big.Int) (limiter.Reason, time.Duration) {
	if a.limit.Algorithm == limiter.Concurrency && !a.reserve {
		return limiter.NoReason, 0
	}
	if a.request.Force {
		return limiter.NoReason, 0
	}
	if a.limit.Dimension == limiter.Spend && !a.request.Plan.Rates.Priced && (a.request.InputTokens > 0 || a.request.OutputTokens > 0) {
		return limiter.NoPrice, -1
	}
	c := ratOf(cost)
	switch {
	case a.limit.Closed && c.Sign() > 0:
		return limiter.OwnerUnreachable, time.Second
	case a.limit.Amount == 0 && !a.limit.Closed:
		return limiter.ExceedsCapacity, -1
	case c.Sign() == 0:
		return limiter.NoReason, 0
	case c.Cmp(a.account.capacity()) > 0 && c.Cmp(rat(a.limit.FullCapacity)) <= 0:
		return limiter.OwnerUnreachable, time.Second // the owner has room for it
	case c.Cmp(a.account.capacity()) > 0:
		return limiter.ExceedsCapacity, -1
	}
	if wait := a.account.wait(now, c); wait > 0 {
		return limiter.LimitExceeded, time.Duration(wait)
	}
	return limiter.NoReason, 0
}

// decide says what becomes of a call and sets what each limit thinks of it.
// A call that is allowed with less output has its costs lowered.
func (o *Oracle) decide(now limiter.Time, r *limiter.Request, asks []*ask, reserve bool) limiter.Decision {
	full := r.OutputTokens
	for _, a := range asks {
		a.account.apply(now, a.limit)
	}
	d := limiter.Decision{Outcome: limiter.Allowed, Tier: r.Plan.Tier, PolicyVersion: r.Plan.Version}
	if reserve {
		d.GrantedOutputTokens = full
	}
	if fits(now, asks, full, reserve) {
		settleOn(now, asks, full, reserve)
		return d
	}
	ask := full
	if reserve && shrinkable(now, asks) {
		// A cost never falls when output grows, so the grants that fit are the
		// lowest ones.
		steps := sort.Search(int((full-1)/16), func(i int) bool { return !fits(now, asks, 16*int64(i+1), reserve) })
		grant, least := 16*int64(steps), leastOutput(r, full)
		if grant >= least && steps > 0 {
			settleOn(now, asks, grant, reserve)
			d.Outcome, d.GrantedOutputTokens = limiter.Degraded, grant
			return d
		}
		ask = min((least+15)/16*16, full)
	}
	d.Outcome, d.GrantedOutputTokens = limiter.Denied, 0
	settleOn(now, asks, ask, reserve)
	// What time does not mend comes first, then what only the owner knows.
	for _, reasons := range [][]limiter.Reason{{limiter.ExceedsCapacity, limiter.NoPrice}, {limiter.OwnerUnreachable}, {limiter.LimitExceeded}} {
		for _, a := range asks {
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

// fits says whether every enforced limit takes the call with that much output.
func fits(now limiter.Time, asks []*ask, output int64, reserve bool) bool {
	for _, a := range asks {
		cost := a.cost
		if reserve {
			cost = a.costAt(output)
		}
		if reason, _ := a.refuses(now, cost); reason != limiter.NoReason && !a.limit.Shadow {
			return false
		}
	}
	return true
}

// settleOn fixes the costs of the call.
func settleOn(now limiter.Time, asks []*ask, output int64, reserve bool) {
	for _, a := range asks {
		if reserve {
			a.cost = a.costAt(output)
		}
		a.reason, a.wait = a.refuses(now, a.cost)
	}
}

// shrinkable says whether a smaller output may be tried: of the limits that
// refuse the full ask and count output, there is one, and all say degrade.
func shrinkable(now limiter.Time, asks []*ask) bool {
	some := false
	for _, a := range asks {
		switch a.limit.Dimension {
		case limiter.Tokens, limiter.OutputTokens, limiter.Spend:
			reason, _ := a.refuses(now, a.cost)
			if reason == limiter.NoReason || a.limit.Shadow {
				continue
			}
			if !a.limit.Degrade || a.limit.Closed || reason == limiter.NoPrice {
				return false
			}
			some = true
		}
	}
	return some
}

// leastOutput is the least output that the caller accepts.
func leastOutput(r *limiter.Request, full int64) int64 {
	if r.MinOutputTokens > 0 {
		return r.MinOutputTokens
	}
	return max(256, full/8)
}

// states reports the limits of a call.
func states(now limiter.Time, asks []*ask) []limiter.LimitState {
	var list []limiter.LimitState
	for _, a := range asks {
		s := a.account.state(now, a.limit, a.scope)
		s.Cost, s.Exceeded = saturated(a.cost), a.reason != limiter.NoReason
		list = append(list, s)
	}
	return list
}

// state reports an account as l sees it.
func (a *account) state(now limiter.Time, l limiter.Limit, scope string) limiter.LimitState {
	seen := *a
	seen.limit = l
	used, capacity := seen.used(now), seen.capacity()
	left := new(big.Rat).Sub(capacity, used)
	s := limiter.LimitState{
		Name: l.Name, Dimension: l.Dimension, Scope: scope, Algorithm: l.Algorithm,
		Limit: l.Amount, Capacity: floor(capacity).Int64(), Window: l.Window, Shadow: l.Shadow,
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
		w := seen.current(now)
		s.ResetAt, s.Window = w.end, time.Duration(w.end-w.start)
	case limiter.Concurrency:
		s.ResetAt = 0
	}
	return s
}

func saturated(n *big.Int) int64 {
	if n.IsInt64() {
		return n.Int64()
	}
	return math.MaxInt64
}

// binding is the index of the limit to show: the one that denied, the longest
// wait first, or the enforced one with the smallest share left.
func binding(d limiter.Decision, asks []*ask) int {
	best := -1
	for i, a := range asks {
		if a.limit.Shadow || a.check && a.limit.Algorithm == limiter.Concurrency {
			continue
		}
		if d.Outcome == limiter.Denied {
			if a.reason == d.Reason && (best < 0 || a.wait > asks[best].wait) {
				best = i
			}
		} else if best < 0 || share(d.Limits[i]).Cmp(share(d.Limits[best])) < 0 {
			best = i
		}
	}
	return best
}

// share is the part of a limit that is left.
func share(s limiter.LimitState) *big.Rat {
	if s.Capacity == 0 {
		return new(big.Rat)
	}
	return big.NewRat(s.Remaining, s.Capacity)
}
