// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/servicetier"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// An ending is what is known about a call when its handler has returned.
type ending struct {
	status     int       // HTTP status of the response; 0: no response
	firstByte  time.Time // of the response; zero: none
	incomplete bool      // the caller disconnected, the handler panicked, or the response was cut off
	failed     bool      // the response has an error status and no output
	rejected   bool      // failed with a status that keeps the charge for the request

	// metered is true if the response was read. The fields below are then set.
	metered       bool
	usage         llm.Usage // of the response
	textOutput    int64     // output estimated from the bytes of text
	outputGuess   int64     // best estimate of the output: textOutput or the count of pieces
	usageRejected bool      // the usage of the response is not plausible

	// The counts of rejected usage that can be true, see [llm.Meter.Claim]. 0: none.
	claimedInput, claimedOutput int64
}

// charge is what a call is settled with.
type charge struct {
	usage         ChargedUsage
	source        Source
	usageRejected bool
}

// charge decides what a call is charged. See the package comment for the rules.
func (c *Call) charge(e ending) charge {
	c.mu.Lock()
	reported, notRun, ran := c.mu.usage, c.mu.notRun, c.mu.ran
	c.mu.Unlock()
	if notRun {
		return charge{source: SourceCancelled}
	}
	response := chargedUsageOf(&e.usage)
	complete := e.metered && e.usage.Input >= 0 && e.usage.Output >= 0
	if complete && !plausible(response.clientUsage()) {
		e.usageRejected, complete, e.outputGuess = true, false, e.textOutput
	}
	estimated := charge{
		usage:         ChargedUsage{InputTokens: c.estimate.InputTokens, OutputTokens: min(e.outputGuess, amount.Max-c.estimate.InputTokens)},
		source:        SourceEstimated,
		usageRejected: e.usageRejected,
	}
	if e.incomplete || ran && e.failed {
		estimated.source = SourcePartial
	}
	switch {
	case !e.metered:
		estimated.usage.OutputTokens = min(c.maxOutput(), amount.Max-c.estimate.InputTokens)
	case e.usageRejected:
		input := max(c.estimate.InputTokens, e.claimedInput)
		estimated.usage = ChargedUsage{InputTokens: input, OutputTokens: min(max(e.outputGuess, e.claimedOutput), amount.Max-input)}
	case e.usage.Input >= 0: // the input is known, but not the final output
		estimated.usage = response
		estimated.usage.OutputTokens = min(e.outputGuess, amount.Max-e.usage.Input)
	default:
		estimated.usage.ServiceTier = response.ServiceTier
	}
	estimated.usage.Images, estimated.usage.Searches = response.Images, response.Searches // which the response shows
	best := estimated
	if complete {
		best = charge{usage: response, source: SourceReported}
	}
	switch {
	case reported != nil && plausible(*reported):
		return mergeReported(best, reported, e.incomplete)
	case reported != nil:
		best.usageRejected = true
	case e.failed && !complete && !e.usageRejected && !ran && e.rejected:
		return charge{usage: ChargedUsage{Costs: c.noCosts(), Rejected: true}, source: SourceRejected}
	case e.failed && !complete && !e.usageRejected && !ran:
		return charge{source: SourceCancelled}
	}
	return best
}

// chargedUsageOf returns the usage of a response. Counts that are unknown are 0.
func chargedUsageOf(u *llm.Usage) ChargedUsage {
	return ChargedUsage{
		InputTokens: u.Input, CachedInputTokens: max(u.CachedInput, 0), OutputTokens: u.Output,
		CacheWriteTokens: max(u.CacheWrite, 0), CacheWrite1hTokens: max(u.CacheWrite1h, 0),
		Images: max(u.Images, 0), Searches: max(u.Searches, 0), ServiceTier: knownServiceTier(u.ServiceTier),
	}
}

// knownServiceTier returns a service tier that a caller or a model named, or "" if no
// policy can have it.
func knownServiceTier(name string) string {
	if servicetier.Problem(name) != "" {
		return ""
	}
	return name
}

// mergeReported returns best with the values set by SetUsage in place of its own.
func mergeReported(best charge, reported *client.Usage, incomplete bool) charge {
	u := &best.usage
	override(&u.InputTokens, reported.InputTokens)
	override(&u.OutputTokens, reported.OutputTokens)
	for _, part := range [...]struct {
		to       *int64
		reported int64
	}{
		{&u.CachedInputTokens, reported.CachedInputTokens},
		{&u.CacheWriteTokens, reported.CacheWriteTokens},
		{&u.CacheWrite1hTokens, reported.CacheWrite1hTokens},
		{&u.Images, reported.Images},
		{&u.Searches, reported.Searches},
	} {
		if part.reported > 0 {
			*part.to = part.reported
		}
	}
	u.CachedInputTokens = min(u.CachedInputTokens, u.InputTokens)
	u.CacheWriteTokens = min(u.CacheWriteTokens, u.InputTokens-u.CachedInputTokens)
	u.CacheWrite1hTokens = min(u.CacheWrite1hTokens, u.InputTokens-u.CachedInputTokens-u.CacheWriteTokens)
	u.ServiceTier = cmp.Or(knownServiceTier(reported.ServiceTier), u.ServiceTier)
	u.Rejected = reported.Rejected
	u.Costs = reported.Costs
	best.source = SourceReported
	if incomplete {
		best.source = SourcePartial
	}
	return best
}

// override sets *to to a reported value, unless the value is unknown.
func override(to, reported *int64) {
	if reported != nil {
		*to = *reported
	}
}

// plausible reports whether usage can be true: no number is negative or above
// [amount.Max], and no part is larger than its whole.
func plausible(u client.Usage) bool {
	input, output := orZero(u.InputTokens), orZero(u.OutputTokens)
	for _, n := range [...]int64{input, u.CachedInputTokens, u.CacheWriteTokens, u.CacheWrite1hTokens, output, u.Images, u.Searches} {
		if n < 0 || n > amount.Max {
			return false
		}
	}
	for _, n := range u.Costs {
		if n < 0 || n > amount.Max {
			return false
		}
	}
	return input+output <= amount.Max && (u.InputTokens == nil || u.CachedInputTokens+u.CacheWriteTokens+u.CacheWrite1hTokens <= input)
}

func orZero(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// finish settles the call, counts it and calls OnDone. Only the first call of
// finish has an effect.
func (c *Call) finish(e ending) {
	c.mu.Lock()
	finished := c.mu.ended
	c.mu.ended = true
	c.mu.Unlock()
	if finished {
		return
	}
	r := Result{
		Key: c.reservation.Key, Tier: c.reservation.Tier, Model: c.estimate.Model, RequestID: c.reservation.RequestID, Method: c.method,
		Outcome: c.reservation.Outcome, Reason: c.reservation.Reason, Priority: c.reservation.Priority, Waited: c.reservation.Waited,
		RequestedOutputTokens: max(orZero(c.estimate.MaxOutputTokens), 0), GrantedOutputTokens: c.reservation.Granted(), Status: e.status,
		UsageRefused: c.usageRefused,
	}
	if !c.reservation.Denied() {
		c.metering.renewer.remove(c)
		ch := c.charge(e)
		r.Charged, r.Source, r.UsageRejected = ch.usage, ch.source, ch.usageRejected
		switch {
		case c.undecided:
			r.Outcome = OutcomeUndecided
			r.Deferred, r.Err = c.chargeLater(ch, c.reserved(e.textOutput))
		case ch.source == SourceCancelled:
			r.Deferred, r.Err = c.cancel()
		default:
			s := c.settle(ch.usage, c.reserved(e.textOutput))
			r.Charged, r.spend, r.Deferred, r.Err = s.usage, s.spend, s.deferred, s.err
			if s.replaced {
				r.Source, r.UsageRejected = SourceEstimated, true
			}
		}
		c.metering.metrics.settled(&r)
		if r.Err != nil {
			attrs := c.metering.access.failure(r.Key, r.Err, slog.String("request_id", r.RequestID), slog.String("source", string(r.Source)))
			c.metering.logger.LogAttrs(context.Background(), slog.LevelError, "settlement failed", attrs...)
		}
	}
	r.Duration = time.Since(c.started)
	if !e.firstByte.IsZero() {
		r.FirstByte = e.firstByte.Sub(c.started)
	}
	c.metering.describe(c.ctx, &r)
	c.metering.report(&r)
	if c.metering.onDone != nil {
		c.metering.onDone(r)
	}
}

// A settlement is the outcome of settling a call.
type settlement struct {
	usage    ChargedUsage // that was settled, with the costs that were refused
	replaced bool         // by that of the reservation
	spend    int64        // microdollars that were charged, as far as a limit tells
	settled  bool         // a node has accepted it
	deferred bool         // no node could be reached; the client's outbox has the usage
	err      error        // why the usage, or the first of several, was not accepted
}

// settle reports the final usage. If no node can be reached, it leaves the usage to the
// client's outbox.
func (c *Call) settle(u, reserved ChargedUsage) settlement {
	ctx, span := c.metering.span(c.ctx, "settle")
	s := settleAny(context.WithoutCancel(ctx), c.reservation, u, reserved)
	endSettle(span, s.err)
	return s
}

// settleAny settles r with u. Usage that a node refuses, because it has invalid costs or a
// number that makes a charge above [amount.Max], must not hold the slot and the
// reservation until the lease ends: then it settles without the costs, and if that is
// refused too, with what was reserved.
func settleAny(ctx context.Context, r *client.Reservation, u, reserved ChargedUsage) settlement {
	withoutCosts := u
	withoutCosts.Costs = nil
	attempts := [...]ChargedUsage{u, withoutCosts, reserved}
	var refused error
	for i, attempt := range attempts {
		if i == 1 && u.Costs == nil {
			continue
		}
		s := settlement{usage: u}
		if s.replaced = i == len(attempts)-1; s.replaced {
			s.usage = reserved
		}
		settled, err := r.Settle(ctx, attempt.clientUsage())
		if _, invalid := errors.AsType[*client.InvalidError](err); invalid {
			if refused == nil {
				refused = err
			}
			continue
		}
		s.spend, s.settled, s.err = spendOf(settled), err == nil, errors.Join(refused, err)
		if err != nil && !isRejected(err) {
			s.deferred, err = settleLater(r, attempt.clientUsage(), err)
			s.err = errors.Join(refused, err)
		}
		return s
	}
	return settlement{usage: u, err: refused}
}

// reserved returns the usage that was reserved, with the output that was seen as text if
// that is more: a call without a bound may have more than was reserved.
func (c *Call) reserved(textOutput int64) ChargedUsage {
	return ChargedUsage{InputTokens: c.reservedInput, OutputTokens: min(max(c.maxOutput(), textOutput), amount.Max-c.reservedInput)}
}

// spendOf returns the microdollars of a settled call: all limits of spend have the same.
func spendOf(s client.Settlement) int64 {
	for i := range s.Limits {
		if s.Limits[i].Dimension == "spend" {
			return s.Limits[i].Cost
		}
	}
	return 0
}

// cancel refunds the whole reservation. If no node can be reached, it leaves a
// settlement with no usage to the client's outbox and returns true. That refunds
// everything but the request itself.
func (c *Call) cancel() (deferred bool, err error) {
	ctx, span := c.metering.span(c.ctx, "cancel")
	err = c.metering.cancelHandle(c.reservation).Cancel(context.WithoutCancel(ctx))
	endSettle(span, err)
	if err == nil || isRejected(err) {
		return false, err
	}
	return settleLater(c.reservation, ChargedUsage{Costs: c.noCosts(), Rejected: true}.clientUsage(), err)
}

// noCosts returns costs that refund those of the estimate.
func (c *Call) noCosts() map[string]int64 {
	if len(c.estimate.Costs) == 0 {
		return nil
	}
	none := maps.Clone(c.estimate.Costs)
	for name := range none {
		none[name] = 0
	}
	return none
}

// settleLater leaves u to the client's outbox. cause is why u could not be settled now.
func settleLater(r *client.Reservation, u client.Usage, cause error) (deferred bool, err error) {
	if err := r.SettleLater(u); err != nil {
		return false, errors.Join(cause, err)
	}
	return true, nil
}

// isRejected reports whether err is the answer of a node. A retry would return it
// again.
func isRejected(err error) bool {
	_, invalid := errors.AsType[*client.InvalidError](err)
	return invalid || errors.Is(err, client.ErrConflict) || errors.Is(err, client.ErrUnknownReservation)
}

// clientUsage returns u as a usage whose token counts are all known.
func (u ChargedUsage) clientUsage() client.Usage {
	return client.Usage{
		InputTokens: &u.InputTokens, CachedInputTokens: u.CachedInputTokens, OutputTokens: &u.OutputTokens, Costs: u.Costs,
		CacheWriteTokens: u.CacheWriteTokens, CacheWrite1hTokens: u.CacheWrite1hTokens,
		Images: u.Images, Searches: u.Searches, ServiceTier: u.ServiceTier, Rejected: u.Rejected,
	}
}
