// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"errors"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// An ending is what is known of a call when its handler has returned.
type ending struct {
	status int  // HTTP status of the answer; 0 if there was none
	broke  bool // the caller left, the handler panicked, or the answer was cut off
	failed bool // an error status, before anything was generated

	metered bool  // the answer was read: what follows means something
	input   int64 // by the answer's usage block; -1: absent
	cached  int64
	output  int64
	text    int64 // output as estimated from bytes
	guess   int64 // output as estimated: the same, or what was counted if that is more
	lied    bool  // the usage block is not to be believed
}

// charge is what a call is settled with.
type charge struct {
	usage  client.Usage // numbers as they are
	source Source
	lied   bool
}

// charge decides what a call pays. See the package comment.
func (c *Call) charge(e ending) charge {
	c.mu.Lock()
	said, notRun, ran := c.mu.usage, c.mu.notRun, c.mu.ran
	c.mu.Unlock()
	if notRun {
		return charge{source: Cancelled}
	}
	answered := client.Usage{InputTokens: e.input, CachedInputTokens: max(e.cached, 0), OutputTokens: e.output}
	whole := e.metered && e.input >= 0 && e.output >= 0
	if whole && !believable(&answered) {
		e.lied, whole, e.guess = true, false, e.text
	}
	estimated := charge{
		usage:  client.Usage{InputTokens: c.estimate.InputTokens, OutputTokens: min(e.guess, maxAmount-c.estimate.InputTokens)},
		source: Estimated,
		lied:   e.lied,
	}
	if e.broke || ran && e.failed {
		estimated.source = Partial
	}
	switch {
	case !e.metered:
		estimated.usage.OutputTokens = min(c.bound(), maxAmount-c.estimate.InputTokens)
	case !e.lied: // the input may be known, and the output not
		estimated.usage.InputTokens = max(estimated.usage.InputTokens, e.input)
	}
	best := estimated
	if whole {
		best = charge{usage: answered, source: Reported}
	}
	switch {
	case said != nil && believable(said):
		return fillIn(best, said, e.broke)
	case said != nil:
		best.lied = true
	case e.failed && !whole && !e.lied && !ran:
		return charge{source: Cancelled}
	}
	return best
}

// fillIn is the charge of what SetUsage said; what it left open is as in best.
func fillIn(best charge, said *client.Usage, broke bool) charge {
	u := &best.usage
	fill(&u.InputTokens, said.InputTokens)
	fill(&u.OutputTokens, said.OutputTokens)
	fill(&u.CachedInputTokens, said.CachedInputTokens)
	u.CachedInputTokens = min(u.CachedInputTokens, u.InputTokens)
	u.Costs = said.Costs
	best.source = Reported
	if broke {
		best.source = Partial
	}
	return best
}

// fill sets to what was said, if anything was.
func fill(to *int64, said int64) {
	switch said {
	case 0:
	case client.Zero:
		*to = 0
	default:
		*to = said
	}
}

// believable reports whether usage can be true: no number is negative or beyond
// what nodes take, and the parts are within the whole.
func believable(u *client.Usage) bool {
	for _, n := range [...]int64{u.InputTokens, u.CachedInputTokens, u.OutputTokens} {
		if n != client.Zero && (n < 0 || n > maxAmount) {
			return false
		}
	}
	for _, n := range u.Costs {
		if n < 0 || n > maxAmount {
			return false
		}
	}
	input, output := max(u.InputTokens, 0), max(u.OutputTokens, 0)
	return input+output <= maxAmount && (u.InputTokens == 0 || u.CachedInputTokens <= input)
}

// finish settles the call, once, and tells everybody.
func (c *Call) finish(e ending) {
	c.mu.Lock()
	again := c.mu.ended
	c.mu.ended = true
	c.mu.Unlock()
	if again {
		return
	}
	r := Result{
		Key: c.reservation.Key, Tier: c.reservation.Tier, Model: c.estimate.Model, RequestID: c.reservation.RequestID, Method: c.method,
		Outcome: c.reservation.Outcome, Reason: c.reservation.Reason,
		Asked: max(c.estimate.MaxOutputTokens, 0), Granted: c.reservation.Granted(), Status: e.status,
	}
	if !c.reservation.Denied() {
		c.metering.keeper.remove(c)
		ch := c.charge(e)
		r.Charged, r.Source, r.Lied = ch.usage, ch.source, ch.lied
		if ch.source == Cancelled {
			r.Later, r.Err = c.cancel()
		} else {
			r.Later, r.Err = c.settle(ch.usage)
		}
		c.metering.metrics.settled(&r)
		if r.Err != nil {
			c.metering.logger.Error("usage of a call could not be reported", "key", r.Key, "request_id", r.RequestID, "source", string(r.Source), "error", r.Err)
		}
	}
	r.Took = time.Since(c.started)
	if c.metering.onDone != nil {
		c.metering.onDone(r)
	}
}

// settle reports the usage of the call, later if no node can be reached now.
func (c *Call) settle(u client.Usage) (later bool, err error) {
	u = exact(u)
	ctx := context.WithoutCancel(c.ctx)
	_, err = c.reservation.Settle(ctx, u)
	if _, invalid := errors.AsType[*client.InvalidError](err); invalid && u.Costs != nil {
		// A dimension that nodes do not know must not keep the slot from being free.
		u.Costs = nil
		_, again := c.reservation.Settle(ctx, u)
		return false, errors.Join(err, again)
	}
	if err == nil || refused(err) {
		return false, err
	}
	return c.settleLater(u, err)
}

// cancel gives everything back. If no node can be reached now, all but the
// request itself is given back later.
func (c *Call) cancel() (later bool, err error) {
	err = c.metering.handle(c.reservation).Cancel(context.WithoutCancel(c.ctx))
	if err == nil || refused(err) {
		return false, err
	}
	nothing := client.Usage{InputTokens: client.Zero, OutputTokens: client.Zero}
	for name := range c.estimate.Costs {
		if nothing.Costs == nil {
			nothing.Costs = map[string]int64{}
		}
		nothing.Costs[name] = 0
	}
	return c.settleLater(nothing, err)
}

func (c *Call) settleLater(u client.Usage, because error) (later bool, err error) {
	if err := c.reservation.SettleLater(u); err != nil {
		return false, errors.Join(because, err)
	}
	return true, nil
}

// refused reports whether a node has answered, so that asking again is of no use.
func refused(err error) bool {
	_, invalid := errors.AsType[*client.InvalidError](err)
	return invalid || errors.Is(err, client.ErrConflict) || errors.Is(err, client.ErrUnknownReservation)
}

// exact returns u as the client takes it: where 0 would mean not known, 0 is
// said in so many words.
func exact(u client.Usage) client.Usage {
	for _, n := range [...]*int64{&u.InputTokens, &u.CachedInputTokens, &u.OutputTokens} {
		if *n == 0 {
			*n = client.Zero
		}
	}
	return u
}
