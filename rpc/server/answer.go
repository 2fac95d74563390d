// SPDX-License-Identifier: Apache-2.0

package server

import (
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// decisionAnswer is a pb.Decision in one piece of memory with all that it
// points to, but for its limits.
type decisionAnswer struct {
	decision pb.Decision
	retry    durationpb.Duration
	granted  int64
	binding  int32
	list     [8]*pb.LimitState // as many as usual
}

// fill makes the answer of c, but for the grant.
func (s *Service) fill(a *decisionAnswer, c *call) {
	d, p := &c.decision, &a.decision
	p.Outcome = outcome(d.Outcome)
	p.Reason = reason(d.Reason)
	p.RequestId = c.request.ID
	p.Tier = d.Tier
	if d.Outcome == limiter.Denied && d.RetryAfter >= 0 {
		a.retry.Seconds, a.retry.Nanos = split(int64(d.RetryAfter))
		p.RetryAfter = &a.retry
	}
	if d.Binding >= 0 && d.Binding < len(d.Limits) {
		a.binding = int32(d.Binding)
		p.Binding = &a.binding
	}
	p.Limits = limits(d.Limits, a.list[:0])
	p.PolicyVersion = s.versionOf(d.PolicyVersion)
	p.Owner = s.owner
	p.Route = pb.Route_ROUTE_LOCAL
	p.Replayed = d.Replayed
}

// grant adds what a reserve may generate.
func (a *decisionAnswer) grant(tokens int64) {
	a.granted = tokens
	a.decision.GrantedOutputTokens = &a.granted
}

func (s *Service) settlement(id string, d *limiter.Decision) *pb.Settlement {
	return &pb.Settlement{
		RequestId:     id,
		Status:        status(d.Status),
		Tier:          d.Tier,
		Limits:        limits(d.Limits, nil),
		PolicyVersion: s.versionOf(d.PolicyVersion),
		Owner:         s.owner,
		Route:         pb.Route_ROUTE_LOCAL,
	}
}

// limitAnswer is a pb.LimitState in one piece with what it points to.
type limitAnswer struct {
	state  pb.LimitState
	reset  timestamppb.Timestamp
	window durationpb.Duration
}

// limits makes the states in one piece, and lists them in list if it is large
// enough.
func limits(states []limiter.LimitState, list []*pb.LimitState) []*pb.LimitState {
	if len(states) == 0 {
		return nil
	}
	answers := make([]limitAnswer, len(states))
	list = slices.Grow(list, len(states))
	for i := range states {
		from, a := &states[i], &answers[i]
		p := &a.state
		p.Name = from.Name
		p.Dimension = string(from.Dimension)
		p.Scope = from.Scope
		p.Algorithm = from.Algorithm.String()
		p.Limit = from.Limit
		p.Remaining = from.Remaining
		p.Debt = from.Debt
		p.Cost = from.Cost
		p.Shadow = from.Shadow
		p.Exceeded = from.Exceeded
		p.Capacity = from.Capacity
		if from.ResetAt > 0 {
			a.reset.Seconds, a.reset.Nanos = split(from.ResetAt)
			p.ResetAt = &a.reset
		}
		if from.Window > 0 {
			a.window.Seconds, a.window.Nanos = split(int64(from.Window))
			p.Window = &a.window
		}
		list = append(list, p)
	}
	return list
}

// split turns nanoseconds that are not negative into the form of protobuf.
func split(ns int64) (seconds int64, nanos int32) { return ns / 1e9, int32(ns % 1e9) }

// The enums of the wire count as the limiter's do; a test holds them together.

func outcome(o limiter.Outcome) pb.Outcome         { return pb.Outcome(o) }
func reason(r limiter.Reason) pb.Reason            { return pb.Reason(r) }
func status(s limiter.Status) pb.ReservationStatus { return pb.ReservationStatus(s) }
