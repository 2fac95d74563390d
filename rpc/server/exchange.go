// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// MaxBatchItems bounds a batch of a stream.
const MaxBatchItems = 512

// Validate says what is wrong with the call of item, without a look at policy or
// state; nil if nothing is. The error has a status and is counted, as that of a
// call is. A call that was validated may still be refused: its tier may be
// unknown.
func (s *Service) Validate(item *pb.Item) error {
	c := s.begin()
	defer s.end(c)
	if err := c.item(item); err != nil {
		return s.refused(err)
	}
	return nil
}

// ValidateBatch refuses a batch that is too large. The error has a status, with
// which a stream may end, and is counted.
func (s *Service) ValidateBatch(b *pb.Batch) error {
	return s.tooMany(len(b.GetItems()), MaxBatchItems)
}

// item validates the call of an item.
func (c *call) item(item *pb.Item) error {
	switch call := item.GetCall().(type) {
	case *pb.Item_Check:
		return c.check(call.Check)
	case *pb.Item_Reserve:
		return c.reserve(call.Reserve)
	case *pb.Item_Settle:
		return c.usage(call.Settle)
	case *pb.Item_Cancel:
		return checkReservation(call.Cancel.GetKey(), call.Cancel.GetRequestId())
	case *pb.Item_Peek:
		return c.scope(call.Peek.GetKey(), call.Peek.GetTier(), call.Peek.GetModel())
	}
	return errNoCall
}

var errNoCall = wrong("call", "none", "must be check, reserve, settle, cancel or peek")

// Answer decides the items of a batch that came over a stream, all at one
// instant, and puts the answer or the error of each into results, which has the
// same length. An item whose result is there already is left alone: its decider
// is another member, say.
//
// A wrong item costs the others nothing, and one whose time has run out is
// charged nothing. Checks under one root are decided in their order. A check and
// a call of another kind in the same batch are under way at the same time, so
// either may come first.
//
// A replay is charged whatever the limits say: the caller makes sure that it
// comes from a member.
func (s *Service) Answer(items []*pb.Item, results []*pb.Result) {
	now, checks, made := s.now(), s.beginBatch(), makeReplies(items, results)
	defer s.endBatch(checks)
	for i, item := range items {
		if results[i] != nil {
			continue
		}
		c := s.begin()
		r, err := s.answer(now, c, item, made)
		switch {
		case err != nil:
			results[i] = failed(s.refused(err))
		case r == nil:
			checks.add(i, c)
			continue
		default:
			results[i] = r
		}
		s.end(c)
	}
	s.engine.CheckBatch(now, checks.requests, checks.decisions, checks.errs)
	for j, c := range checks.calls {
		if i, err := checks.index[j], checks.errs[j]; err != nil {
			results[i] = failed(s.refused(err))
		} else {
			results[i] = made.decision(s, c)
		}
	}
	s.took(now, made.decided)
}

// answer decides one item. It only prepares a check, and returns nothing for it.
func (s *Service) answer(now limiter.Time, c *call, item *pb.Item, made *replies) (*pb.Result, error) {
	if item.GetTimeoutNanos() < 0 {
		return nil, context.DeadlineExceeded
	}
	c.request.Force = item.GetReplay()
	switch call := item.GetCall().(type) {
	case *pb.Item_Check:
		return nil, s.prepareCheck(c, call.Check)
	case *pb.Item_Reserve:
		if err := s.reserveAt(now, c, call.Reserve); err != nil {
			return nil, err
		}
		return made.decision(s, c), nil
	case *pb.Item_Settle:
		if err := s.settleAt(now, c, call.Settle); err != nil {
			return nil, err
		}
		return made.settlement(s, c, call.Settle.GetRequestId()), nil
	case *pb.Item_Cancel:
		if err := s.cancelAt(now, c, call.Cancel); err != nil {
			return nil, err
		}
		return made.settlement(s, c, call.Cancel.GetRequestId()), nil
	case *pb.Item_Peek:
		if err := s.peekAt(now, c, call.Peek); err != nil {
			return nil, err
		}
		return made.limits(s, c), nil
	}
	return nil, errNoCall
}

func failed(err error) *pb.Result {
	return &pb.Result{Result: &pb.Result_Error{Error: Describe(err)}}
}

// replies makes the results of a batch, all of a kind in one piece of memory.
type replies struct {
	decisions   []decisionReply
	settlements []settlementReply
	seen        []seenReply
	room        space
	decided     int // of the decisions, those that count
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

// makeReplies returns replies for the items that have no result yet.
func makeReplies(items []*pb.Item, results []*pb.Result) *replies {
	var decisions, settlements, seen int
	for i, item := range items {
		if results[i] != nil {
			continue
		}
		switch item.GetCall().(type) {
		case *pb.Item_Check, *pb.Item_Reserve:
			decisions++
		case *pb.Item_Settle, *pb.Item_Cancel:
			settlements++
		case *pb.Item_Peek:
			seen++
		}
	}
	return &replies{
		decisions:   make([]decisionReply, decisions),
		settlements: make([]settlementReply, settlements),
		seen:        make([]seenReply, seen),
		room:        space{answers: decisions + settlements + seen},
	}
}

func (m *replies) decision(s *Service, c *call) *pb.Result {
	r := &m.decisions[0]
	m.decisions = m.decisions[1:]
	r.chosen.Decision = s.fill(&r.answer, c, &m.room)
	r.result.Result = &r.chosen
	if s.decided(c) {
		m.decided++
	}
	return &r.result
}

func (m *replies) settlement(s *Service, c *call, id string) *pb.Result {
	r := &m.settlements[0]
	m.settlements = m.settlements[1:]
	r.chosen.Settlement = s.fillSettlement(&r.answer, id, c, &m.room)
	r.result.Result = &r.chosen
	return &r.result
}

func (m *replies) limits(s *Service, c *call) *pb.Result {
	r := &m.seen[0]
	m.seen = m.seen[1:]
	r.chosen.Limits = s.fillSeen(&r.answer, c, &m.room)
	r.result.Result = &r.chosen
	return &r.result
}
