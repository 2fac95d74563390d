// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/internal/tracing"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Router answers any call, whichever member owns its key. It is safe for concurrent
// use, except [Router.SetTopology] and [Router.Run].
type Router struct {
	server.API // unary calls, by Do

	name            string
	boot            uint64
	local, fallback *server.Service
	owners          Owners
	ownerless       ownerless
	keys            func() [][]byte
	dial            []grpc.DialOption
	secure          func(member string, tls bool) credentials.TransportCredentials // nil: dial has credentials
	certify         func(ctx context.Context, member string) error                 // nil: members need no certificates
	timeout         time.Duration
	log             *slog.Logger
	metrics         *metrics
	tracer          *tracing.Tracer // nil: no spans
	outbox          *outbox.Outbox
	answered        *answered
	reports         reports
	askers          askers
	lender          *lender
	holder          holder
	away            awayCalls
	sliced          sync.Pool // of *sliced

	table atomic.Pointer[routingTable] // never nil; SetTopology replaces it

	feed          atomic.Pointer[feed] // never nil; publishRings replaces it
	ownersChanged notify.Signal

	counting sync.Pool // of *counting

	drain        chan struct{} // closed by Drain
	drained      sync.Once
	rejectionLog struct{ keys, members, returns logLimiter }

	retired struct {
		sync.Mutex
		peers []retiring
		ended bool          // Run has ended: retire closes peers itself
		due   notify.Signal // peers has grown
	}
}

var _ pb.RateLimiterServer = (*Router)(nil)

// New returns a router that knows no other member. The caller must Run it.
func New(o Options) (*Router, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	r := &Router{
		name: o.Name, boot: o.Boot, local: o.Local, fallback: o.Fallback, owners: o.Owners,
		keys: o.Keys, dial: o.Dial, secure: o.Credentials, certify: o.Certify, timeout: o.Timeout, log: o.Logger,
		metrics: newMetrics(o.Registry), tracer: o.Tracer, drain: make(chan struct{}),
	}
	r.answered = newAnswered()
	r.lender = newLender(r.owners.Clock, func(slices int) { r.metrics.slicesExpired.Add(float64(slices)) })
	r.holder = newTableHolder(r.name, r.owners.Clock, r.local.NewID, r.returnSlice, r.ownerOfKey)
	if o.newHolder != nil {
		r.holder = o.newHolder(r.returnSlice)
	}
	r.reports.due, r.reports.mu.partitions = notify.New(), map[int]*partitionReport{}
	r.Decider = r
	r.local.EnableWaiting(func(partition int) uint64 { return r.owners.Place(partition).Origin })
	r.counting.New = func() any { return new(counting) }
	r.retired.due = notify.New()
	var err error
	if r.outbox, err = outbox.New(outbox.Options{
		Deliver:    r.deliver,
		Owner:      r.ownerOfItem,
		MaxEntries: o.MaxOutbox,
		Logger:     o.Logger,
		Events:     outbox.Events{Dropped: func(*pb.Item, outbox.Reason, error) { r.metrics.dropped.Inc() }},
	}); err != nil {
		return nil, err
	}
	r.table.Store(&routingTable{roster: 1, ring: &ring.Table{}})
	r.ownersChanged = notify.New()
	r.feed.Store(&feed{ring: r.ringNow(), changed: make(chan struct{})})
	if o.Registry != nil {
		o.Registry.MustRegister(newCollector(r))
	}
	return r, nil
}

// Run delivers the outbox and reports to owners, tells watchers of new owners, and closes
// the links to members that left. It returns when ctx is done, after it has closed all links. Before that, the caller
// should stop new calls and call [Router.Flush].
func (r *Router) Run(ctx context.Context) error {
	var others sync.WaitGroup
	others.Go(func() { r.closeRetired(ctx) })
	others.Go(func() { r.publishRings(ctx) })
	others.Go(func() { r.report(ctx) })
	err := r.outbox.Run(ctx)
	others.Wait()
	_ = r.ReturnSlices(ctx) // ctx is done: what was not returned before ends with its lease
	r.outbox.Close()
	r.closePeers()
	return err
}

// Drain ends the streams that members and clients have to this node, so that
// GracefulStop of grpc-go can return. They send their next calls to another member.
func (r *Router) Drain() { r.drained.Do(func() { close(r.drain) }) }

// Flush waits until the outbox is empty. If ctx is done before, it returns an error
// with the number of calls that are left.
func (r *Router) Flush(ctx context.Context) error { return r.outbox.Flush(ctx) }

// Roster returns the number of members that may be deciding. A fallback in share mode
// divides a limit by it.
func (r *Router) Roster() int { return r.table.Load().roster }
