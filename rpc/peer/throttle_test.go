// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// throttle takes hits from a bucket, which is refilled once an hour.
func (n *node) throttle(key string, capacity, hits int64) *pb.Result {
	n.t.Helper()
	c := call.Of(&pb.CountRequest{Key: key, Hits: hits, Throttle: &pb.Throttle{Capacity: capacity, Count: capacity, PeriodNanos: int64(time.Hour)}})
	results := n.Do(waittest.Context(n.t, testWait), []call.Call{c})
	defer results.Release()
	return results.Get(0)
}

func (n *node) throttled(key string, capacity, hits int64) *pb.Counted {
	n.t.Helper()
	result := n.throttle(key, capacity, hits)
	if result.GetCounted() == nil {
		n.t.Fatalf("throttle %s at %s = %v", key, n.name, result)
	}
	return result.GetCounted()
}

// TestThrottleExact: callers at all nodes take from the buckets of all owners, and no more than
// each has. Nothing is decided from slices, however often a key is asked for.
func TestThrottleExact(t *testing.T) {
	const size, callers, calls, capacity = 3, 24, 100, 500
	for _, size := range []int{2, size} {
		nodes := newCluster(t, size)
		for i, owner := range nodes {
			key := owner.ownedBy(0)
			var admitted, forwarded atomic.Int64
			var wait sync.WaitGroup
			for j := range callers {
				wait.Go(func() {
					for range calls {
						c := nodes[j%size].throttled(key, capacity, 1)
						if !c.GetLimited() {
							admitted.Add(1)
						}
						switch c.GetRoute() {
						case pb.Route_ROUTE_FORWARD:
							forwarded.Add(1)
						case pb.Route_ROUTE_LOCAL:
						default:
							t.Errorf("route %v", c.GetRoute())
						}
						if c.GetOwner() != owner.name {
							t.Errorf("%s decides, want %s", c.GetOwner(), owner.name)
						}
					}
				})
			}
			wait.Wait()
			if admitted.Load() != capacity || forwarded.Load() != int64(callers*calls/size*(size-1)) {
				t.Errorf("bucket %d of %d nodes: %d admitted, %d forwarded, want %d", i, size, admitted.Load(), forwarded.Load(), capacity)
			}
			if c := nodes[(i+1)%size].throttled(key, capacity, 1); c.GetRemaining() != 0 || c.GetRetryAfterNanos() != int64(time.Hour/capacity) || c.GetResetNanos() != int64(time.Hour) {
				t.Errorf("an empty bucket = %v", c)
			}
			owner.clock.elapsed.Add(int64(time.Hour / capacity))
			if c := nodes[(i+1)%size].throttled(key, capacity, 0); c.GetRemaining() != 1 || c.GetLimited() {
				t.Errorf("a look after the time of a token = %v", c)
			}
		}
	}
}

// TestThrottleFallsBack: while its owner does not answer, a member takes from its share, and
// the owner gets what was taken.
func TestThrottleFallsBack(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 3, short)
	asked, owner := nodes[0], nodes[1]
	key, small := owner.ownedBy(0), owner.ownedBy(1)
	asked.throttled(key, 90, 20)
	owner.listener.setFrozen(true)
	in := 0
	for i := range 40 {
		c := asked.throttled(key, 90, 1)
		if c.GetRoute() != pb.Route_ROUTE_FALLBACK || c.GetOwner() != asked.name {
			t.Fatalf("call %d = %v, want a fallback", i+1, c)
		}
		if !c.GetLimited() {
			in++
		} else if c.GetRetryAfterNanos() != int64(time.Hour/30) { // a third of the rate
			t.Errorf("call %d = %v", i+1, c)
		}
	}
	if in != 30 {
		t.Errorf("%d were admitted, want 30", in)
	}
	if c := asked.throttled(small, 2, 1); !c.GetLimited() {
		t.Errorf("a share of nothing = %v", c)
	}
	owner.listener.setFrozen(false)
	waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
	eventuallyForwarded(t, asked, func() (pb.Route, error) { return asked.throttled(key, 90, 0).GetRoute(), nil })
	if c := owner.throttled(key, 90, 0); c.GetRemaining() != 90-20-30 {
		t.Errorf("the owner has %v, want 40 left", c)
	}
}

// TestThrottleReportedTooLate: what was refilled when the owner hears of it is not charged.
func TestThrottleReportedTooLate(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2, short)
	asked, owner := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	away := owner.member()
	away.GRPC = "127.0.0.1:1" // nobody answers there
	if err := asked.SetTopology(Topology{Serving: []Member{asked.member(), away}, Roster: 2}); err != nil {
		t.Fatal(err)
	}
	if c := asked.throttled(key, 10, 3); c.GetRoute() != pb.Route_ROUTE_FALLBACK || c.GetLimited() || asked.Status().Outbox != 1 {
		t.Fatalf("throttle = %v with %d to tell, want a fallback", c, asked.Status().Outbox)
	}
	asked.clock.elapsed.Add(int64(2 * time.Hour))
	asked.see(nodes...)
	waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
	if c := owner.throttled(key, 10, 0); c.GetRemaining() != 10 {
		t.Errorf("the owner has %v, want a full bucket", c)
	}
}

// TestThrottleAtAnEarlierVersion: an owner that does not know throttles takes one for a counter
// without a window. That is like one that does not answer.
func TestThrottleAtAnEarlierVersion(t *testing.T) {
	nodes := newCluster(t, 2)
	n := nodes[0]
	c := call.Of(&pb.CountRequest{Key: nodes[1].ownedBy(0), RequestId: "1", Hits: 1, Throttle: &pb.Throttle{Capacity: 8, Count: 1, PeriodNanos: int64(time.Hour)}})
	f := &forward{Call: &c}
	n.accept(n.limit(waittest.Context(t, testWait), time.Now(), 1), f, server.Failed(wrongField("unit", "0", "is unknown")))
	if got := f.result.GetCounted().GetRoute(); got != pb.Route_ROUTE_FALLBACK {
		t.Errorf("the result is %v, want a fallback", f.result)
	}
}

// TestThrottleErrors: a wrong one is an error that names the field, wherever it is decided.
func TestThrottleErrors(t *testing.T) {
	nodes := newCluster(t, 2)
	for field, q := range map[string]*pb.CountRequest{
		"capacity":  {Hits: 1, Throttle: &pb.Throttle{Capacity: -1, Count: 1, PeriodNanos: 1}},
		"count":     {Hits: 1, Throttle: &pb.Throttle{Capacity: 1, PeriodNanos: 1}},
		"period":    {Hits: 1, Throttle: &pb.Throttle{Capacity: 1, Count: 1}},
		"hits":      {Hits: -1, Throttle: &pb.Throttle{Capacity: 1, Count: 1, PeriodNanos: 1}},
		"give_back": {Hits: 1, GiveBack: true, Throttle: &pb.Throttle{Capacity: 1, Count: 1, PeriodNanos: 1}},
	} {
		for _, owner := range nodes {
			q.Key = owner.ownedBy(0)
			results := nodes[0].Do(context.Background(), []call.Call{call.Of(q)})
			if e := results.Get(0).GetError(); codes.Code(e.GetCode()) != codes.InvalidArgument || e.GetField() != field {
				t.Errorf("%v = %v, want an error of %s", q, e, field)
			}
			results.Release()
		}
	}
}

// TestDivide: a share is at most its part of the size and of the rate.
func TestDivide(t *testing.T) {
	for _, tt := range []struct{ t, want *pb.Throttle }{
		{&pb.Throttle{Capacity: 10, Count: 5, PeriodNanos: 100}, &pb.Throttle{Capacity: 3, Count: 5, PeriodNanos: 300}},
		{&pb.Throttle{Capacity: 10, Count: 5, PeriodNanos: 1 << 62}, &pb.Throttle{Capacity: 3, Count: 1, PeriodNanos: 1 << 62}},
		{&pb.Throttle{Capacity: 10, Count: 2, PeriodNanos: 1 << 62}, &pb.Throttle{Capacity: 0, Count: 2, PeriodNanos: 1 << 62}},
	} {
		if divide(tt.t, 3); tt.t.String() != tt.want.String() {
			t.Errorf("a third is %v, want %v", tt.t, tt.want)
		}
	}
	divide(nil, 3)
}
