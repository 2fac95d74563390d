// SPDX-License-Identifier: Apache-2.0

// Package oracle is a naive reference implementation of package limiter for tests. It
// keeps a log of all charges ever made under one root, corrects the log when a
// reservation ends, and computes every answer by replaying the log in rational
// arithmetic. It uses the request and result types of package limiter, but shares no
// code that decides.
package oracle

import (
	"cmp"
	"fmt"
	"math/big"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// An Oracle decides for the keys of one root. It is not safe for concurrent use.
type Oracle struct {
	// Overrun is the usage that exceeded the maximum debt of token buckets.
	Overrun map[limiter.Dimension]int64

	mono         int64 // the latest time seen
	accounts     map[accountID]*account
	checks       map[string]*rememberedCheck
	reservations map[string]*reservation
}

// New returns an empty oracle.
func New() *Oracle {
	return &Oracle{
		Overrun:      map[limiter.Dimension]int64{},
		accounts:     map[accountID]*account{},
		checks:       map[string]*rememberedCheck{},
		reservations: map[string]*reservation{},
	}
}

// A rememberedCheck is kept for 30 s, or for 10 minutes if it was forced.
type rememberedCheck struct {
	request  identity
	decision limiter.Decision
	until    int64
}

const (
	rememberCheck       = int64(30 * time.Second)
	rememberReservation = int64(10 * time.Minute)
)

// identity is what two requests with the same id must have in common.
type identity string

func identify(operation string, r *limiter.Request) identity {
	return identity(fmt.Sprint(operation, "|", r.Key, "|", r.Tier, "|", r.Model, "|", r.Requests, r.InputTokens, r.OutputTokens,
		r.Costs, r.MinOutputTokens, max(r.Choices, 1), r.TTL, r.ServiceTier, r.EstimatedInput, r.KnownInput))
}

// advance advances the oracle to now: it ends expired leases and forgets old ids. It
// returns now, with its Mono not before any seen earlier.
func (o *Oracle) advance(now limiter.Time) limiter.Time {
	o.mono = max(o.mono, now.Mono)
	now.Mono = o.mono
	for id, c := range o.checks {
		if now.Mono >= c.until {
			delete(o.checks, id)
		}
	}
	for id, res := range o.reservations {
		if res.status == limiter.Held && now.Mono >= res.deadline {
			o.expire(now, res)
		}
		if res.status != limiter.Held && now.Mono >= res.until {
			delete(o.reservations, id)
		}
	}
	return now
}

// replayCheck returns the decision of a known check with the limits as they are now.
func (o *Oracle) replayCheck(now limiter.Time, r *limiter.Request, c *rememberedCheck) limiter.Decision {
	d := c.decision
	d.Replayed = true
	assessments := o.assess(r, false)
	for _, a := range assessments {
		a.check = true
	}
	d.Limits = states(now, assessments)
	d.Binding = binding(d, assessments)
	return d
}

// Check is [limiter.Engine.Check].
func (o *Oracle) Check(now limiter.Time, r *limiter.Request) (limiter.Decision, error) {
	now = o.advance(now)
	if r.ID != "" {
		if _, ok := o.reservations[r.ID]; ok {
			return limiter.Decision{}, limiter.ErrConflict
		}
		if c, ok := o.checks[r.ID]; ok {
			if c.request != identify("check", r) {
				return limiter.Decision{}, limiter.ErrConflict
			}
			return o.replayCheck(now, r, c), nil
		}
	}
	assessments := o.assess(r, false)
	for _, a := range assessments {
		a.check = true
	}
	d := o.decide(now, r, assessments, false)
	if d.Outcome != limiter.Denied {
		for _, a := range assessments {
			if a.reason == limiter.NoReason && a.limit.Algorithm != limiter.Concurrency {
				o.charge(now, a)
			}
		}
	}
	d.Limits = states(now, assessments)
	if d.Outcome == limiter.Denied {
		d.Limits = deniedStates(now, assessments)
	}
	d.Binding = binding(d, assessments)
	if r.ID != "" && d.Outcome != limiter.Denied {
		remember := rememberCheck
		if r.Force {
			remember = rememberReservation
		}
		o.checks[r.ID] = &rememberedCheck{identify("check", r), d, now.Mono + remember}
	}
	return d, nil
}

// charge charges the cost of an assessment. If the request is forced and the cost exceeds
// the maximum debt of a bucket, it lowers the cost to what is charged.
func (o *Oracle) charge(now limiter.Time, a *assessment) *charge {
	before, credited := a.account.used(now), a.credited(now, a.cost)
	a.account.credit.left -= credited.Int64()
	c := a.account.add(now, new(big.Int).Sub(a.cost, credited))
	if !a.request.Force {
		return c
	}
	c.lowest = new(big.Int) // not an admission
	if a.limit.Algorithm == limiter.TokenBucket {
		dropped := a.account.beyondDebt(now, before, a.request.EstimatedInput)
		o.Overrun[a.limit.Dimension] += dropped.Int64()
		a.cost = new(big.Int).Sub(a.cost, dropped)
		a.account.correct(c, a.cost)
	}
	return c
}

// Peek is [limiter.Engine.Peek].
func (o *Oracle) Peek(now limiter.Time, r *limiter.Request) limiter.Decision {
	now = o.advance(now)
	request := limiter.Request{Key: r.Key, Model: r.Model, Plan: r.Plan, Priority: r.Priority}
	assessments := o.assess(&request, false)
	d := limiter.Decision{Outcome: limiter.Allowed, Tier: r.Plan.Tier, PolicyVersion: r.Plan.Version, Limits: states(now, assessments)}
	for i, a := range assessments {
		if c := a.account.credit; now.Wall < c.end {
			d.Limits[i].Credit = c.left
		}
	}
	d.Binding = binding(d, assessments)
	return d
}

// An assessment is one limit of a request that is being decided.
type assessment struct {
	limit    limiter.Limit
	scope    string
	estimate limiter.Estimate
	account  *account
	request  *limiter.Request
	reserve  bool
	check    bool
	perModel bool

	cost   *big.Int
	reason limiter.Reason // why the limit denies the cost, also in shadow mode
	wait   time.Duration
}

// assess lists the limits of a request, from the root down, each with the cost of the
// full output.
func (o *Oracle) assess(r *limiter.Request, reserve bool) []*assessment {
	var list []*assessment
	for _, level := range r.Plan.Levels[:r.Plan.Count] {
		scope := r.Key[:level.End]
		for _, set := range []struct {
			limits *limiter.LimitSet
			model  string
		}{{level.Limits, ""}, {level.Model, cmp.Or(r.Model, "*")}} {
			if set.limits == nil {
				continue
			}
			for _, l := range set.limits.Limits() {
				id := accountID{scope, l.Dimension, l.Name, set.model}
				acct := o.accounts[id]
				if acct == nil {
					acct = &account{limit: l}
					o.accounts[id] = acct
				}
				list = append(list, &assessment{limit: l, scope: scope, estimate: level.Estimate, account: acct, request: r, reserve: reserve, perModel: set.model != ""})
			}
		}
	}
	for _, a := range list {
		a.cost = a.costAt(r.OutputTokens)
	}
	return list
}

// costAt returns the cost of the request with that many output tokens per choice.
func (a *assessment) costAt(output int64) *big.Int {
	u := usage{requests: a.request.Requests, input: a.request.InputTokens, output: output, costs: costMap(a.request.Costs)}
	u.factor = factorOf(a.request.Plan.Rates, a.request.ServiceTier)
	if a.reserve {
		u.factor = reservedFactor(a.request)
		u.output = estimatedOutput(a.estimate, max(a.request.Choices, 1), output)
	}
	if a.limit.Dimension == limiter.Concurrent && !a.reserve {
		return new(big.Int) // only reservations take slots
	}
	return cost(a.limit.Dimension, a.request.Plan.Rates, u)
}

func costMap(costs []limiter.Cost) map[limiter.Dimension]int64 {
	m := map[limiter.Dimension]int64{}
	for _, c := range costs {
		m[c.Dimension] += c.Amount
	}
	return m
}
