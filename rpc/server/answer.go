// SPDX-License-Identifier: Apache-2.0

package server

import (
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Answers are made in few pieces of memory: one for a single answer with as many
// limits as usual, a few for a whole batch.

// decisionAnswer is a pb.Decision in one piece with all that it points to, but
// for its limits.
type decisionAnswer struct {
	decision pb.Decision
	retry    durationpb.Duration
	granted  int64
	binding  int32
}

// limitAnswer is a pb.LimitState in one piece with what it points to.
type limitAnswer struct {
	state  pb.LimitState
	reset  timestamppb.Timestamp
	window durationpb.Duration
}

// space is memory for the limits of answers. It grows when it must.
type space struct {
	limits []limitAnswer
	list   []*pb.LimitState
	// answers, which are still to come, bounds what is made at once.
	answers int
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

// decision makes the answer of c. One piece of memory holds 4 limits or 8, of
// one level or two with the usual tiers.
func (s *Service) decision(c *call) *pb.Decision {
	switch n := len(c.decision.Limits); {
	case n <= 4:
		a := new(struct {
			decisionAnswer
			limits [4]limitAnswer
			list   [4]*pb.LimitState
		})
		return s.fill(&a.decisionAnswer, c, &space{limits: a.limits[:], list: a.list[:]})
	case n <= 8:
		a := new(struct {
			decisionAnswer
			limits [8]limitAnswer
			list   [8]*pb.LimitState
		})
		return s.fill(&a.decisionAnswer, c, &space{limits: a.limits[:], list: a.list[:]})
	}
	return s.fill(new(decisionAnswer), c, &space{})
}

// fill makes the answer of c in a, with limits from room. Like the other fill functions
// it sets every field, so that the memory of an earlier answer can be used.
func (s *Service) fill(a *decisionAnswer, c *call, room *space) *pb.Decision {
	d, p := &c.decision, &a.decision
	p.Outcome = outcome(d.Outcome)
	p.Reason = reason(d.Reason)
	p.RequestId = c.request.ID
	p.Tier = d.Tier
	p.RetryAfter, p.GrantedOutputTokens, p.Binding = nil, nil, nil
	if d.Outcome == limiter.Denied && d.RetryAfter >= 0 {
		a.retry.Seconds, a.retry.Nanos = split(int64(d.RetryAfter))
		p.RetryAfter = &a.retry
	}
	if c.reserving && d.Outcome != limiter.Denied {
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
	return p
}

// settlement makes the answer of a settle or cancel of id.
func (s *Service) settlement(id string, c *call) *pb.Settlement {
	a := new(struct {
		settlement pb.Settlement
		list       [8]*pb.LimitState
	})
	return s.fillSettlement(&a.settlement, id, c, &space{list: a.list[:]})
}

func (s *Service) fillSettlement(p *pb.Settlement, id string, c *call, room *space) *pb.Settlement {
	d := &c.decision
	p.RequestId = id
	p.Status = status(d.Status)
	p.Tier = d.Tier
	p.Limits = limits(d.Limits, room)
	p.PolicyVersion = s.versionOf(d.PolicyVersion)
	p.Owner = s.owner
	p.Route = s.route
	return p
}

// seen makes the answer of a peek.
func (s *Service) seen(c *call) *pb.PeekResponse {
	return s.fillSeen(new(pb.PeekResponse), c, &space{})
}

func (s *Service) fillSeen(p *pb.PeekResponse, c *call, room *space) *pb.PeekResponse {
	d := &c.decision
	p.Tier = d.Tier
	p.Limits = limits(d.Limits, room)
	p.PolicyVersion = s.versionOf(d.PolicyVersion)
	p.Owner = s.owner
	p.Route = s.route
	return p
}

// limits makes the states, in room.
func limits(states []limiter.LimitState, room *space) []*pb.LimitState {
	if len(states) == 0 {
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
		p.Shadow = from.Shadow
		p.Exceeded = from.Exceeded
		p.Capacity = from.Capacity
		p.ResetAt, p.Window = nil, nil
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

// reusedReply makes results in the memory of the one before.
type reusedReply struct {
	decision   [1]decisionReply
	settlement [1]settlementReply
	seen       [1]seenReply
	counted    [1]countedReply
	limits     []limitAnswer
	list       []*pb.LimitState
}

// result returns the result of c. It is good until the next one.
func (r *reusedReply) result(s *Service, c *call) *pb.Result {
	if n := len(c.decision.Limits); n > len(r.limits) {
		r.limits, r.list = make([]limitAnswer, n), make([]*pb.LimitState, n)
	}
	m := replies{r.decision[:], r.settlement[:], r.seen[:], r.counted[:], space{limits: r.limits, list: r.list}}
	return m.result(s, c)
}

// split turns nanoseconds that are not negative into the form of protobuf.
func split(ns int64) (seconds int64, nanos int32) { return ns / 1e9, int32(ns % 1e9) }

// The enums of the wire count as the limiter's do; a test holds them together.

func outcome(o limiter.Outcome) pb.Outcome         { return pb.Outcome(o) }
func reason(r limiter.Reason) pb.Reason            { return pb.Reason(r) }
func status(s limiter.Status) pb.ReservationStatus { return pb.ReservationStatus(s) }
