// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A batch answers every item on its own: a wrong item costs the others
// nothing. Only a batch that is too large is refused as a whole.

func (s *Service) admit(ctx context.Context, items int) error {
	if err := ctx.Err(); err != nil {
		return wire(err)
	}
	return s.tooMany(items, MaxItems)
}

// tooMany refuses a batch of more than most items.
func (s *Service) tooMany(items, most int) error {
	if items > most {
		return s.refused(wrong("items", decimal(int64(items)), "a batch has at most "+decimal(int64(most))))
	}
	return nil
}

// decisions is the results of a batch, in few pieces of memory.
type decisions struct {
	items []decisionItem
	room  space
}

type decisionItem struct {
	result pb.DecisionBatch_Result
	chosen pb.DecisionBatch_Result_Decision
	answer decisionAnswer
}

func makeDecisions(n int) *decisions {
	return &decisions{items: make([]decisionItem, n), room: space{answers: n}}
}

// answered makes the answer of c that of item i.
func (d *decisions) answered(s *Service, i int, c *call) {
	item := &d.items[i]
	item.chosen.Decision = s.fill(&item.answer, c, &d.room)
	item.result.Result = &item.chosen
	s.decided(c)
}

func (d *decisions) failed(i int, err error) {
	d.items[i].result.Result = &pb.DecisionBatch_Result_Error{Error: Describe(err)}
}

func (d *decisions) batch() *pb.DecisionBatch {
	results := make([]*pb.DecisionBatch_Result, len(d.items))
	for i := range d.items {
		results[i] = &d.items[i].result
	}
	return &pb.DecisionBatch{Results: results}
}

// CheckBatch implements pb.RateLimiterServer. The engine takes the items of a
// partition together; items of one partition keep their order.
func (s *Service) CheckBatch(ctx context.Context, b *pb.CheckBatchRequest) (*pb.DecisionBatch, error) {
	if err := s.admit(ctx, len(b.GetItems())); err != nil {
		return nil, err
	}
	start := s.now()
	made := makeDecisions(len(b.GetItems()))
	asked := s.beginBatch()
	defer s.endBatch(asked)
	for i, r := range b.GetItems() {
		c := s.begin()
		if err := s.prepareCheck(c, r); err != nil {
			s.end(c)
			made.failed(i, s.refused(err))
			continue
		}
		asked.add(i, c)
	}
	s.engine.CheckBatch(start, asked.requests, asked.decisions, asked.errs)
	decided := 0
	for j, c := range asked.calls {
		if i, err := asked.index[j], asked.errs[j]; err != nil {
			made.failed(i, s.refused(err))
		} else {
			made.answered(s, i, c)
			decided++
		}
	}
	s.took(start, decided)
	return made.batch(), nil
}

// ReserveBatch implements pb.RateLimiterServer.
func (s *Service) ReserveBatch(ctx context.Context, b *pb.ReserveBatchRequest) (*pb.DecisionBatch, error) {
	if err := s.admit(ctx, len(b.GetItems())); err != nil {
		return nil, err
	}
	start := s.now()
	made := makeDecisions(len(b.GetItems()))
	decided := 0
	for i, r := range b.GetItems() {
		c := s.begin()
		if err := s.reserveAt(start, c, r); err != nil {
			made.failed(i, s.refused(err))
		} else {
			made.answered(s, i, c)
			decided++
		}
		s.end(c)
	}
	s.took(start, decided)
	return made.batch(), nil
}

// SettleBatch implements pb.RateLimiterServer.
func (s *Service) SettleBatch(ctx context.Context, b *pb.SettleBatchRequest) (*pb.SettlementBatch, error) {
	if err := s.admit(ctx, len(b.GetItems())); err != nil {
		return nil, err
	}
	return settlements(b.GetItems(), s.settle), nil
}

// CancelBatch implements pb.RateLimiterServer.
func (s *Service) CancelBatch(ctx context.Context, b *pb.CancelBatchRequest) (*pb.SettlementBatch, error) {
	if err := s.admit(ctx, len(b.GetItems())); err != nil {
		return nil, err
	}
	return settlements(b.GetItems(), s.cancel), nil
}

func settlements[R any](items []R, do func(R) (*pb.Settlement, error)) *pb.SettlementBatch {
	results := make([]*pb.SettlementBatch_Result, len(items))
	for i, r := range items {
		done, err := do(r)
		if err != nil {
			results[i] = &pb.SettlementBatch_Result{Result: &pb.SettlementBatch_Result_Error{Error: Describe(err)}}
			continue
		}
		results[i] = &pb.SettlementBatch_Result{Result: &pb.SettlementBatch_Result_Settlement{Settlement: done}}
	}
	return &pb.SettlementBatch{Results: results}
}

// PeekBatch implements pb.RateLimiterServer.
func (s *Service) PeekBatch(ctx context.Context, b *pb.PeekBatchRequest) (*pb.PeekBatchResponse, error) {
	if err := s.admit(ctx, len(b.GetItems())); err != nil {
		return nil, err
	}
	results := make([]*pb.PeekBatchResponse_Result, len(b.GetItems()))
	for i, r := range b.GetItems() {
		seen, err := s.peek(r)
		if err != nil {
			results[i] = &pb.PeekBatchResponse_Result{Result: &pb.PeekBatchResponse_Result_Error{Error: Describe(err)}}
			continue
		}
		results[i] = &pb.PeekBatchResponse_Result{Result: &pb.PeekBatchResponse_Result_Limits{Limits: seen}}
	}
	return &pb.PeekBatchResponse{Results: results}, nil
}

// batch is the scratch of a CheckBatch: what its valid items ask, in order.
// All slices have the same length.
type batch struct {
	calls     []*call
	index     []int // in the caller's batch
	requests  []*limiter.Request
	decisions []*limiter.Decision
	errs      []error
}

func (b *batch) add(index int, c *call) {
	b.calls = append(b.calls, c)
	b.index = append(b.index, index)
	b.requests = append(b.requests, &c.request)
	b.decisions = append(b.decisions, &c.decision)
	b.errs = append(b.errs, nil)
}

func (s *Service) beginBatch() *batch { return s.batches.Get().(*batch) }

// endBatch puts b and its calls back.
func (s *Service) endBatch(b *batch) {
	s.clear(b)
	s.batches.Put(b)
}

// clear empties b, and puts its calls back.
func (s *Service) clear(b *batch) {
	for _, c := range b.calls {
		s.end(c)
	}
	clear(b.calls)
	clear(b.requests)
	clear(b.decisions)
	clear(b.errs)
	*b = batch{b.calls[:0], b.index[:0], b.requests[:0], b.decisions[:0], b.errs[:0]}
}
