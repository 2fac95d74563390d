// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

// echo is a ring of one node with a fixed answer, to measure the client, the link and
// gRPC only.
type echo struct {
	pb.UnimplementedRateLimiterServer
	ring   *pb.Ring
	limits []*pb.LimitState
	mute   atomic.Bool // batches get no answers
	lend   atomic.Bool // checks come with slices
}

func startEcho(tb testing.TB, limits int, plain bool) *client.Client {
	c, _ := startMutableEcho(tb, limits, plain)
	return c
}

func startMutableEcho(tb testing.TB, limits int, plain bool) (*client.Client, *echo) {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	e := &echo{ring: &pb.Ring{Number: 1, Members: []*pb.RingMember{{Name: "a", Address: l.Addr().String()}}, Owners: make([]byte, 2*4096)}}
	for i := range limits {
		e.limits = append(e.limits, &pb.LimitState{
			Name: fmt.Sprintf("limit-%d", i), Dimension: "tokens", Scope: "acme/alice", Algorithm: "token_bucket", Limit: 1000, Capacity: 1000,
			Remaining: 900, Cost: 1, ResetAt: timestamppb.New(time.Unix(1e9, 5)), Window: durationpb.New(time.Minute),
		})
	}
	s := grpc.NewServer()
	pb.RegisterRateLimiterServer(s, e)
	go func() { _ = s.Serve(l) }()
	tb.Cleanup(s.Stop)
	c, err := client.Dial(client.Options{Addrs: []string{l.Addr().String()}, DisableOwnerRouting: plain, Timeout: time.Minute})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	waittest.Until(tb, "the client to be connected", func() bool {
		if _, err := c.Check(tb.Context(), client.Call{Key: "acme/alice"}); err != nil {
			tb.Fatalf("Check() = %v", err)
		}
		members := c.Status().Members
		return plain || len(members) == 1 && members[0].Connected
	})
	return c, e
}

func (e *echo) decide(r *pb.CheckRequest) *pb.Decision {
	return &pb.Decision{
		Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: r.GetRequestId(), Tier: "free", PolicyVersion: "1", Owner: "a",
		Route: pb.Route_ROUTE_LOCAL, Limits: e.limits,
	}
}

func (e *echo) Check(_ context.Context, r *pb.CheckRequest) (*pb.Decision, error) {
	return e.decide(r), nil
}

func (e *echo) Watch(_ *pb.WatchRequest, s grpc.ServerStreamingServer[pb.Ring]) error {
	if err := s.Send(e.ring); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

func (e *echo) Exchange(s grpc.BidiStreamingServer[pb.Batch, pb.Answers]) error {
	return link.Serve(s, nil, func(b *pb.Batch) *pb.Answers {
		if e.mute.Load() {
			<-s.Context().Done()
		}
		out := &pb.Answers{Sequence: b.GetSequence(), Results: make([]*pb.Result, len(b.GetItems()))}
		for i, item := range b.GetItems() {
			if item.GetSliceReturn() != nil {
				out.Results[i] = &pb.Result{Result: &pb.Result_SliceEnded{SliceEnded: &pb.SliceEnded{}}}
				continue
			}
			out.Results[i] = &pb.Result{Result: &pb.Result_Decision{Decision: e.decide(item.GetCheck())}}
			if item.GetTakesSlice() && e.lend.Load() {
				s := &pb.Slice{Id: item.GetCheck().GetRequestId(), LeaseNanos: int64(24 * time.Hour)}
				for range e.limits {
					s.Amounts = append(s.Amounts, 1<<52)
				}
				out.Results[i].Slice = s
			}
		}
		return out
	})
}

// BenchmarkCheck measures checks by many callers, over loopback, with both ends in
// this process: by unary calls, and in batches to the owner.
func BenchmarkCheck(b *testing.B) {
	for _, mode := range []string{"plain", "ring"} {
		for _, callers := range []int{1, 16, 128, 1024} {
			b.Run(fmt.Sprintf("%s/callers=%d", mode, callers), func(b *testing.B) {
				c := startEcho(b, 4, mode == "plain")
				b.ReportAllocs()
				left := make(chan struct{}, callers) // one token per call, given out as they come
				var wg sync.WaitGroup
				for range callers {
					wg.Go(func() {
						for range left {
							if _, err := c.Check(context.Background(), client.Call{Key: "acme/alice", InputTokens: 1}); err != nil {
								b.Errorf("Check() = %v", err)
							}
						}
					})
				}
				for b.Loop() {
					left <- struct{}{}
				}
				close(left)
				wg.Wait()
			})
		}
	}
}

// startRefusing returns a client that refuses calls, because its queue is full.
func startRefusing(tb testing.TB) *client.Client {
	c, e := startMutableEcho(tb, 0, false)
	e.mute.Store(true)
	ctx, cancel := context.WithCancel(context.Background())
	var calls sync.WaitGroup
	tb.Cleanup(func() { cancel(); calls.Wait() })
	waittest.Until(tb, "a call to be refused", func() bool {
		var refused atomic.Bool
		for range 1000 {
			calls.Go(func() {
				if _, err := c.Check(ctx, client.Call{Key: "acme/alice"}); errors.Is(err, client.ErrOverloaded) {
					refused.Store(true)
				}
			})
		}
		return refused.Load()
	})
	return c
}

// BenchmarkRefused measures a check that is refused because the queue is full.
func BenchmarkRefused(b *testing.B) {
	c := startRefusing(b)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Check(ctx, client.Call{Key: "acme/alice", InputTokens: 1}); err == nil {
			b.Fatal("a call was answered")
		}
	}
}

// A call that is refused on arrival allocates nothing.
func TestRefusalAllocations(t *testing.T) {
	c := startRefusing(t)
	ctx := context.Background()
	if got := testing.AllocsPerRun(1000, func() {
		if _, err := c.Check(ctx, client.Call{Key: "acme/alice", InputTokens: 1}); !errors.Is(err, client.ErrOverloaded) {
			t.Fatalf("Check() = %v, want ErrOverloaded", err)
		}
	}); got != 0 {
		t.Errorf("a refused check makes %.1f allocations, want none", got)
	}
}

// TestAllocations bounds the allocations of a check, on both ends together. Most are
// gRPC's, for a batch of one.
func TestAllocations(t *testing.T) {
	for limits, most := range map[int]float64{0: 60, 4: 61} {
		c := startEcho(t, limits, false)
		ctx := context.Background()
		got := testing.AllocsPerRun(500, func() {
			if _, err := c.Check(ctx, client.Call{Key: "acme/alice", InputTokens: 1}); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%d limits: %.1f allocations per check, both ends", limits, got)
		if got > most {
			t.Errorf("%d limits: %.1f allocations per check, want at most %.0f", limits, got, most)
		}
	}
}

// startLending returns a client that holds a slice for a day, with more calls than anybody
// makes.
func startLending(tb testing.TB, limits int) *client.Client {
	c, e := startMutableEcho(tb, limits, false)
	e.lend.Store(true)
	waittest.Until(tb, "a slice to be lent", func() bool {
		d, err := c.Check(tb.Context(), client.Call{Key: "acme/alice", InputTokens: 1})
		return err == nil && d.Route == client.Slice
	})
	return c
}

// BenchmarkCheckFromSlice measures a check that is answered from a slice, by one caller and
// by as many as there are CPUs.
func BenchmarkCheckFromSlice(b *testing.B) {
	for _, limits := range []int{1, 4} {
		b.Run(fmt.Sprintf("limits=%d", limits), func(b *testing.B) {
			c, ctx := startLending(b, limits), context.Background()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Check(ctx, client.Call{Key: "acme/alice", InputTokens: 1}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("limits=%d/parallel", limits), func(b *testing.B) {
			c := startLending(b, limits)
			b.ReportAllocs()
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := c.Check(context.Background(), client.Call{Key: "acme/alice", InputTokens: 1}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// A check from a slice allocates its request id and its limits.
func TestSliceAllocations(t *testing.T) {
	c, ctx := startLending(t, 4), context.Background()
	if got := testing.AllocsPerRun(1000, func() {
		if d, err := c.Check(ctx, client.Call{Key: "acme/alice", InputTokens: 1}); err != nil || d.Route != client.Slice {
			t.Fatalf("Check() = %v, %v, want an answer from the slice", d.Route, err)
		}
	}); got > 2 {
		t.Errorf("a check from a slice makes %.1f allocations, want at most 2", got)
	}
}
