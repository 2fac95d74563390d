// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/client"
)

// start returns a real node and a client that is connected to it over loopback.
func start(t *testing.T, options ...grpc.ServerOption) (*node, *client.Client) {
	t.Helper()
	n := newNode()
	t.Cleanup(n.stop)
	addr, err := n.listen(options...)
	if err != nil {
		t.Fatal(err)
	}
	return n, dial(t, addr)
}

func dial(t *testing.T, addrs ...string) *client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{Addrs: addrs, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatalf("Dial(%v) = %v", addrs, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func reserve(t *testing.T, c *client.Client, e client.Estimate) *client.Reservation {
	t.Helper()
	r, err := c.Reserve(t.Context(), e)
	if err != nil {
		t.Fatalf("Reserve(%+v) = %v", e, err)
	}
	return r
}

// used returns how much of a limit of acme/alice is used.
func used(t *testing.T, c *client.Client, tier, name string) int64 {
	t.Helper()
	s, err := c.Peek(t.Context(), client.Query{Key: "acme/alice", Tier: tier})
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

func wantUsed(t *testing.T, c *client.Client, after, tier, name string, want int64) {
	t.Helper()
	if got := used(t, c, tier, name); got != want {
		t.Errorf("%s: %s used = %d, want %d", after, name, got, want)
	}
}

func TestReservationLifecycle(t *testing.T) {
	_, c := start(t)
	estimate := client.Estimate{Key: "acme/alice", Tier: "free", InputTokens: 900, MaxOutputTokens: new(int64(800))}

	r := reserve(t, c, estimate)
	if r.Denied() || r.Granted() != 800 || r.Owner != "node-1" || r.Route != client.Local || r.Tier != "free" {
		t.Errorf("Reserve() = %+v, want allowed, 800, node-1, local, free", r.Decision)
	}
	wantUsed(t, c, "reserve", "free", "tokens", 1700)
	wantUsed(t, c, "reserve", "free", "concurrent", 1)

	if _, err := r.Progress(t.Context(), client.Usage{OutputTokens: new(int64(1000))}); err != nil {
		t.Errorf("Progress() = %v", err)
	}

	for range 2 {
		s, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(312))})
		if err != nil || s.Status != client.Settled {
			t.Errorf("Settle(312) = %q, %v, want settled", s.Status, err)
		}
		wantUsed(t, c, "settle", "free", "tokens", 1212)
		wantUsed(t, c, "settle", "free", "concurrent", 0)
	}
	if _, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(313))}); !errors.Is(err, client.ErrConflict) {
		t.Errorf("Settle(313) = %v, want ErrConflict", err)
	}
	if err := r.Cancel(t.Context()); err != nil {
		t.Errorf("Cancel() after Settle = %v, want nil", err)
	}
	wantUsed(t, c, "cancel", "free", "tokens", 1212)
	wantUsed(t, c, "cancel", "free", "requests", 1)
}

func TestCancelGivesBack(t *testing.T) {
	_, c := start(t)
	r := reserve(t, c, client.Estimate{Key: "acme/alice", Tier: "free", InputTokens: 900, MaxOutputTokens: new(int64(800))})
	for range 2 { // by two handles: a node takes a repeated cancel
		if err := c.Reservation(r.Key, r.RequestID).Cancel(t.Context()); err != nil {
			t.Errorf("Cancel() = %v, want nil", err)
		}
	}
	for _, name := range []string{"tokens", "requests", "concurrent", "spend"} {
		wantUsed(t, c, "cancel", "free", name, 0)
	}
	if _, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(1))}); !errors.Is(err, client.ErrConflict) {
		t.Errorf("Settle() after Cancel = %v, want ErrConflict", err)
	}
}

func TestZeroIsNotAbsent(t *testing.T) {
	_, c := start(t)
	r := reserve(t, c, client.Estimate{Key: "acme/alice", Tier: "free", InputTokens: 900, MaxOutputTokens: new(int64(0)), Requests: new(int64(0))})
	wantUsed(t, c, "reserve without output", "free", "tokens", 900)
	wantUsed(t, c, "reserve without requests", "free", "requests", 0)
	if _, err := r.Settle(t.Context(), client.Usage{InputTokens: new(int64(0))}); err != nil {
		t.Errorf("Settle() = %v", err)
	}
	wantUsed(t, c, "settle at zero", "free", "tokens", 0)
}

func TestStreamThatBreaksOffIsCharged(t *testing.T) {
	_, c := start(t)
	r := reserve(t, c, client.Estimate{Key: "acme/alice", Tier: "free", InputTokens: 900, MaxOutputTokens: new(int64(800))})
	if _, err := r.Progress(t.Context(), client.Usage{OutputTokens: new(int64(100))}); err != nil {
		t.Errorf("Progress() = %v", err)
	}
	if err := r.Cancel(t.Context()); err != nil {
		t.Errorf("Cancel() = %v", err)
	}
	wantUsed(t, c, "cancel after progress", "free", "tokens", 1000)
	wantUsed(t, c, "cancel after progress", "free", "concurrent", 0)
}

func TestProgressRenewsTheLease(t *testing.T) {
	n, c := start(t)
	estimate := client.Estimate{Key: "acme/alice", Tier: "free", InputTokens: 900, MaxOutputTokens: new(int64(800))}
	kept, lost := reserve(t, c, estimate), reserve(t, c, estimate)
	for range 3 {
		n.advance(20 * time.Second)
		if _, err := kept.Progress(t.Context(), client.Usage{}); err != nil {
			t.Errorf("Progress() = %v", err)
		}
	}
	wantUsed(t, c, "a minute", "free", "concurrent", 1)
	for _, r := range []*client.Reservation{kept, lost} { // a late settle corrects what expiry charged
		if s, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(312))}); err != nil || s.Status != client.Settled {
			t.Errorf("Settle() = %q, %v, want settled", s.Status, err)
		}
	}
}

func TestDenial(t *testing.T) {
	_, c := start(t)
	call := client.Call{Key: "acme/alice", Tier: "free", InputTokens: 6_000}
	if d, err := c.Check(t.Context(), call); err != nil || !d.Allowed() {
		t.Fatalf("Check(6000) = %q, %v, want allowed", d.Outcome, err)
	}
	d, err := c.Check(t.Context(), call)
	if err != nil || !d.Denied() || d.Reason != client.LimitExceeded || d.Binding.Name != "tokens" || d.RetryAfter != 12*time.Second {
		t.Errorf("Check(6000) = %+v, %v, want denied by tokens for 12s", d, err)
	}
	call.InputTokens = 10_001
	d, err = c.Check(t.Context(), call)
	if err != nil || d.Reason != client.ExceedsCapacity || d.RetryAfter != 0 {
		t.Errorf("Check(10001) = %q, %v, %v, want exceeds_capacity and no time", d.Reason, d.RetryAfter, err)
	}
	wantUsed(t, c, "denials", "free", "tokens", 6_000)
}

func TestInvalidRequests(t *testing.T) {
	_, c := start(t)
	for field, call := range map[string]client.Call{
		"key":          {Key: "acme//alice"},
		"tier":         {Key: "acme/alice", Tier: "gold"},
		"requests":     {Key: "acme/alice", Requests: new(int64(-1))},
		"input_tokens": {Key: "acme/alice", InputTokens: -1},
		"costs.tokens": {Key: "acme/alice", Costs: map[string]int64{"tokens": 1}},
	} {
		_, err := c.Check(t.Context(), call)
		if invalid, ok := errors.AsType[*client.InvalidError](err); !ok || invalid.Field != field {
			t.Errorf("Check(%+v) = %v, want an InvalidError of %s", call, err, field)
		}
	}
	if _, err := c.Reservation("acme/alice", "never seen").Settle(t.Context(), client.Usage{}); !errors.Is(err, client.ErrUnknownReservation) {
		t.Errorf("Settle(never seen) = %v, want ErrUnknownReservation", err)
	}
	call := client.Call{Key: "acme/alice", InputTokens: 1, RequestID: "once"}
	if _, err := c.Check(t.Context(), call); err != nil {
		t.Errorf("Check(1) = %v", err)
	}
	call.InputTokens = 2
	if _, err := c.Check(t.Context(), call); !errors.Is(err, client.ErrConflict) {
		t.Errorf("Check(2) with the id of another = %v, want ErrConflict", err)
	}
}

// The node has charged but its answer is lost: the retry gets the same decision.
func TestLostAnswerChargesOnceForReal(t *testing.T) {
	var calls atomic.Int64
	lose := grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		answer, err := next(ctx, req)
		if calls.Add(1)%2 == 1 {
			return nil, status.Error(codes.Unavailable, "lost")
		}
		return answer, err
	})
	_, c := start(t, lose)
	estimate := client.Estimate{Key: "acme/alice", Tier: "free", InputTokens: 900, MaxOutputTokens: new(int64(800))}
	r := reserve(t, c, estimate)
	if !r.Replayed || r.Denied() {
		t.Errorf("Reserve() = %q, replayed %v, want allowed, replayed", r.Outcome, r.Replayed)
	}
	wantUsed(t, c, "reserve twice", "free", "tokens", 1700)
	wantUsed(t, c, "reserve twice", "free", "requests", 1)
	if _, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(312))}); err != nil {
		t.Errorf("Settle() = %v", err)
	}
	wantUsed(t, c, "settle twice", "free", "tokens", 1212)
	if err := reserve(t, c, estimate).Cancel(t.Context()); err != nil {
		t.Errorf("Cancel() = %v", err)
	}
	wantUsed(t, c, "cancel twice", "free", "tokens", 1212)
}

// One of two addresses goes away under load; every token is accounted for.
func TestManyCallersAndAnAddressThatDies(t *testing.T) {
	n := newNode()
	t.Cleanup(n.stop)
	var addrs []string
	for range 2 {
		addr, err := n.listen()
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, addr)
	}
	c := dial(t, addrs...)
	const callers, each, input, output = 10, 20, 100, 50
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				r, err := c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", Tier: "enterprise", InputTokens: input, MaxOutputTokens: new(int64(800))})
				if err != nil || r.Denied() {
					t.Errorf("Reserve() = %v, want allowed", err)
					return
				}
				if _, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(output))}); err != nil {
					t.Errorf("Settle() = %v", err)
				}
			}
		})
	}
	n.servers[0].Stop()
	wg.Wait()
	wantUsed(t, c, "storm", "enterprise", "tokens", callers*each*(input+output))
	wantUsed(t, c, "storm", "enterprise", "requests", callers*each)
	wantUsed(t, c, "storm", "enterprise", "concurrent", 0)
}
