// SPDX-License-Identifier: Apache-2.0

// Package oracle is a second, deliberately naive limiter for tests. It keeps
// the log of every charge that was ever made under one root, corrects the log
// when a reservation ends, and answers every question by replaying it in
// rational arithmetic. It shares the types of requests and answers with package
// limiter, and no code that decides.
package oracle

import (
	"cmp"
	"fmt"
	"math/big"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// An Oracle answers for the keys of one root. It is not safe for concurrent use.
type Oracle struct {
	// Overrun is what settles and forced calls used beyond the debt that a bucket
	// may carry.
	Overrun map[limiter.Dimension]int64

	mono     int64 // the newest reading seen
	accounts map[accountID]*account
	checks   map[string]*answered
	leases   map[string]*lease
}

// New returns an oracle that has seen nothing.
func New() *Oracle {
	return &Oracle{
		Overrun:  map[limiter.Dimension]int64{},
		accounts: map[accountID]*account{},
		checks:   map[string]*answered{},
		leases:   map[string]*lease{},
	}
}

// An answered check is remembered for 30 s, a forced one for 10 minutes.
type answered struct {
	request  identity
	decision limiter.Decision
	until    int64
}

const (
	rememberCheck = int64(30 * time.Second)
	rememberLease = int64(10 * time.Minute)
)

// identity is what a request id stands for.
type identity string

func identify(operation string, r *limiter.Request) identity {
	return identity(fmt.Sprint(operation, "|", r.Key, "|", r.Tier, "|", r.Model, "|", r.Requests, r.InputTokens, r.OutputTokens,
		r.Costs, r.MinOutputTokens, max(r.Choices, 1), r.TTL))
}

// advance moves the oracle to now: readings never go back, leases run out,
// answers are forgotten.
func (o *Oracle) advance(now limiter.Time) limiter.Time {
	o.mono = max(o.mono, now.Mono)
	now.Mono = o.mono
	for id, c := range o.checks {
		if now.Mono >= c.until {
			delete(o.checks, id)
		}
	}
	for id, l := range o.leases {
		if l.status == limiter.Held && now.Mono >= l.deadline {
			o.expire(now, l)
		}
		if l.status != limiter.Held && now.Mono >= l.ended+rememberLease {
			delete(o.leases, id)
		}
	}
	return now
}

// Check is [limiter.Engine.Check].
func (o *Oracle) Check(now limiter.Time, r *limiter.Request) (limiter.Decision, error) {
	now = o.advance(now)
	if r.ID != "" {
		if _, ok := o.leases[r.ID]; ok {
			return limiter.Decision{}, limiter.ErrConflict
		}
		if c, ok := o.checks[r.ID]; ok {
			if c.request != identify("check", r) {
				return limiter.Decision{}, limiter.ErrConflict
			}
			d := c.decision
			d.Replayed = true
			return d, nil
		}
	}
	asks := o.asks(r, false)
	for _, a := range asks {
		a.check = true
	}
	d := o.decide(now, r, asks, false)
	if d.Outcome != limiter.Denied {
		for _, a := range asks {
			if a.reason == limiter.NoReason && a.limit.Algorithm != limiter.Concurrency {
				o.charge(now, a)
			}
		}
	}
	d.Limits = states(now, asks)
	d.Binding = binding(d, asks)
	if r.ID != "" && d.Outcome != limiter.Denied {
		remember := rememberCheck
		if r.Force {
			remember = rememberLease
		}
		o.checks[r.ID] = &answered{identify("check", r), d, now.Mono + remember}
	}
	return d, nil
}

// charge takes the cost of an ask. A forced one may be more than its bucket can
// owe; the cost is then what is charged of it.
func (o *Oracle) charge(now limiter.Time, a *ask) *charge {
	before := a.account.used(now)
	c := a.account.add(now, a.cost)
	if !a.request.Force {
		return c
	}
	c.lowest = new(big.Int) // not an admission
	if a.limit.Algorithm == limiter.TokenBucket {
		dropped := a.account.beyondDebt(now, before)
		o.Overrun[a.limit.Dimension] += dropped.Int64()
		a.cost = new(big.Int).Sub(a.cost, dropped)
		a.account.correct(c, a.cost)
	}
	return c
}

// Peek is [limiter.Engine.Peek].
func (o *Oracle) Peek(now limiter.Time, r *limiter.Request) limiter.Decision {
	now = o.advance(now)
	look := limiter.Request{Key: r.Key, Model: r.Model, Plan: r.Plan}
	asks := o.asks(&look, false)
	d := limiter.Decision{Outcome: limiter.Allowed, Tier: r.Plan.Tier, PolicyVersion: r.Plan.Version, Limits: states(now, asks)}
	d.Binding = binding(d, asks)
	return d
}

// An ask is one call's view of one limit.
type ask struct {
	limit    limiter.Limit
	scope    string
	estimate limiter.Estimate
	account  *account
	request  *limiter.Request
	reserve  bool
	check    bool

	cost   *big.Int
	reason limiter.Reason // why it refuses cost, in shadow too
	wait   time.Duration
}

// asks lists the limits of a call, from the root down, each with the cost of
// the full ask.
func (o *Oracle) asks(r *limiter.Request, reserve bool) []*ask {
	var list []*ask
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
				list = append(list, &ask{limit: l, scope: scope, estimate: level.Estimate, account: acct, request: r, reserve: reserve})
			}
		}
	}
	for _, a := range list {
		a.cost = a.costAt(r.OutputTokens)
	}
	return list
}

// costAt is what the call takes of the limit with that much output per choice.
func (a *ask) costAt(output int64) *big.Int {
	u := usage{requests: a.request.Requests, input: a.request.InputTokens, output: output, costs: costMap(a.request.Costs)}
	if a.reserve {
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
