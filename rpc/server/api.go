// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strconv"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Decider decides calls: a [Service] by itself, a router together with the other
// members.
type Decider interface {
	// Do decides all calls and returns their results, in the same order. It may
	// change the calls, and does not keep them. The results must be released.
	Do(ctx context.Context, calls []call.Call) *Results
	// Reject counts an error of a whole batch, and returns it with a gRPC status.
	Reject(err error) error
}

// API answers the unary calls of the RateLimiter service by a Decider. It is safe
// for concurrent use.
type API struct {
	pb.UnimplementedRateLimiterServer
	Decider Decider
}

var _ pb.RateLimiterServer = API{}

// batch is the memory of the calls of one request. It is pooled.
type batch struct{ calls []call.Call }

var batches = sync.Pool{New: func() any { return new(batch) }}

func (m *batch) release() {
	clear(m.calls)
	m.calls = m.calls[:0]
	batches.Put(m)
}

// do decides one request.
func (a API) do(ctx context.Context, request proto.Message) *pb.Result {
	m := batches.Get().(*batch)
	defer m.release()
	results := a.decide(ctx, m, request)
	defer results.Release()
	return results.Get(0)
}

// decide decides one request, in the memory of m. The results must be released.
func (a API) decide(ctx context.Context, m *batch, request proto.Message) *Results {
	c := call.Of(request)
	if c.Kind == call.Check || c.Kind == call.Reserve {
		c.Attempt = requestid.AttemptOf(ctx)
	}
	m.calls = append(m.calls, c)
	Authorize(auth.From(ctx), m.calls)
	return a.Decider.Do(ctx, m.calls)
}

// Check implements pb.RateLimiterServer.
func (a API) Check(ctx context.Context, r *pb.CheckRequest) (*pb.Decision, error) {
	result := a.do(ctx, r)
	return result.GetDecision(), ErrorOf(result)
}

// Reserve implements pb.RateLimiterServer.
func (a API) Reserve(ctx context.Context, r *pb.ReserveRequest) (*pb.Decision, error) {
	result := a.do(ctx, r)
	return result.GetDecision(), ErrorOf(result)
}

// Settle implements pb.RateLimiterServer.
func (a API) Settle(ctx context.Context, r *pb.SettleRequest) (*pb.Settlement, error) {
	result := a.do(ctx, r)
	return result.GetSettlement(), ErrorOf(result)
}

// Cancel implements pb.RateLimiterServer.
func (a API) Cancel(ctx context.Context, r *pb.CancelRequest) (*pb.Settlement, error) {
	result := a.do(ctx, r)
	return result.GetSettlement(), ErrorOf(result)
}

// Peek implements pb.RateLimiterServer.
func (a API) Peek(ctx context.Context, r *pb.PeekRequest) (*pb.PeekResponse, error) {
	result := a.do(ctx, r)
	return result.GetLimits(), ErrorOf(result)
}

// Batch implements pb.RateLimiterServer. It is rejected as a whole only if it has
// more than [MaxItems] items.
func (a API) Batch(ctx context.Context, b *pb.BatchRequest) (*pb.BatchResponse, error) {
	return a.batch(ctx, b, false)
}

// Charge is Batch for what has been used already: it charges whatever the limits
// say, including concurrency limits and limits of 0. The debt of a bucket stops at one
// capacity, as after a settle. Only a key for which there is no room is denied. Charges
// are not counted as decisions.
func (a API) Charge(ctx context.Context, b *pb.BatchRequest) (*pb.BatchResponse, error) {
	return a.batch(ctx, b, true)
}

func (a API) batch(ctx context.Context, b *pb.BatchRequest, charge bool) (*pb.BatchResponse, error) {
	m := batches.Get().(*batch)
	defer m.release()
	results, err := a.decideBatch(ctx, m, b, charge)
	if err != nil {
		return nil, err
	}
	defer results.Release()
	return &pb.BatchResponse{Results: results.All()}, nil
}

// decideBatch decides the items of a batch, in the memory of m. The results must be released.
func (a API) decideBatch(ctx context.Context, m *batch, b *pb.BatchRequest, charge bool) (*Results, error) {
	items := b.GetItems()
	if err := ctx.Err(); err != nil {
		return nil, wire(err)
	}
	if len(items) > MaxItems {
		return nil, a.Decider.Reject(tooMany(len(items), MaxItems))
	}
	for _, item := range items {
		c := call.FromItem(item, call.API)
		c.Replay = c.Replay || charge
		m.calls = append(m.calls, c)
	}
	Authorize(auth.From(ctx), m.calls)
	return a.Decider.Do(ctx, m.calls), nil
}

// Authorize rejects the calls of keys that their caller may not use. Each is charged nothing,
// and does not affect the others. It allocates nothing for a call that it does not reject.
func Authorize(g *auth.Grant, calls []call.Call) {
	if g.AllKeys() {
		return
	}
	for i := range calls {
		c := &calls[i]
		if err := g.ForKey(c.Key, c.Kind == call.Peek); err != nil {
			c.Err = err
		}
	}
}

func tooMany(items, limit int) error {
	return wrong("items", strconv.Itoa(items), "a batch has at most "+strconv.Itoa(limit))
}
