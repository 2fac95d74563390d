// SPDX-License-Identifier: Apache-2.0

package slice_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/slice"
)

const key = "acme"

// Indexes of dimensions in amounts.
const (
	requests = iota
	input
)

// engine is an engine with the limits of one key.
type engine struct {
	*limiter.Engine
	plan   limiter.Plan
	limits []limiter.Limit
}

func newEngine(limits []limiter.Limit) *engine {
	e := &engine{Engine: limiter.New(limiter.Options{}), limits: limits}
	set, err := e.Catalog().LimitSet(limits)
	if err != nil {
		panic(err)
	}
	e.plan = limiter.Plan{
		Tier: "t", Count: 1, Rates: limiter.Rates{Priced: true, Weights: limiter.DefaultWeights},
		Levels: [limiter.MaxLevels]limiter.Level{{End: len(key), Tier: "t", Limits: set}},
	}
	return e
}

func (e *engine) request(cost slice.Amounts) *limiter.Request {
	return &limiter.Request{Key: key, Plan: &e.plan, Requests: cost[requests], InputTokens: cost[input]}
}

// check charges a call, whatever the limits say if it is forced.
func (e *engine) check(now limiter.Time, cost slice.Amounts, force bool) bool {
	var d limiter.Decision
	r := e.request(cost)
	r.Force = force
	if err := e.Check(now, r, &d); err != nil {
		panic(err)
	}
	return d.Outcome == limiter.Allowed
}

func (e *engine) peek(now limiter.Time) []limiter.LimitState {
	var d limiter.Decision
	e.Peek(now, e.request(slice.Amounts{}), &d)
	return d.Limits
}

// owner lends slices of the limits of an engine.
type owner struct {
	*engine
	margin bool // false plants a fault
	next   int
	lent   []*lent
	known  map[string]bool // ids of slices that were returned
	log    []entry         // charges of returns, at their times
}

// lent is a slice that was not returned.
type lent struct {
	id      string
	amounts slice.Amounts
	until   int64
}

// entry is a charge.
type entry struct {
	at   limiter.Time
	cost slice.Amounts
}

const ttl = time.Second

// lend lends a slice, or as much of it as half of what the limits have left.
func (o *owner) lend(now limiter.Time, amounts slice.Amounts) (slice.Grant, bool) {
	left := time.Duration(0)
	for _, l := range o.limits {
		if l.Algorithm == limiter.FixedWindow {
			left = l.Window - time.Duration(now.Wall%int64(l.Window))
		}
	}
	holderLease, ownerLease := slice.Lease(ttl, left)
	var margin slice.Amounts
	for _, l := range o.limits {
		if i := indexOf(l.Dimension); l.Algorithm == limiter.TokenBucket && o.margin {
			margin[i] = max(margin[i], slice.Margin(l.Amount, l.Window, ownerLease))
		}
	}
	for j, l := range o.peek(now) {
		i := indexOf(o.limits[j].Dimension)
		amounts[i] = max(0, min(amounts[i], (l.Remaining-margin[i])/2))
	}
	debit := amounts
	for i := range debit {
		debit[i] += margin[i]
	}
	o.next++
	id := fmt.Sprint("slice-", o.next)
	r := o.request(debit)
	r.ID, r.TTL = id, time.Hour // the owner ends it, not the engine
	var d limiter.Decision
	if err := o.Reserve(now, r, &d); err != nil {
		panic(err)
	}
	if d.Outcome != limiter.Allowed {
		return slice.Grant{}, false
	}
	o.lent = append(o.lent, &lent{id, amounts, now.Mono + int64(ownerLease)})
	return slice.Grant{ID: id, Amounts: amounts, Lease: int64(holderLease)}, true
}

func indexOf(d limiter.Dimension) int {
	if d == limiter.Requests {
		return requests
	}
	return input
}

// returned takes back a slice of which an amount was spent. It ignores one that is known.
func (o *owner) returned(now limiter.Time, id string, spent slice.Amounts) {
	if o.known[id] {
		return
	}
	o.known[id] = true
	for i, l := range o.lent {
		if l.id == id {
			o.lent = append(o.lent[:i], o.lent[i+1:]...)
			break
		}
	}
	var d limiter.Decision
	if err := o.Cancel(now, key, id, &d); err != nil {
		panic(errors.Join(errors.New(id), err))
	}
	o.check(now, spent, true)
	o.log = append(o.log, entry{now, spent})
}

// expire returns in full the slices whose lease is over.
func (o *owner) expire(now limiter.Time) {
	for len(o.lent) > 0 {
		i := 0
		for i < len(o.lent) && o.lent[i].until > now.Mono {
			i++
		}
		if i == len(o.lent) {
			return
		}
		o.returned(now, o.lent[i].id, o.lent[i].amounts)
	}
}

// exceeded describes an interval in which a limit admitted more than it promises, or is "".
// It sums the calls between every two of them.
func exceeded(limits []limiter.Limit, calls []entry) string {
	for _, l := range limits {
		dim := indexOf(l.Dimension)
		for i, first := range calls {
			sum := int64(0)
			for _, last := range calls[i:] {
				elapsed := last.at.Mono - first.at.Mono
				if l.Algorithm == limiter.FixedWindow && last.at.Wall/int64(l.Window) != first.at.Wall/int64(l.Window) ||
					l.Algorithm == limiter.SlidingWindow && elapsed >= int64(l.Window) {
					break
				}
				sum += last.cost[dim]
				allowed := l.Amount
				if l.Algorithm == limiter.TokenBucket {
					allowed = max(l.Burst, 0)
					if allowed == 0 {
						allowed = l.Amount
					}
					allowed += int64(float64(l.Amount) * float64(elapsed) / float64(l.Window))
				}
				if sum > allowed {
					return fmt.Sprintf("%s on %s admitted %d from %v to %v, more than %d", l.Algorithm, l.Dimension, sum,
						time.Duration(first.at.Mono), time.Duration(last.at.Mono), allowed)
				}
			}
		}
	}
	return ""
}
