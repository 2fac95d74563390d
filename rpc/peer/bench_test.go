// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// checker is a [server.Service] or a [Router].
type checker interface {
	Check(context.Context, *pb.CheckRequest) (*pb.Decision, error)
}

// BenchmarkCheck compares a check by the service alone, through the router that
// owns the key, and through one that forwards it over loopback.
func BenchmarkCheck(b *testing.B) {
	nodes := newCluster(b, 3)
	q := &pb.CheckRequest{Key: nodes[0].ownedBy(0) + "/alice", Tier: "thousand", RequestId: "a"}
	for _, bm := range []struct {
		name string
		by   checker
	}{{"service", nodes[0].local}, {"local", nodes[0]}, {"forward", nodes[1]}} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			ctx := context.Background()
			for b.Loop() {
				if _, err := bm.by.Check(ctx, q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("forward, many callers", func(b *testing.B) {
		b.ReportAllocs()
		b.SetParallelism(64)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if _, err := nodes[1].Check(context.Background(), q); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	for _, size := range []int{16, 256} {
		b.Run(fmt.Sprint("forward, batch of ", size), func(b *testing.B) {
			b.ReportAllocs()
			batch := &pb.BatchRequest{}
			for range size {
				batch.Items = append(batch.Items, itemOf(q))
			}
			for b.Loop() {
				if _, err := nodes[1].Batch(context.Background(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/item")
		})
	}
}

// BenchmarkCheckFromSlice is a check that a member answers which does not own the key, from a
// slice that lasts. It reports the median as well.
func BenchmarkCheckFromSlice(b *testing.B) {
	held := newTableHolder("b", func() time.Duration { return time.Second }, func() string { return "id" },
		func(context.Context, *pb.Item) error { return nil }, func(string) string { return "" })
	nodes := newCluster(b, 2, func(o *Options) {
		o.newHolder = func(func(context.Context, *pb.Item) error) holder { return held }
	})
	q := &pb.CheckRequest{Key: nodes[0].ownedBy(0), Tier: "thousand"}
	held.Asks(q)
	held.Granted(q, time.Second, &pb.Slice{Id: "slice", Amounts: []int64{1 << 52}, LeaseNanos: int64(time.Hour)}, &pb.Decision{
		Outcome: pb.Outcome_OUTCOME_ALLOWED, Limits: []*pb.LimitState{{Name: "requests", Limit: 1 << 53, Remaining: 1 << 53, Cost: 1}},
	})
	ctx := context.Background()
	took := make([]time.Duration, 0, 1<<22)
	b.ReportAllocs()
	for b.Loop() {
		began := time.Now()
		d, err := nodes[1].Check(ctx, q)
		if len(took) < cap(took) {
			took = append(took, time.Since(began))
		}
		if err != nil || d.GetRoute() != pb.Route_ROUTE_SLICE {
			b.Fatalf("%v, %v, want an answer from the slice", d, err)
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}

// TestLocalCallsCostNothingMore: routing allocates nothing for calls that this
// member decides.
func TestLocalCallsCostNothingMore(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	nodes := newCluster(t, 3)
	n := nodes[0]
	ctx := context.Background()
	key := n.ownedBy(0)
	check := &pb.CheckRequest{Key: key, Tier: "thousand", RequestId: "a"}
	batch := batchOf(check, check)
	settle := &pb.SettleRequest{Key: key, RequestId: "r", OutputTokens: new(int64(1)), Final: new(false)}
	peek := &pb.PeekRequest{Key: key}
	if _, err := n.Reserve(ctx, &pb.ReserveRequest{Key: key, RequestId: "r"}); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(pb.RateLimiterServer){
		"Check":      func(s pb.RateLimiterServer) { _, _ = s.Check(ctx, check) },
		"CheckBatch": func(s pb.RateLimiterServer) { _, _ = s.Batch(ctx, batch) },
		"SettleBatch": func(s pb.RateLimiterServer) {
			_, _ = s.Batch(ctx, batchOf(settle, settle))
		},
		"Settle": func(s pb.RateLimiterServer) { _, _ = s.Settle(ctx, settle) },
		"Peek":   func(s pb.RateLimiterServer) { _, _ = s.Peek(ctx, peek) },
	} {
		for range 20 {
			call(n.Router)
		}
		want := testing.AllocsPerRun(200, func() { call(n.local) })
		got := testing.AllocsPerRun(200, func() { call(n.Router) })
		t.Logf("%s: %v allocations, %v without the router", name, got, want)
		if got > want {
			t.Errorf("%s allocates %v times, %v without the router", name, got, want)
		}
	}
}

// TestForwardAllocations bounds what a forwarded item costs the asking and the
// deciding node together, grpc-go, the messages and the answer's four limits
// included.
func TestForwardAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	nodes := newCluster(t, 2)
	batch := &pb.BatchRequest{}
	for range 256 {
		batch.Items = append(batch.Items, itemOf(&pb.CheckRequest{Key: nodes[1].ownedBy(0), Tier: "thousand", RequestId: "a"}))
	}
	ask := func() {
		if _, err := nodes[0].Batch(context.Background(), batch); err != nil {
			t.Error(err)
		}
	}
	for range 20 {
		ask()
	}
	if got := testing.AllocsPerRun(50, ask) / float64(len(batch.Items)); got > 32 {
		t.Errorf("%.1f allocations per forwarded item, want at most 32", got)
	} else {
		t.Logf("%.1f allocations per forwarded item", got)
	}
}
