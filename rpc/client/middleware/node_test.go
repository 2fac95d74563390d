// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

const rules = `
tiers:
  free: { requests: 10/min, tokens: 10_000/min, concurrent: 2 }
  bounded: { requests: 10/min, tokens: 10_000/min, concurrent: 2, bound_output: true }
  big:  { requests: 10_000/min, tokens: 10_000_000/min, concurrent: 100 }
  soft:
    concurrent: 2
    limits: [{ name: tokens, dimension: tokens, limit: 2_000, window: 1m, on_exceed: degrade }]
  paid: { spend: $100/day, concurrent: 2 }
  images: { concurrent: 2, limits: [{ name: images, dimension: images, limit: 10, window: 1m }] }
default_tier: free
default_output_tokens: 1000
prices:
  "*": { input: 1.00, output: 3.00 }
  pictures: { input: 1.00, output: 3.00, image: 0.04 }
  claude:
    { input: 1, cached_input: 0.10, cache_write: 1.25, cache_write_1h: 2, output: 10, request: 0.01, search: 0.02,
      service_tiers: { flex: 0.5, priority: 2 } }
`

// A node is a real node with a clock that only advance moves.
type node struct {
	service *server.Service
	clock   atomic.Int64 // nanoseconds since the start
	server  *grpc.Server
	addr    string

	down     atomic.Pointer[string] // the method that returns Unavailable
	mute     atomic.Bool            // Reserve works, but its answer is lost
	progress atomic.Int64           // answered reports of progress
	output   atomic.Int64           // of the last report of progress
}

func newNode() (*node, error) {
	n := &node{}
	engine := limiter.New(limiter.Options{})
	policy, err := policy.Parse("rules", []byte(rules), engine.Catalog())
	if err != nil {
		return nil, err
	}
	start := limiter.Time{Mono: int64(time.Hour), Wall: time.Date(2026, 11, 22, 21, 40, 0, 0, time.UTC).UnixNano()}
	n.service = server.New(server.Options{
		Engine: engine,
		Policy: func() server.Policy { return policy },
		Now:    func() limiter.Time { return start.Add(time.Duration(n.clock.Load())) },
		Name:   "node-1",
	})
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n.addr = l.Addr().String()
	n.server = server.NewGRPC(n.service, server.GRPCOptions{Server: []grpc.ServerOption{grpc.ChainUnaryInterceptor(n.intercept)}})
	go func() { _ = n.server.Serve(l) }()
	return n, nil
}

func (n *node) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if down := n.down.Load(); down != nil && strings.HasSuffix(info.FullMethod, "/"+*down) {
		return nil, status.Error(codes.Unavailable, "down")
	}
	answer, err := next(ctx, req)
	if n.mute.Load() && strings.HasSuffix(info.FullMethod, "/Reserve") {
		return nil, status.Error(codes.Unavailable, "the answer is lost")
	}
	if settle, ok := req.(*pb.SettleRequest); ok && !settle.GetFinal() && err == nil {
		n.output.Store(settle.GetOutputTokens())
		n.progress.Add(1)
	}
	return answer, err
}

func (n *node) fail(method string) { n.down.Store(&method) }

func (n *node) recover() { n.down.Store(nil) }

func (n *node) advance(d time.Duration) { n.clock.Add(int64(d)) }

// start returns a new node and a client of it.
func start(t testing.TB) (*node, *client.Client) {
	t.Helper()
	n, err := newNode()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.server.Stop)
	c, err := client.Dial(client.Options{Addrs: []string{n.addr}, DisableOwnerRouting: true, Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return n, c
}

// used returns how much of a limit of acme/alice is used.
func used(t testing.TB, c *client.Client, tier, name string) int64 {
	t.Helper()
	s, err := c.Peek(t.Context(), client.Query{Key: "acme/alice", Tier: tier, Model: "m"})
	if err != nil {
		t.Fatalf("Peek() = %v", err)
	}
	for _, l := range s.Limits {
		if l.Name == name {
			return l.Capacity - l.Remaining + l.Debt
		}
	}
	t.Fatalf("Peek() = %+v, want a limit %s", s.Limits, name)
	return 0
}

func wantUsed(t testing.TB, c *client.Client, tier, name string, want int64) {
	t.Helper()
	if got := used(t, c, tier, name); got != want {
		t.Errorf("%s used = %d, want %d", name, got, want)
	}
}
