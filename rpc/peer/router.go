// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/cluster/ownership"
	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Router answers any call, whoever owns its key. It is safe for concurrent use,
// but for [Router.SetTopology] and [Router.Run].
type Router struct {
	server.API // unary calls, by Do

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

	counting sync.Pool // of *counting

	drain        chan struct{} // closed by Drain
	drained      sync.Once
	rejectionLog struct{ keys, members logLimiter }

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
	r.API.Decider = r
	r.counting.New = func() any { return new(counting) }
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
