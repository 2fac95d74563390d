// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/cluster/ownership"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Router answers any call, whoever owns its key. It is safe for concurrent use,
// but for [Router.SetTopology] and [Router.Run].
type Router struct {
	pb.UnimplementedRateLimiterServer

	name            string
	boot            uint64
	local, fallback *server.Service
	keys            func() [][]byte
	dial            []grpc.DialOption
	timeout         time.Duration
	log             *slog.Logger
	metrics         *metrics
	outbox          *outbox.Outbox

	view atomic.Pointer[view] // never nil
	step sync.Mutex           // held to replace view

	drain    chan struct{} // closed by Drain
	drained  sync.Once
	refusals struct{ keys, members seldom } // that are logged

	retired struct {
		sync.Mutex
		peers []retiring
		ended bool          // nobody closes what is retired
		due   chan struct{} // cap 1: one look is enough for all; never closed
	}
}

var _ pb.RateLimiterServer = (*Router)(nil)

// New returns a router that knows of no other member: it decides everything
// itself until it gets a topology. The caller must Run it.
func New(o Options) (*Router, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	roles, err := ownership.New(o.Name, o.Boot)
	if err != nil {
		return nil, err
	}
	r := &Router{
		name: o.Name, boot: o.Boot, local: o.Local, fallback: o.Fallback,
		keys: o.Keys, dial: o.Dial, timeout: o.Timeout, log: o.Logger,
		metrics: newMetrics(o.Registry), drain: make(chan struct{}),
	}
	r.retired.due = make(chan struct{}, 1)
	if r.outbox, err = outbox.New(outbox.Options{
		Deliver:    r.deliver,
		Owner:      r.ownerOf,
		MaxEntries: o.MaxOutbox,
		Logger:     o.Logger,
		Events:     outbox.Events{Dropped: func(*pb.Item, outbox.Reason, error) { r.metrics.dropped.Inc() }},
	}); err != nil {
		return nil, err
	}
	first := &view{roles: roles, alone: true, roster: 1}
	first.feed = newFeed(1, first)
	r.view.Store(first)
	if o.Registry != nil {
		o.Registry.MustRegister(newCollector(r))
	}
	return r, nil
}

// Run tells owners what was decided without them, and closes the links to
// members that went. It returns when ctx is done, and closes all links then: by
// that time no more calls should come, and [Router.Flush] should have been
// called.
func (r *Router) Run(ctx context.Context) error {
	var closer sync.WaitGroup
	closer.Go(func() { r.closeRetired(ctx) })
	err := r.outbox.Run(ctx)
	closer.Wait()
	r.outbox.Close()
	r.closePeers()
	return err
}

// Drain ends the streams that others have to this node, so that grpc's
// GracefulStop can finish. What they ask afterwards they ask on a new stream, or
// somebody else.
func (r *Router) Drain() { r.drained.Do(func() { close(r.drain) }) }

// Flush waits until owners were told of all that was decided without them, or
// until ctx is done: then it returns an error that says how much is left.
func (r *Router) Flush(ctx context.Context) error { return r.outbox.Flush(ctx) }

// Roster returns how many members may be deciding somewhere: what a fallback's
// share of a limit is divided by.
func (r *Router) Roster() int { return r.view.Load().roster }

// Check implements pb.RateLimiterServer.
func (r *Router) Check(ctx context.Context, q *pb.CheckRequest) (*pb.Decision, error) {
	v := r.view.Load()
	if v.mine(ring.PartitionOf(q.GetKey())) {
		return r.local.Check(ctx, q)
	}
	result := r.decide(ctx, v, &pb.Item{Call: &pb.Item_Check{Check: q}})
	return result.GetDecision(), errorOf(result)
}

// Reserve implements pb.RateLimiterServer.
func (r *Router) Reserve(ctx context.Context, q *pb.ReserveRequest) (*pb.Decision, error) {
	v := r.view.Load()
	if v.mine(ring.PartitionOf(q.GetKey())) && !reserved(q.GetRequestId()) {
		return r.local.Reserve(ctx, q)
	}
	result := r.decide(ctx, v, &pb.Item{Call: &pb.Item_Reserve{Reserve: q}})
	return result.GetDecision(), errorOf(result)
}

// Settle implements pb.RateLimiterServer.
func (r *Router) Settle(ctx context.Context, q *pb.SettleRequest) (*pb.Settlement, error) {
	v := r.view.Load()
	if v.mine(ring.PartitionOf(q.GetKey())) && !reserved(q.GetRequestId()) {
		done, err := r.local.Settle(ctx, q)
		if err == nil || grpcstatus.Code(err) != codes.NotFound {
			return done, err
		}
		return r.settledAlso(err, &pb.Item{Call: &pb.Item_Settle{Settle: q}})
	}
	result := r.decide(ctx, v, &pb.Item{Call: &pb.Item_Settle{Settle: q}})
	return result.GetSettlement(), errorOf(result)
}

// Cancel implements pb.RateLimiterServer.
func (r *Router) Cancel(ctx context.Context, q *pb.CancelRequest) (*pb.Settlement, error) {
	v := r.view.Load()
	if v.mine(ring.PartitionOf(q.GetKey())) && !reserved(q.GetRequestId()) {
		done, err := r.local.Cancel(ctx, q)
		if err == nil || grpcstatus.Code(err) != codes.NotFound {
			return done, err
		}
		return r.settledAlso(err, &pb.Item{Call: &pb.Item_Cancel{Cancel: q}})
	}
	result := r.decide(ctx, v, &pb.Item{Call: &pb.Item_Cancel{Cancel: q}})
	return result.GetSettlement(), errorOf(result)
}

// Peek implements pb.RateLimiterServer.
func (r *Router) Peek(ctx context.Context, q *pb.PeekRequest) (*pb.PeekResponse, error) {
	v := r.view.Load()
	if v.mine(ring.PartitionOf(q.GetKey())) {
		return r.local.Peek(ctx, q)
	}
	result := r.decide(ctx, v, &pb.Item{Call: &pb.Item_Peek{Peek: q}})
	return result.GetLimits(), errorOf(result)
}

// settledAlso looks at a reservation that the local service does not know of: it
// may have been made here in fallback, before this member became the owner. If
// not, err is the answer.
func (r *Router) settledAlso(err error, item *pb.Item) (*pb.Settlement, error) {
	c := &call{item: item}
	if !r.settleHere(c) {
		return nil, err
	}
	return c.result.GetSettlement(), errorOf(c.result)
}
