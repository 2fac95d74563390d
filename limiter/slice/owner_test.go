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

// call is what a call costs.
type call struct{ requests, input, output int64 }

// cost returns what a call costs a limit.
func (c call) cost(l *limiter.Limit) int64 {
	switch l.Dimension {
	case limiter.Requests:
		return c.requests
	case limiter.OutputTokens:
		return c.output
	default:
		return c.input
	}
}

// times returns what n calls cost.
func (c call) times(n int64) call { return call{c.requests * n, c.input * n, c.output * n} }

// entry is a charge.
type entry struct {
	at limiter.Time
	call
}

// fault is a mistake of an owner, which the tests must find.
type fault int

const (
	noFault   fault = iota
	noMargin        // token buckets are charged no more than the slice
	asOfLoan        // what was spent is charged as of when the slice was lent
	lateLease       // the holder may spend a slice for longer than the owner keeps it
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

func (e *engine) request(c call) *limiter.Request {
	return &limiter.Request{Key: key, Plan: &e.plan, Requests: c.requests, InputTokens: c.input, OutputTokens: c.output}
}

// check charges a call, whatever the limits say if it is forced.
func (e *engine) check(now limiter.Time, c call, force bool) bool {
	var d limiter.Decision
	r := e.request(c)
	r.Force = force
	if err := e.Check(now, r, &d); err != nil {
		panic(err)
	}
	return d.Outcome == limiter.Allowed
}

func (e *engine) peek(now limiter.Time) []limiter.LimitState {
	var d limiter.Decision
	e.Peek(now, e.request(call{}), &d)
	return d.Limits
}

// owner lends slices of the limits of an engine.
type owner struct {
	*engine
	fault fault
	next  int
	lent  []*lent
	log   []entry // charges of slices, at their times

	ended, expired int64 // slices that were returned, and those whose lease was over
}

// move continues with another engine, which has the state of the one before.
func (o *owner) move(now limiter.Time) {
	next := newEngine(o.limits)
	part := limiter.PartitionOf(key)
	if err := next.Restore(now, part, o.Snapshot(now, part, nil), time.LoadLocation); err != nil {
		panic(err)
	}
	o.engine = next
}

// lent is a slice that was lent, and not returned.
type lent struct {
	id    string
	calls int64
	of    call
	until int64 // end of the owner's lease
}

// lease returns how long the owner keeps a slice for calls like c, as documented.
func (o *owner) lease(now limiter.Time, c call) time.Duration {
	lease := slice.Kept(slice.MemberLease)
	for i := range o.limits {
		l := &o.limits[i]
		if c.cost(l) == 0 {
			continue
		}
		switch l.Algorithm {
		case limiter.TokenBucket:
			lease = min(lease, slice.RefillTime(capacity(l), l.Amount, l.Window))
		case limiter.SlidingWindow:
			lease = min(lease, l.Window)
		default:
			lease = min(lease, l.Window-time.Duration(now.Wall%int64(l.Window)))
		}
	}
	return lease
}

// lend lends a slice for calls like c. It returns nil if the owner lends none.
func (o *owner) lend(now limiter.Time, c call, share int64, holders int) *limiter.Loan {
	o.next++
	loan := &limiter.Loan{ID: fmt.Sprint("slice-", o.next), Share: share, Holders: holders}
	var d limiter.Decision
	ok, err := o.Lend(now, o.request(c), loan, &d)
	if err != nil {
		panic(err)
	}
	if !ok {
		return nil
	}
	s := &lent{loan.ID, loan.Calls, c, now.Mono + int64(o.lease(now, c))}
	switch o.fault {
	case noMargin, asOfLoan:
		if err := o.Return(now, key, s.id, make([]int64, len(o.limits)), nil, limiter.Used{}, &d); err != nil {
			panic(err)
		}
		r := o.request(c.times(s.calls))
		r.ID, r.TTL = s.id+"-reservation", time.Hour // the test ends it
		if err := o.Reserve(now, r, &d); err != nil || d.Outcome != limiter.Allowed {
			panic(fmt.Sprint(d.Outcome, err))
		}
	case lateLease:
		loan.Lease *= 2
	}
	o.lent = append(o.lent, s)
	return loan
}

// returned takes back a slice of which some calls were spent. It ignores one that is over.
func (o *owner) returned(now limiter.Time, id string, calls int64) {
	var d limiter.Decision
	for i, s := range o.lent {
		if s.id == id {
			o.lent = append(o.lent[:i], o.lent[i+1:]...)
			o.end(now, s, calls)
			o.ended++
			return
		}
	}
	if err := o.Return(now, key, id, make([]int64, len(o.limits)), nil, limiter.Used{}, &d); !errors.Is(err, limiter.ErrUnknownReservation) {
		panic(fmt.Sprintf("Return() of a slice that is over = %v, want %v", err, limiter.ErrUnknownReservation))
	}
}

// end charges what was spent of a slice.
func (o *owner) end(now limiter.Time, s *lent, calls int64) {
	spent := s.of.times(calls)
	o.log = append(o.log, entry{now, spent})
	var d limiter.Decision
	var err error
	switch o.fault {
	case noMargin:
		err = o.Cancel(now, key, s.id+"-reservation", &d)
		o.check(now, spent, true)
	case asOfLoan:
		err = o.Settle(now, &limiter.Usage{Key: key, ID: s.id + "-reservation", InputTokens: spent.input, Final: true}, &d)
	default:
		amounts := make([]int64, len(o.limits))
		for i := range o.limits {
			amounts[i] = spent.cost(&o.limits[i])
		}
		err = o.Return(now, key, s.id, amounts, nil, limiter.Used{}, &d)
	}
	if err != nil {
		panic(err)
	}
}

// expire notes that the slices whose lease is over are spent in full. The engine does that by
// itself.
func (o *owner) expire(now limiter.Time) {
	for i := 0; i < len(o.lent); i++ {
		s := o.lent[i]
		if s.until > now.Mono {
			continue
		}
		last := s.until - 1
		at := limiter.Time{Mono: last, Wall: now.Wall - (now.Mono - last)}
		o.lent = append(o.lent[:i], o.lent[i+1:]...)
		i--
		o.expired++
		if o.fault == noMargin || o.fault == asOfLoan {
			o.end(now, s, s.calls)
			continue
		}
		o.log = append(o.log, entry{at, s.of.times(s.calls)})
	}
}

func capacity(l *limiter.Limit) int64 {
	if l.Burst > 0 {
		return l.Burst
	}
	return l.Amount
}

// exceeded describes how a limit admitted more than it promises, or is "". calls are in the
// order of their times.
func exceeded(limits []limiter.Limit, calls []entry) string {
	for i := range limits {
		l := &limits[i]
		used, from := int64(0), 0 // of a bucket, in units x nanoseconds; of a window, since calls[from]
		for j, c := range calls {
			most := capacity(l)
			switch l.Algorithm {
			case limiter.TokenBucket:
				most *= int64(l.Window)
				used = max(0, used-l.Amount*(c.at.Mono-calls[max(j-1, 0)].at.Mono)) + c.cost(l)*int64(l.Window)
			default:
				for used += c.cost(l); isOver(l, calls[from].at, c.at); from++ {
					used -= calls[from].cost(l)
				}
			}
			if used > most {
				return fmt.Sprintf("%s on %s admitted too much at %v: %d is used, more than %d", l.Algorithm, l.Dimension, time.Duration(c.at.Mono), used, most)
			}
		}
	}
	return ""
}

// isOver reports whether no window that has a call at one time has one at a later time.
func isOver(l *limiter.Limit, at, later limiter.Time) bool {
	if l.Algorithm == limiter.FixedWindow {
		return at.Wall/int64(l.Window) != later.Wall/int64(l.Window)
	}
	return later.Mono-at.Mono >= int64(l.Window)
}
