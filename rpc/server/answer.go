// SPDX-License-Identifier: Apache-2.0

package server

import (
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Answers are made in few pieces of memory: one for a single answer with as many
// limits as usual, a few for a whole batch.

// decisionAnswer is a pb.Decision in one piece with all that it points to, but
// for its limits.
type decisionAnswer struct {
	decision pb.Decision
	retry    durationpb.Duration
	waited   durationpb.Duration
	granted  int64
	binding  int32
}

// limitAnswer is a pb.LimitState in one piece with what it points to.
type limitAnswer struct {
	state  pb.LimitState
	reset  timestamppb.Timestamp
	window durationpb.Duration
	wait   durationpb.Duration
}

// space is memory for the limits of answers. It grows when it must.
type space struct {
	limits []limitAnswer
	list   []*pb.LimitState
	// answers, which are still to come, bounds what is made at once.
	answers int
	omit    bool // answers have no limits
}

// spaceAtOnce bounds what a space grows by, in limits: about 32 KiB, beyond which
// the allocator is slow.
const spaceAtOnce = 96

// take returns room for n limits of the next answer.
func (s *space) take(n int) ([]limitAnswer, []*pb.LimitState) {
	grow := max(n, min(n*s.answers, spaceAtOnce))
	if len(s.limits) < n {
		s.limits = make([]limitAnswer, grow)
	}
	if len(s.list) < n {
		s.list = make([]*pb.LimitState, grow)
	}
	s.answers--
	limits, list := s.limits[:n:n], s.list[:n:n]
	s.limits, s.list = s.limits[n:], s.list[n:]
	return limits, list
}

// fill makes the answer of a check or a reserve in a, with limits from room. Like the
// other fill functions it sets every field, so that the memory of an earlier answer can
// be used.
func (s *Service) fill(a *decisionAnswer, x *scratch, room *space) *pb.Decision {
	d, p := &x.decision, &a.decision
	p.Outcome = outcome(d.Outcome)
	p.Reason = reason(d.Reason)
	p.RequestId = x.request.ID
	p.Tier = d.Tier
	p.RetryAfter, p.GrantedOutputTokens, p.Binding = nil, nil, nil
	if d.Outcome == limiter.Denied && d.RetryAfter >= 0 {
		a.retry.Seconds, a.retry.Nanos = split(int64(d.RetryAfter))
		p.RetryAfter = &a.retry
	}
	if x.kind == call.Reserve && d.Outcome != limiter.Denied {
		a.granted = d.GrantedOutputTokens
		p.GrantedOutputTokens = &a.granted
	}
	if d.Binding >= 0 && d.Binding < len(d.Limits) {
		a.binding = int32(d.Binding)
		p.Binding = &a.binding
	}
	p.Limits = limits(d.Limits, room)
	p.PolicyVersion = s.versionOf(d.PolicyVersion)
	p.Owner = s.owner
	p.Route = s.route
	p.Replayed = d.Replayed
	p.BoundOutput = x.kind == call.Reserve && d.Outcome != limiter.Denied && x.plan.BoundOutput
	x.wait.fill(a)
	p.Priority = pb.Priority(x.class())
	return p
}

// fillSettlement makes the answer of a settle or cancel in p.
func (s *Service) fillSettlement(p *pb.Settlement, x *scratch, room *space) *pb.Settlement {
	d := &x.decision
	p.RequestId = x.callerID
	p.Status = status(d.Status)
	p.Tier = d.Tier
	p.Limits = limits(d.Limits, room)
	p.PolicyVersion = s.versionOf(d.PolicyVersion)
	p.Owner = s.owner
	p.Route = s.route
	return p
}

// fillSeen makes the answer of a peek in p.
func (s *Service) fillSeen(p *pb.PeekResponse, x *scratch, room *space) *pb.PeekResponse {
	d := &x.decision
	p.Tier = d.Tier
	p.Limits = limits(d.Limits, room)
	p.PolicyVersion = s.versionOf(d.PolicyVersion)
	p.Owner = s.owner
	p.Route = s.route
	return p
}

// limits makes the states, in room.
func limits(states []limiter.LimitState, room *space) []*pb.LimitState {
	if len(states) == 0 || room.omit {
		return nil
	}
	answers, list := room.take(len(states))
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
		p.Credit = from.Credit
		p.Shadow = from.Shadow
		p.Hidden = from.Hidden
		p.PerModel = from.PerModel
		p.Exceeded = from.Exceeded
		p.Capacity = from.Capacity
		p.Headroom = from.Headroom
		p.ResetAt, p.Window, p.MaxWait = nil, nil, nil
		if from.Queue.MaxWait > 0 {
			a.wait.Seconds, a.wait.Nanos = split(int64(from.Queue.MaxWait))
			p.MaxWait = &a.wait
		}
		if from.ResetAt > 0 {
			a.reset.Seconds, a.reset.Nanos = split(from.ResetAt)
			p.ResetAt = &a.reset
		}
		if from.Window > 0 {
			a.window.Seconds, a.window.Nanos = split(int64(from.Window))
			p.Window = &a.window
		}
		list[i] = p
	}
	return list
}

// split turns nanoseconds that are not negative into the form of protobuf.
func split(ns int64) (seconds int64, nanos int32) { return ns / 1e9, int32(ns % 1e9) }

// The enums of the wire count as the limiter's do; a test holds them together.

func outcome(o limiter.Outcome) pb.Outcome         { return pb.Outcome(o) }
func reason(r limiter.Reason) pb.Reason            { return pb.Reason(r) }
func status(s limiter.Status) pb.ReservationStatus { return pb.ReservationStatus(s) }
