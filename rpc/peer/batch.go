// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// keyed is a request.
type keyed interface{ GetKey() string }

// refusedOrMine reports whether the local service is to answer a whole batch,
// because it refuses it or because this process decides all of it.
func refusedOrMine[Q keyed](v *view, items []Q) bool {
	if len(items) > server.MaxItems {
		return true
	}
	for _, q := range items {
		if !v.mine(ring.PartitionOf(q.GetKey())) {
			return false
		}
	}
	return true
}

// noneReserved reports whether no item has the id of a reservation that was made
// in fallback.
func noneReserved[Q interface{ GetRequestId() string }](items []Q) bool {
	for _, q := range items {
		if reserved(q.GetRequestId()) {
			return false
		}
	}
	return true
}

// decideAll decides items, each wherever that has to be. Those of other members
// are under way together while this process decides its own.
func decideAll[Q keyed](ctx context.Context, r *Router, v *view, requests []Q, wrap func(*pb.Item, Q)) ([]*pb.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, grpcstatus.FromContextError(err).Err()
	}
	began, limited := time.Now(), r.limit(ctx)
	items, wrapped := make([]*pb.Item, len(requests)), make([]pb.Item, len(requests))
	results := make([]*pb.Result, len(requests))
	calls := make([]call, 0, len(requests))
	index := make([]int, 0, len(requests)) // of calls in results
	underWay := new(pb.Result)             // stands for the result of a call that the local service leaves alone
	for i, q := range requests {
		items[i] = &wrapped[i]
		wrap(items[i], q)
		if v.mine(ring.PartitionOf(q.GetKey())) && !reserved(reservationOf(items[i])) && checkNewID(items[i]) == nil {
			continue
		}
		calls, index = append(calls, call{}), append(index, i)
		results[i] = underWay
		if c := &calls[len(calls)-1]; r.prepare(c, items[i]) {
			r.start(limited, v, c)
		}
	}
	r.local.Answer(items, results)
	r.settledHere(items, results)
	for j := range calls {
		c := &calls[j]
		r.finish(limited, c)
		r.observe(c, began)
		results[index[j]] = c.result
	}
	return results, nil
}

// CheckBatch implements pb.RateLimiterServer. Items of one partition keep their
// order.
func (r *Router) CheckBatch(ctx context.Context, b *pb.CheckBatchRequest) (*pb.DecisionBatch, error) {
	v := r.view.Load()
	if refusedOrMine(v, b.GetItems()) {
		return r.local.CheckBatch(ctx, b)
	}
	results, err := decideAll(ctx, r, v, b.GetItems(), func(item *pb.Item, q *pb.CheckRequest) {
		item.Call = &pb.Item_Check{Check: q}
	})
	return decisionBatch(results), err
}

// Charge charges checks whatever the limits say, slots and limits of 0 included: it
// is for what has been used already. A bucket owes at most one capacity, as after a
// settle. Only a key for which there is no room is denied. An owner that cannot be
// reached is told later, and if there is no room to remember that, the result is an
// error. It is no decision, and is counted as none.
func (r *Router) Charge(ctx context.Context, b *pb.CheckBatchRequest) (*pb.DecisionBatch, error) {
	if n := len(b.GetItems()); n > server.MaxItems {
		return nil, wrongField("items", strconv.Itoa(n), "must be at most "+strconv.Itoa(server.MaxItems))
	}
	results, err := decideAll(ctx, r, r.view.Load(), b.GetItems(), func(item *pb.Item, q *pb.CheckRequest) {
		item.Call, item.Replay = &pb.Item_Check{Check: q}, true
	})
	return decisionBatch(results), err
}

// ReserveBatch implements pb.RateLimiterServer.
func (r *Router) ReserveBatch(ctx context.Context, b *pb.ReserveBatchRequest) (*pb.DecisionBatch, error) {
	v := r.view.Load()
	if refusedOrMine(v, b.GetItems()) && noneReserved(b.GetItems()) {
		return r.local.ReserveBatch(ctx, b)
	}
	results, err := decideAll(ctx, r, v, b.GetItems(), func(item *pb.Item, q *pb.ReserveRequest) {
		item.Call = &pb.Item_Reserve{Reserve: q}
	})
	return decisionBatch(results), err
}

// SettleBatch implements pb.RateLimiterServer.
func (r *Router) SettleBatch(ctx context.Context, b *pb.SettleBatchRequest) (*pb.SettlementBatch, error) {
	wrap := func(item *pb.Item, q *pb.SettleRequest) { item.Call = &pb.Item_Settle{Settle: q} }
	v := r.view.Load()
	if refusedOrMine(v, b.GetItems()) && noneReserved(b.GetItems()) {
		done, err := r.local.SettleBatch(ctx, b)
		settleAlso(r, done, b.GetItems(), wrap)
		return done, err
	}
	results, err := decideAll(ctx, r, v, b.GetItems(), wrap)
	return settlementBatch(results), err
}

// CancelBatch implements pb.RateLimiterServer.
func (r *Router) CancelBatch(ctx context.Context, b *pb.CancelBatchRequest) (*pb.SettlementBatch, error) {
	wrap := func(item *pb.Item, q *pb.CancelRequest) { item.Call = &pb.Item_Cancel{Cancel: q} }
	v := r.view.Load()
	if refusedOrMine(v, b.GetItems()) && noneReserved(b.GetItems()) {
		done, err := r.local.CancelBatch(ctx, b)
		settleAlso(r, done, b.GetItems(), wrap)
		return done, err
	}
	results, err := decideAll(ctx, r, v, b.GetItems(), wrap)
	return settlementBatch(results), err
}

// settleAlso is [Router.settledAlso] for a batch that the local service answered.
func settleAlso[Q any](r *Router, b *pb.SettlementBatch, requests []Q, wrap func(*pb.Item, Q)) {
	for i, result := range b.GetResults() {
		if codes.Code(result.GetError().GetCode()) != codes.NotFound {
			continue
		}
		c := &call{item: &pb.Item{}}
		wrap(c.item, requests[i])
		if r.settleHere(c) {
			b.Results[i] = settlementResult(c.result)
		}
	}
}

// PeekBatch implements pb.RateLimiterServer.
func (r *Router) PeekBatch(ctx context.Context, b *pb.PeekBatchRequest) (*pb.PeekBatchResponse, error) {
	v := r.view.Load()
	if refusedOrMine(v, b.GetItems()) {
		return r.local.PeekBatch(ctx, b)
	}
	results, err := decideAll(ctx, r, v, b.GetItems(), func(item *pb.Item, q *pb.PeekRequest) {
		item.Call = &pb.Item_Peek{Peek: q}
	})
	return peekBatch(results), err
}

// decisionBatch is nil without results, when there is an error instead. So are
// the others.
func decisionBatch(results []*pb.Result) *pb.DecisionBatch {
	if results == nil {
		return nil
	}
	batch := &pb.DecisionBatch{Results: make([]*pb.DecisionBatch_Result, len(results))}
	made := make([]struct {
		result pb.DecisionBatch_Result
		answer pb.DecisionBatch_Result_Decision
	}, len(results))
	for i, result := range results {
		m := &made[i]
		if e := result.GetError(); e != nil {
			m.result.Result = &pb.DecisionBatch_Result_Error{Error: e}
		} else {
			m.answer.Decision = result.GetDecision()
			m.result.Result = &m.answer
		}
		batch.Results[i] = &m.result
	}
	return batch
}

func settlementBatch(results []*pb.Result) *pb.SettlementBatch {
	if results == nil {
		return nil
	}
	batch := &pb.SettlementBatch{Results: make([]*pb.SettlementBatch_Result, len(results))}
	for i, result := range results {
		batch.Results[i] = settlementResult(result)
	}
	return batch
}

func settlementResult(result *pb.Result) *pb.SettlementBatch_Result {
	if e := result.GetError(); e != nil {
		return &pb.SettlementBatch_Result{Result: &pb.SettlementBatch_Result_Error{Error: e}}
	}
	return &pb.SettlementBatch_Result{Result: &pb.SettlementBatch_Result_Settlement{Settlement: result.GetSettlement()}}
}

func peekBatch(results []*pb.Result) *pb.PeekBatchResponse {
	if results == nil {
		return nil
	}
	batch := &pb.PeekBatchResponse{Results: make([]*pb.PeekBatchResponse_Result, len(results))}
	for i, result := range results {
		batch.Results[i] = &pb.PeekBatchResponse_Result{}
		if e := result.GetError(); e != nil {
			batch.Results[i].Result = &pb.PeekBatchResponse_Result_Error{Error: e}
		} else {
			batch.Results[i].Result = &pb.PeekBatchResponse_Result_Limits{Limits: result.GetLimits()}
		}
	}
	return batch
}
