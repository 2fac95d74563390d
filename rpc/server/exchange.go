// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/codec"
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
	case *pb.Item_Count:
		return c.hits(call.Count)
	}
	return errNoCall
}

var errNoCall = wrong("call", "none", "must be check, reserve, settle, cancel or peek")

// Answer decides the items of a batch, all at one instant, and puts the answer or
// the error of each into results, which has the same length. An item whose result
// is there already is left alone: its decider is another member, say.
//
// A wrong item costs the others nothing, and one whose time has run out is
// charged nothing. Checks under one root are decided in their order. A check and
// a call of another kind in the same batch are under way at the same time, so
// either may come first.
//
// A replay is charged whatever the limits say, and a count names its limit
// itself: the caller makes sure that they come from a member.
func (s *Service) Answer(items []*pb.Item, results []*pb.Result) {
	d := s.Decide(items, results)
	defer d.Release()
	d.answers(results)
}

// Decided is what came of a batch. It is used until Release, by one goroutine.
type Decided struct {
	service *Service
	batch   batch
	calls   []*call // by item; nil: its result says what came of it
	others  []*call // those that are not in batch
	reply   reusedReply
}

// Decide is [Service.Answer] in two steps, for those who need the answers in
// bytes: it puts only errors into results. The answers come from
// [Decided.Append].
func (s *Service) Decide(items []*pb.Item, results []*pb.Result) *Decided {
	now, d, decided := s.now(), s.answered.Get().(*Decided), 0
	for i, item := range items {
		d.calls = append(d.calls, nil)
		if results[i] != nil {
			continue
		}
		c := s.begin()
		if err := s.answer(now, c, item); err != nil {
			results[i] = failed(s.refused(err))
			s.end(c)
			continue
		}
		d.calls[i] = c
		if c.kind == asksCheck {
			d.batch.add(i, c)
			continue
		}
		d.others = append(d.others, c)
		if (c.kind == asksReserve || c.kind == asksCount) && s.decided(c) {
			decided++
		}
	}
	asked := &d.batch
	s.engine.CheckBatch(now, asked.requests, asked.decisions, asked.errs)
	for j, c := range asked.calls {
		if i, err := asked.index[j], asked.errs[j]; err != nil {
			results[i] = failed(s.refused(err))
			d.calls[i] = nil
		} else if s.decided(c) {
			decided++
		}
	}
	s.took(now, decided)
	return d
}

// Append appends the encoded result of every item, each as a field of
// pb.Answers, and each with its term. It sets the terms of those that results
// has: these may be others by now than Decide left there.
func (d *Decided) Append(wire []byte, results []*pb.Result, terms []uint64) []byte {
	for i, c := range d.calls {
		if r := results[i]; r != nil {
			r.Term = terms[i]
			wire = codec.AppendResult(wire, r)
			continue
		}
		r := d.reply.result(d.service, c)
		r.Term = terms[i]
		wire = codec.AppendResult(wire, r)
	}
	return wire
}

// answers puts the answers where no results are.
func (d *Decided) answers(results []*pb.Result) {
	made := d.makeReplies()
	for i, c := range d.calls {
		if c != nil {
			results[i] = made.result(d.service, c)
		}
	}
}

// Release ends the use of d.
func (d *Decided) Release() {
	for _, c := range d.others {
		d.service.end(c)
	}
	d.service.clear(&d.batch)
	if cap(d.calls) > 2*MaxBatchItems {
		return
	}
	clear(d.others)
	clear(d.calls)
	d.others, d.calls = d.others[:0], d.calls[:0]
	d.service.answered.Put(d)
}

// answer decides one item, but only prepares a check. What comes of it is in c.
func (s *Service) answer(now limiter.Time, c *call, item *pb.Item) error {
	if item.GetTimeoutNanos() < 0 {
		return context.DeadlineExceeded
	}
	c.request.Force, c.request.Attempt = item.GetReplay(), item.GetAttempt()
	switch call := item.GetCall().(type) {
	case *pb.Item_Check:
		c.kind = asksCheck
		return s.prepareCheck(c, call.Check)
	case *pb.Item_Reserve:
		c.kind = asksReserve
		return s.reserveAt(now, c, call.Reserve)
	case *pb.Item_Settle:
		c.kind, c.reservation = asksSettle, call.Settle.GetRequestId()
		return s.settleAt(now, c, call.Settle)
	case *pb.Item_Cancel:
		c.kind, c.reservation = asksSettle, call.Cancel.GetRequestId()
		if attempt := item.GetAttempt(); attempt != 0 {
			return s.withdrawAt(now, c, call.Cancel, attempt)
		}
		return s.cancelAt(now, c, call.Cancel)
	case *pb.Item_Peek:
		c.kind = asksPeek
		return s.peekAt(now, c, call.Peek)
	case *pb.Item_Count:
		c.kind = asksCount
		return s.countAt(now, c, call.Count)
	}
	return errNoCall
}

func failed(err error) *pb.Result {
	return &pb.Result{Result: &pb.Result_Error{Error: Describe(err)}}
}

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

func (d *Decided) makeReplies() *replies {
	var decisions, settlements, seen, counted int
	for _, c := range d.calls {
		switch {
		case c == nil:
		case c.kind == asksSettle:
			settlements++
		case c.kind == asksPeek:
			seen++
		case c.kind == asksCount:
			counted++
		default:
			decisions++
		}
	}
	return &replies{
		decisions:   make([]decisionReply, decisions),
		settlements: make([]settlementReply, settlements),
		seen:        make([]seenReply, seen),
		counted:     make([]countedReply, counted),
		room:        space{answers: decisions + settlements + seen},
	}
}

func (m *replies) result(s *Service, c *call) *pb.Result {
	switch c.kind {
	case asksSettle:
		r := &m.settlements[0]
		m.settlements = m.settlements[1:]
		r.chosen.Settlement = s.fillSettlement(&r.answer, c.reservation, c, &m.room)
		r.result.Result = &r.chosen
		return &r.result
	case asksPeek:
		r := &m.seen[0]
		m.seen = m.seen[1:]
		r.chosen.Limits = s.fillSeen(&r.answer, c, &m.room)
		r.result.Result = &r.chosen
		return &r.result
	case asksCount:
		r := &m.counted[0]
		m.counted = m.counted[1:]
		r.chosen.Counted = s.fillCounted(&r.answer, c)
		r.result.Result = &r.chosen
		return &r.result
	default:
		r := &m.decisions[0]
		m.decisions = m.decisions[1:]
		r.chosen.Decision = s.fill(&r.answer, c, &m.room)
		r.result.Result = &r.chosen
		return &r.result
	}
}
