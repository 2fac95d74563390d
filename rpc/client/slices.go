// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/boottime"
	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A call whose request id was chosen by the caller is never answered from a slice: the owner
// must know the id, so that a repetition is charged once. All other checks and reserves with
// the shape of a slice are, until it is spent or its time is over.
//
// The table has the reservations that were made from slices, by the ids that the client gave
// them. They are settled and cancelled there while their slice lasts. Then their owner gets
// them with the return of the slice, and calls for them wait for that.

// startSlices starts c.slices. It needs c.ring.
func (c *Client) startSlices() {
	clock := boottime.New()
	c.slices = slices.New(slices.Options{
		Now:         func() int64 { return int64(clock.Now()) }, // the owner's lease goes on while this machine is suspended
		Send:        c.deliverReturn,
		Destination: c.Owner,
		View:        c.lentDecision,
		Timeout:     c.timeout,
	})
}

// closeSlices returns all slices, for as long as one call may take.
func (c *Client) closeSlices() error {
	if c.slices == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	return c.slices.Close(ctx)
}

func (c *Client) sliceStatus() SliceStatus {
	if c.slices == nil {
		return SliceStatus{}
	}
	s := c.slices.Status()
	return SliceStatus{
		Held: s.Held, Open: s.Open, PendingReturns: s.PendingReturns, Checks: s.Taken, Reserves: s.Reserved, Settled: s.Settled, Kept: s.Kept,
		Granted: s.Granted, Returned: s.Returned, FailedReturns: s.FailedSends, LostReturns: s.LostReturns,
	}
}

// lent is the decision with which a slice came, as answers from the slice have it.
type lent struct {
	decision Decision
	binding  int // index of Binding; -1: none
}

// lentDecision implements [slices.Options].View.
func (c *Client) lentDecision(d *pb.Decision) any {
	w := &decisionCall{}
	w.hints = hints{strings: &c.strings}
	if w.setAnswer(d) != nil {
		return nil // not from [codec.Lent], which accepts valid text only
	}
	l := &lent{decision: w.answer, binding: -1}
	l.decision.Route, l.decision.RequestID = Slice, ""
	if i := int(d.GetBinding()); d.Binding != nil && i >= 0 && i < len(l.decision.Limits) {
		l.binding = i
	}
	return l
}

// takeSlice answers a check from a slice, if one is held that covers it. Otherwise it does not
// change d. renews says that it may leave the call to the owner, to renew the slice.
func (c *Client) takeSlice(call *Call, d *Decision, renews bool) bool {
	if c.slices == nil {
		return false
	}
	q := pb.CheckRequest{
		Key: call.Key, Tier: call.Tier, Model: call.Model, Requests: call.Requests, InputTokens: call.InputTokens,
		OutputTokens: call.OutputTokens, Costs: call.Costs, ServiceTier: call.ServiceTier,
	}
	var a slices.Answer
	if !c.slices.Take(&q, &a, renews) {
		return false
	}
	*d = answerFrom(&a.Limits, localID())
	d.Model = call.Model
	return true
}

// answerFrom returns the answer to a call from a slice.
func answerFrom(s *slices.Limits, id string) Decision {
	l := s.View.(*lent)
	d := l.decision
	d.RequestID = id
	d.Limits = l.limits(s)
	if l.binding >= 0 {
		d.Binding = d.Limits[l.binding]
	}
	return d
}

// limits returns the limits with the cost of a call, and what is left after it.
func (l *lent) limits(s *slices.Limits) []LimitState {
	limits := append([]LimitState(nil), l.decision.Limits...)
	for i := range limits {
		limits[i].Cost, limits[i].Remaining = s.Cost(i), s.Remaining(i)
	}
	return limits
}

// localID returns an id like [newID] for an answer that no node knows. Nobody gains anything
// by guessing it, so it may come from a faster source.
func localID() string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	var id [26]byte
	for i := 0; i < len(id); {
		for bits, n := rand.Uint64(), 0; n < 12 && i < len(id); n++ {
			id[i] = alphabet[bits%32]
			bits /= 32
			i++
		}
	}
	return string(id[:])
}

// askSlice decides whether an item that is about to be sent to the owner asks for a slice,
// and returns the time. Then endAskSlice must follow.
func (c *Client) askSlice(e *envelope) (asked int64) {
	e.lent, e.lentWith = nil, nil
	e.item.TakesSlice = e.takesSlice && c.slices.Asks(sliceRequest(&e.item))
	if e.item.TakesSlice {
		asked = c.slices.Now()
	}
	return asked
}

// sliceRequest returns the request of a check or a reserve.
func sliceRequest(item *pb.Item) slices.Request {
	if q := item.GetCheck(); q != nil {
		return q
	}
	return item.GetReserve()
}

// endAskSlice takes the slice that came with the answer, if any.
func (c *Client) endAskSlice(e *envelope, asked int64) {
	switch {
	case !e.item.GetTakesSlice():
	case e.lent != nil:
		c.slices.Granted(sliceRequest(&e.item), asked, e.lent, e.lentWith)
	default:
		c.slices.Answered(sliceRequest(&e.item))
	}
}

// returnCall is the return of a slice, which has no answer but that it arrived.
type returnCall struct{ envelope }

// Decode implements link.Decoder.
func (c *returnCall) Decode(e codec.Encoded) error {
	r := &pb.Result{}
	if err := e.Message(r); err != nil {
		return c.setOutcome(nil, err)
	}
	if r.GetSliceEnded() != nil {
		c.outcome = outcome{answered: true}
		return nil
	}
	return c.setOutcome(r, nil)
}

// deliverReturn implements [slices.Options].Send. Only a batch can carry a return, so there
// is no unary call.
func (c *Client) deliverReturn(ctx context.Context, item *pb.Item) error {
	attempts, err := c.newAttempts(ctx)
	if err != nil {
		return err
	}
	call := &returnCall{}
	call.item.Call = item.GetCall()
	answered, err := c.askOwner(ctx, &attempts, item.GetSliceReturn().GetKey(), &call.envelope, call)
	var invalid *InvalidError
	switch {
	case err == nil && !answered:
		return status.Error(codes.Unavailable, "the owner does not answer")
	case errors.As(err, &invalid):
		return fmt.Errorf("%w: %w", slices.ErrRejected, err)
	}
	return err
}
