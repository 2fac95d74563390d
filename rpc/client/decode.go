// SPDX-License-Identifier: Apache-2.0

package client

import (
	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// outcome is what the result of an item says. At most one field is set; none if it
// answers another kind of call.
type outcome struct {
	answered bool
	refused  *pb.Error
	redirect *pb.Redirect
}

// Decode implements link.Decoder.
func (c *decisionCall) Decode(result []byte) error {
	d, other, err := codec.Decisions.Decode(result)
	if d == nil {
		return c.setOutcome(other, err)
	}
	defer codec.Decisions.Release(d)
	c.outcome = outcome{answered: true}
	return c.take(d)
}

// Decode implements link.Decoder.
func (c *settlementCall) Decode(result []byte) error {
	s, other, err := codec.Settlements.Decode(result)
	if s == nil {
		return c.setOutcome(other, err)
	}
	defer codec.Settlements.Release(s)
	c.outcome = outcome{answered: true}
	return c.take(s)
}

// Decode implements link.Decoder.
func (c *stateCall) Decode(result []byte) error {
	p, other, err := codec.Peeks.Decode(result)
	if p == nil {
		return c.setOutcome(other, err)
	}
	defer codec.Peeks.Release(p)
	c.outcome = outcome{answered: true}
	return c.take(p)
}

// setOutcome sets the outcome of an item that has no answer.
func (e *envelope) setOutcome(r *pb.Result, err error) error {
	e.outcome = outcome{refused: r.GetError(), redirect: r.GetRedirect()}
	return err
}

// take sets the answer, with the request id of the node: it differs from the one that
// was sent if the reservation was made in fallback. The message may be reused after.
func (c *decisionCall) take(d *pb.Decision) error {
	r := answerReader{hints: &c.hints}
	c.granted = d.GetGrantedOutputTokens()
	a := &c.answer
	*a = Decision{
		Outcome:       word(outcomeNames[:], d.GetOutcome()),
		Reason:        word(reasonNames[:], d.GetReason()),
		RequestID:     r.requestID(d.GetRequestId()),
		Tier:          r.text(d.GetTier()),
		Limits:        r.limits(d.GetLimits()),
		PolicyVersion: r.text(d.GetPolicyVersion()),
		Owner:         r.text(d.GetOwner()),
		Route:         word(routeNames[:], d.GetRoute()),
		Replayed:      d.GetReplayed(),
	}
	if a.RequestID == "" {
		a.RequestID = c.hints.sent
	}
	if d.GetRetryAfter() != nil {
		a.RetryAfter = max(d.GetRetryAfter().AsDuration(), 1)
	}
	if i := int(d.GetBinding()); d != nil && d.Binding != nil && i >= 0 && i < len(a.Limits) {
		a.Binding = a.Limits[i]
	}
	return r.err
}

func (c *settlementCall) take(s *pb.Settlement) error {
	r := answerReader{hints: &c.hints}
	c.answer = Settlement{
		RequestID:     r.requestID(s.GetRequestId()),
		Status:        word(statusNames[:], s.GetStatus()),
		Tier:          r.text(s.GetTier()),
		Limits:        r.limits(s.GetLimits()),
		PolicyVersion: r.text(s.GetPolicyVersion()),
		Owner:         r.text(s.GetOwner()),
		Route:         word(routeNames[:], s.GetRoute()),
	}
	return r.err
}

func (c *stateCall) take(p *pb.PeekResponse) error {
	r := answerReader{hints: &c.hints}
	c.answer = State{
		Tier:          r.text(p.GetTier()),
		Limits:        r.limits(p.GetLimits()),
		PolicyVersion: r.text(p.GetPolicyVersion()),
		Owner:         r.text(p.GetOwner()),
		Route:         word(routeNames[:], p.GetRoute()),
	}
	return r.err
}

// answerReader reads messages whose memory is reused: it copies their strings. The
// first one that is invalid sets err.
type answerReader struct {
	hints *hints
	err   error
}

func (r *answerReader) text(s string) string      { return r.valid(r.hints.strings.intern(s)) }
func (r *answerReader) requestID(s string) string { return r.valid(r.hints.requestID(s)) }
func (r *answerReader) scope(s string) string     { return r.valid(r.hints.scope(s)) }

func (r *answerReader) valid(s string, err error) string {
	if err != nil && r.err == nil {
		r.err = err
	}
	return s
}

func (r *answerReader) limits(in []*pb.LimitState) []LimitState {
	if len(in) == 0 {
		return nil
	}
	out := make([]LimitState, len(in))
	for i, l := range in {
		s := &out[i]
		s.Name = r.text(l.GetName())
		s.Dimension = r.text(l.GetDimension())
		s.Scope = r.scope(l.GetScope())
		s.Algorithm = r.text(l.GetAlgorithm())
		s.Limit = l.GetLimit()
		s.Capacity = l.GetCapacity()
		s.Remaining = l.GetRemaining()
		s.Debt = l.GetDebt()
		s.Window = l.GetWindow().AsDuration()
		s.Cost = l.GetCost()
		s.Shadow = l.GetShadow()
		s.Exceeded = l.GetExceeded()
		if at := l.GetResetAt(); at.GetSeconds() != 0 || at.GetNanos() != 0 {
			s.ResetAt = at.AsTime()
		}
	}
	return out
}
