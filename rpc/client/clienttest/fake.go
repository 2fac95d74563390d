// SPDX-License-Identifier: Apache-2.0

package clienttest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Options configure a [Fake]. The zero value works.
type Options struct {
	// Policy is the text of a policy file. Empty: the built-in policy, with the tiers free,
	// standard and enterprise.
	Policy string
	// Start is the first time of the clock. Zero: the beginning of 2026, in UTC.
	Start time.Time
	// Timeout is that of the client. 0: 10 s, so that a busy machine fails no test.
	Timeout time.Duration
}

// A Fake is a node in memory, with a client of it. It is safe for concurrent use.
type Fake struct {
	service *service
	server  *grpc.Server
	client  *client.Client
	served  chan struct{} // closed when the server has stopped

	clock struct {
		sync.Mutex
		now limiter.Time
	}
}

// New starts a fake that ends with the test. The test fails at once if o is invalid, and fails
// in the end if settlements of [client.Reservation.SettleLater] are still pending then.
func New(tb testing.TB, o Options) *Fake {
	tb.Helper()
	f, err := Start(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := f.Close(); err != nil {
			tb.Errorf("clienttest: %v", err)
		}
	})
	return f
}

// Start starts a fake that ends with [Fake.Close], for examples and TestMain. The error names
// every problem of the policy.
func Start(o Options) (*Fake, error) {
	if o.Start.IsZero() {
		o.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	engine := limiter.New(limiter.Options{})
	rules := policy.Default(engine.Catalog())
	if o.Policy != "" {
		var err error
		if rules, err = policy.Parse("policy", []byte(o.Policy), engine.Catalog()); err != nil {
			return nil, fmt.Errorf("clienttest: %w", err)
		}
	}
	f := &Fake{served: make(chan struct{})}
	f.clock.now = limiter.Time{Mono: int64(time.Hour), Wall: o.Start.UnixNano()}
	f.service = newService(server.New(server.Options{
		Engine: engine,
		Policy: func() server.Policy { return rules },
		Now:    f.time,
		Name:   "fake",
	}))
	listener := bufconn.Listen(64 << 10)
	f.server = grpc.NewServer()
	pb.RegisterRateLimiterServer(f.server, f.service)
	go func() {
		defer close(f.served)
		_ = f.server.Serve(listener) // until Close; a dead server is seen by its callers
	}()
	var err error
	f.client, err = client.Dial(client.Options{
		Addrs: []string{"passthrough:///fake"}, Insecure: true, DisableOwnerRouting: true,
		Timeout: o.Timeout, MaxAttempts: 1, // so that one failure fails a call
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return listener.DialContext(ctx)
		})},
	})
	if err != nil {
		f.stop()
		return nil, fmt.Errorf("clienttest: %w", err)
	}
	return f, nil
}

// Close ends the client and the node. The error says how many settlements of
// [client.Reservation.SettleLater] were still pending, also if the program has closed the
// client before. It must be called once.
func (f *Fake) Close() error {
	err := f.client.Close()
	if n := f.client.Status().PendingSettlements; n > 0 && err == nil {
		err = fmt.Errorf("the client was closed with pending settlements (%d): call Flush before Close", n)
	}
	f.stop()
	return err
}

func (f *Fake) stop() {
	f.server.Stop()
	<-f.served
}

// Client returns the client of the fake. It is always the same. Close closes it, and
// the program may do so before.
func (f *Fake) Client() *client.Client { return f.client }

// Now returns the time of the fake's clock.
func (f *Fake) Now() time.Time { return time.Unix(0, f.time().Wall).UTC() }

// Advance moves the fake's clock forward: windows refill, and leases that are over expire. It
// panics if d is negative.
func (f *Fake) Advance(d time.Duration) {
	if d < 0 {
		panic(fmt.Sprintf("clienttest: d: must not be negative, got %v", d))
	}
	f.clock.Lock()
	defer f.clock.Unlock()
	f.clock.now = f.clock.now.Add(d)
}

func (f *Fake) time() limiter.Time {
	f.clock.Lock()
	defer f.clock.Unlock()
	return f.clock.now
}

// Held returns the request ids of the reservations that were neither settled nor cancelled,
// sorted, also those whose lease is over: the test or the program has forgotten them.
func (f *Fake) Held() []string { return f.service.heldIDs() }

// Used returns how much is used of the limit with that name at the level q.Key. What is held
// counts as used. It asks the node itself: no hook affects it.
func (f *Fake) Used(q client.Query, limit string) (int64, error) {
	state, err := f.service.Service.Peek(context.Background(), &pb.PeekRequest{Key: q.Key, Tier: q.Tier, Model: q.Model})
	if err != nil {
		return 0, fmt.Errorf("used: %w", err)
	}
	var names []error
	for _, l := range state.GetLimits() {
		if l.GetName() == limit && l.GetScope() == q.Key {
			return l.GetCapacity() - l.GetRemaining() + l.GetDebt(), nil
		}
		names = append(names, fmt.Errorf("%s of %s", l.GetName(), l.GetScope()))
	}
	return 0, fmt.Errorf("used: no limit %s of %s, only:\n%w", limit, q.Key, errors.Join(names...))
}
