// SPDX-License-Identifier: Apache-2.0

package server

import (
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// replies makes the results of a batch, all of a kind in one piece of memory.
type replies struct {
	decisions   []decisionReply
	settlements []settlementReply
	seen        []seenReply
	counted     []countedReply
	room        space
}

type decisionReply struct {
	result pb.Result
	chosen pb.Result_Decision
	answer decisionAnswer
}

type settlementReply struct {
	result pb.Result
	chosen pb.Result_Settlement
	answer pb.Settlement
}

type seenReply struct {
	result pb.Result
	chosen pb.Result_Limits
	answer pb.PeekResponse
}

type countedReply struct {
	result pb.Result
	chosen pb.Result_Counted
	answer pb.Counted
}

// make makes room for the results that r does not have as messages.
func (m *replies) make(r *Results) {
	var decisions, settlements, seen, counted int
	for i := range r.list {
		switch x := r.list[i].scratch; {
		case x == nil:
		case x.kind.EndsReservation():
			settlements++
		case x.kind == call.Peek:
			seen++
		case x.kind == call.Count:
			counted++
		case x.kind == call.SliceReturn, x.kind == call.Admin:
		default:
			decisions++
		}
	}
	*m = replies{
		decisions:   make([]decisionReply, decisions),
		settlements: make([]settlementReply, settlements),
		seen:        make([]seenReply, seen),
		counted:     make([]countedReply, counted),
		room:        space{answers: decisions + settlements + seen},
	}
}

// result makes the result of x in the memory of m.
func (m *replies) result(s *Service, x *scratch) *pb.Result {
	switch x.kind {
	case call.Settle, call.Cancel:
		r := &m.settlements[0]
		m.settlements = m.settlements[1:]
		return r.fill(s, x, &m.room)
	case call.Peek:
		r := &m.seen[0]
		m.seen = m.seen[1:]
		return r.fill(s, x, &m.room)
	case call.Count:
		r := &m.counted[0]
		m.counted = m.counted[1:]
		return r.fill(s, x)
	case call.SliceReturn:
		return SliceEnded()
	case call.Admin:
		return x.admin.result()
	}
	r := &m.decisions[0]
	m.decisions = m.decisions[1:]
	return r.fill(s, x, &m.room)
}

// result makes the result of x in memory of its own: for a decision one piece, with
// up to 4 limits or up to 8, of one level or two with the usual tiers.
func (s *Service) result(x *scratch) *pb.Result {
	switch x.kind {
	case call.Settle, call.Cancel:
		return new(settlementReply).fill(s, x, &space{answers: 1})
	case call.Peek:
		return new(seenReply).fill(s, x, &space{answers: 1})
	case call.Count:
		return new(countedReply).fill(s, x)
	case call.SliceReturn:
		return SliceEnded()
	case call.Admin:
		return x.admin.result()
	}
	switch n := len(x.decision.Limits); {
	case n <= 4:
		r := new(struct {
			decisionReply
			limits [4]limitAnswer
			list   [4]*pb.LimitState
		})
		return r.fill(s, x, &space{limits: r.limits[:], list: r.list[:]})
	case n <= 8:
		r := new(struct {
			decisionReply
			limits [8]limitAnswer
			list   [8]*pb.LimitState
		})
		return r.fill(s, x, &space{limits: r.limits[:], list: r.list[:]})
	}
	return new(decisionReply).fill(s, x, &space{})
}

func (r *decisionReply) fill(s *Service, x *scratch, room *space) *pb.Result {
	r.chosen.Decision = s.fill(&r.answer, x, room)
	r.result.Result = &r.chosen
	return &r.result
}

func (r *settlementReply) fill(s *Service, x *scratch, room *space) *pb.Result {
	r.chosen.Settlement = s.fillSettlement(&r.answer, x, room)
	r.result.Result = &r.chosen
	return &r.result
}

func (r *seenReply) fill(s *Service, x *scratch, room *space) *pb.Result {
	r.chosen.Limits = s.fillSeen(&r.answer, x, room)
	r.result.Result = &r.chosen
	return &r.result
}

func (r *countedReply) fill(s *Service, x *scratch) *pb.Result {
	r.chosen.Counted = s.fillCounted(&r.answer, x)
	r.result.Result = &r.chosen
	return &r.result
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

// result makes the result of x. It is good until the next one.
func (r *reusedReply) result(s *Service, x *scratch) *pb.Result {
	if n := len(x.decision.Limits); n > len(r.limits) {
		r.limits, r.list = make([]limitAnswer, n), make([]*pb.LimitState, n)
	}
	m := replies{r.decision[:], r.settlement[:], r.seen[:], r.counted[:], space{limits: r.limits, list: r.list}}
	return m.result(s, x)
}

// withoutLimits is result, but the answer has no limits.
func (r *reusedReply) withoutLimits(s *Service, x *scratch) *pb.Result {
	m := replies{r.decision[:], r.settlement[:], r.seen[:], r.counted[:], space{omit: true}}
	return m.result(s, x)
}
