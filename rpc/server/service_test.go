// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/pb"
)

const testPolicy = `
tiers:
  free:    { requests: 10/min, tokens: 10_000/min, concurrent: 2, spend: $1/day }
  shrink:
    limits:
      - { name: tpm, dimension: tokens, limit: 1_000, window: 1m, on_exceed: degrade }
  lent:    { requests: 1000/h }
  watched:
    limits:
      - { name: preview, dimension: requests, limit: 1, window: 1m, mode: shadow }
      - { name: pictures, dimension: images, limit: 5, window: 1h }
default_tier: free
prices:
  "*": { input: 1.00, output: 3.00 }
`

// clock is a clock that the test moves.
type clock struct{ elapsed atomic.Int64 }

func (c *clock) now() limiter.Time {
	const start = 1_767_268_800_000_000_000 // 2026-01-01T12:00:00Z
	return limiter.Time{Mono: c.elapsed.Load(), Wall: start + c.elapsed.Load()}
}

// node is a service with all that it stands on.
type node struct {
	*Service
	clock    *clock
	registry *prometheus.Registry
}

func newNode(t testing.TB) *node {
	t.Helper()
	engine := limiter.New(limiter.Options{})
	p, err := policy.Parse("test.yaml", []byte(testPolicy), engine.Catalog())
	if err != nil {
		t.Fatalf("policy: %v", err)
	}
	n := &node{clock: &clock{}, registry: prometheus.NewRegistry()}
	var ids atomic.Int64
	n.Service = New(Options{
		Engine:   engine,
		Policy:   func() Policy { return p },
		Now:      n.clock.now,
		Name:     "node1",
		Registry: n.registry,
		NewID:    func() string { return fmt.Sprintf("made-%d", ids.Add(1)) },
	})
	return n
}

// serve runs svc behind a real gRPC server and returns a connection to it.
func serve(t *testing.T, svc pb.RateLimiterServer, log *slog.Logger) *grpc.ClientConn {
	t.Helper()
	return serveWith(t, svc, GRPCOptions{Logger: log}, func(*grpc.Server) {})
}

// serveWith lets the caller register more services.
func serveWith(t testing.TB, svc pb.RateLimiterServer, o GRPCOptions, register func(*grpc.Server)) *grpc.ClientConn {
	t.Helper()
	s := NewGRPC(svc, o)
	register(s)
	return connect(t, s)
}

// connect serves s and returns a connection to it.
func connect(t testing.TB, s *grpc.Server) *grpc.ClientConn {
	t.Helper()
	pipe := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- s.Serve(pipe) }()
	conn, err := grpc.NewClient("passthrough:///node1",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("Serve() = %v", err)
		}
	})
	return conn
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestEnums holds the enums of the wire and of the limiter together.
func TestEnums(t *testing.T) {
	same := func(wire, prefix, want string) {
		t.Helper()
		if got := strings.ToLower(strings.TrimPrefix(wire, prefix)); got != want {
			t.Errorf("wire name of %q = %q", want, got)
		}
	}
	for o := limiter.Allowed; o <= limiter.Denied; o++ {
		same(outcome(o).String(), "OUTCOME_", o.String())
	}
	for r := limiter.LimitExceeded; r <= limiter.IDsFull; r++ {
		same(reason(r).String(), "REASON_", r.String())
	}
	for s := limiter.Held; s <= limiter.Expired; s++ {
		same(status(s).String(), "RESERVATION_STATUS_", s.String())
	}
}

func TestCheckAnswers(t *testing.T) {
	n := newNode(t)
	d, err := n.Check(t.Context(), &pb.CheckRequest{Key: "acme/alice", InputTokens: 900, OutputTokens: 100})
	if err != nil {
		t.Fatal(err)
	}
	if d.Outcome != pb.Outcome_OUTCOME_ALLOWED || d.RequestId != "made-1" || d.Tier != "free" || d.Owner != "node1" ||
		d.Route != pb.Route_ROUTE_LOCAL || len(d.PolicyVersion) != 16 || d.GrantedOutputTokens != nil || d.RetryAfter != nil {
		t.Errorf("Check() = %v", d)
	}
	remaining := map[string]int64{}
	for _, l := range d.Limits {
		remaining[l.Dimension] = l.Remaining
		if l.Scope != "acme/alice" {
			t.Errorf("scope of %s = %q, want acme/alice", l.Name, l.Scope)
		}
		if timeless := l.Dimension == "concurrent"; timeless != (l.ResetAt == nil) || timeless != (l.Window == nil) {
			t.Errorf("limit %s has reset_at %v and window %v", l.Name, l.ResetAt, l.Window)
		}
	}
	want := map[string]int64{"requests": 9, "tokens": 9000, "concurrent": 2, "spend": 1_000_000 - 900 - 300}
	for dimension, left := range want {
		if remaining[dimension] != left {
			t.Errorf("remaining %s = %d, want %d", dimension, remaining[dimension], left)
		}
	}
	if b := d.Limits[*d.Binding]; b.Remaining*10 != b.Capacity*9 {
		t.Errorf("binding = %v, want a limit with 9/10 left", b)
	}
}

func TestReserveSettleCancel(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	r, err := n.Reserve(ctx, &pb.ReserveRequest{Key: "k", RequestId: "a", InputTokens: 100, MaxOutputTokens: new(int64(400)), N: new(int64(2))})
	if err != nil || r.GetGrantedOutputTokens() != 400 {
		t.Fatalf("Reserve(a) = %v, %v, want a grant of 400", r, err)
	}
	if left := remaining(t, n, "k", "tokens"); left != 9_100 {
		t.Errorf("tokens after reserve = %d, want 9100", left)
	}
	again, err := n.Reserve(ctx, &pb.ReserveRequest{Key: "k", RequestId: "a", InputTokens: 100, MaxOutputTokens: new(int64(400)), N: new(int64(2))})
	if err != nil || !again.Replayed {
		t.Errorf("Reserve(a) again = %v, %v, want a replay", again, err)
	}
	s, err := n.Settle(ctx, &pb.SettleRequest{Key: "k", RequestId: "a", OutputTokens: new(int64(50)), Final: new(false)})
	if err != nil || s.Status != pb.ReservationStatus_RESERVATION_STATUS_HELD {
		t.Errorf("progress = %v, %v, want held", s, err)
	}
	s, err = n.Settle(ctx, &pb.SettleRequest{Key: "k", RequestId: "a", OutputTokens: new(int64(300))})
	if err != nil || s.Status != pb.ReservationStatus_RESERVATION_STATUS_SETTLED || s.Tier != "free" {
		t.Errorf("Settle(a) = %v, %v, want settled", s, err)
	}
	if left := remaining(t, n, "k", "tokens"); left != 9_600 {
		t.Errorf("tokens after settle = %d, want 9600", left)
	}
	if _, err := n.Reserve(ctx, &pb.ReserveRequest{Key: "k", RequestId: "b", MaxOutputTokens: new(int64(500))}); err != nil {
		t.Fatal(err)
	}
	s, err = n.Cancel(ctx, &pb.CancelRequest{Key: "k", RequestId: "b"})
	if err != nil || s.Status != pb.ReservationStatus_RESERVATION_STATUS_CANCELLED {
		t.Errorf("Cancel(b) = %v, %v, want cancelled", s, err)
	}
	if left := remaining(t, n, "k", "tokens"); left != 9_600 {
		t.Errorf("tokens after cancel = %d, want 9600", left)
	}
}

// TestDefaultOutput: a reserve that names no output holds the policy's default.
func TestDefaultOutput(t *testing.T) {
	n := newNode(t)
	var plan limiter.Plan
	if err := n.policy().Resolve(limiter.Time{}, "k", "", "", &plan); err != nil {
		t.Fatal(err)
	}
	d, err := n.Reserve(t.Context(), &pb.ReserveRequest{Key: "k"})
	if err != nil || d.GetGrantedOutputTokens() != plan.DefaultOutput {
		t.Errorf("Reserve() = %v, %v, want a grant of %d", d, err, plan.DefaultOutput)
	}
	_, err = n.Reserve(t.Context(), &pb.ReserveRequest{Key: "k", InputTokens: limiter.MaxAmount})
	if e := Describe(err); e.Field != "input_tokens" {
		t.Errorf("Reserve(2^53 input) = %v, want an error of input_tokens", err)
	}
}

func TestDegraded(t *testing.T) {
	n := newNode(t)
	d, err := n.Reserve(t.Context(), &pb.ReserveRequest{
		Key: "k", Tier: "shrink", InputTokens: 500, MaxOutputTokens: new(int64(2000)), MinOutputTokens: new(int64(16)),
	})
	if err != nil || d.Outcome != pb.Outcome_OUTCOME_DEGRADED || d.GetGrantedOutputTokens() != 496 {
		t.Errorf("Reserve() = %v, %v, want degraded to 496", d, err)
	}
}

func TestCancelledContext(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := n.Check(ctx, &pb.CheckRequest{Key: "k"}); err == nil {
		t.Errorf("Check(cancelled) = %v, want an error", d)
	}
	if left := remaining(t, n, "k", "requests"); left != 10 {
		t.Errorf("requests left = %d, want 10: nobody waits for the answer", left)
	}
}

// remaining peeks at a limit.
func remaining(t *testing.T, n *node, key, dimension string) int64 {
	t.Helper()
	p, err := n.Peek(context.Background(), &pb.PeekRequest{Key: key})
	if err != nil {
		t.Fatalf("Peek(%s) = %v", key, err)
	}
	for _, l := range p.Limits {
		if l.Dimension == dimension {
			return l.Remaining
		}
	}
	t.Fatalf("Peek(%s) has no %s limit", key, dimension)
	return 0
}
