// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// question is one call in all its forms.
type question struct {
	name string
	ask  func(context.Context, pb.RateLimiterServer) (proto.Message, error)
}

// questions asks about key, in an order in which each is answered.
func questions(key string) []question {
	return append(calls(key), batches(key)...)
}

func calls(key string) []question {
	asked := func(name string, ask func(context.Context, pb.RateLimiterServer) (proto.Message, error)) question {
		return question{name, ask}
	}
	return []question{
		asked("check", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Check(ctx, &pb.CheckRequest{Key: key, Model: "m", InputTokens: 10, OutputTokens: 5, RequestId: "c1"})
		}),
		asked("check again", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Check(ctx, &pb.CheckRequest{Key: key, Model: "m", InputTokens: 10, OutputTokens: 5, RequestId: "c1"})
		}),
		asked("check own dimension", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Check(ctx, &pb.CheckRequest{Key: key, Tier: "images", Costs: map[string]int64{"images": 2}, RequestId: "c2"})
		}),
		asked("check too much", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Check(ctx, &pb.CheckRequest{Key: key, InputTokens: 10_001, RequestId: "c3"})
		}),
		asked("check conflict", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Check(ctx, &pb.CheckRequest{Key: key, Model: "m", InputTokens: 11, RequestId: "c1"})
		}),
		asked("check of no tier", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Check(ctx, &pb.CheckRequest{Key: key, Tier: "nope", RequestId: "c4"})
		}),
		asked("check negative", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Check(ctx, &pb.CheckRequest{Key: key, InputTokens: -1})
		}),
		asked("check built-in cost", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Check(ctx, &pb.CheckRequest{Key: key, Costs: map[string]int64{"tokens": 2}})
		}),
		asked("reserve", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Reserve(ctx, &pb.ReserveRequest{
				Key: key, Model: "m", Requests: new(int64(2)), InputTokens: 30, MaxOutputTokens: new(int64(100)),
				MinOutputTokens: new(int64(16)), N: new(int64(2)), TtlSeconds: new(int64(60)), RequestId: "r1",
			})
		}),
		asked("reserve degraded", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Reserve(ctx, &pb.ReserveRequest{
				Key: key, Tier: "shrink", InputTokens: 500, MaxOutputTokens: new(int64(2000)), MinOutputTokens: new(int64(16)), RequestId: "r2",
			})
		}),
		asked("reserve with wrong minimum", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Reserve(ctx, &pb.ReserveRequest{Key: key, MaxOutputTokens: new(int64(10)), MinOutputTokens: new(int64(16))})
		}),
		asked("progress", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: "r1", OutputTokens: new(int64(50)), Final: new(false)})
		}),
		asked("settle", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Settle(ctx, &pb.SettleRequest{
				Key: key, RequestId: "r1", InputTokens: new(int64(29)), CachedInputTokens: new(int64(3)), OutputTokens: new(int64(70)),
			})
		}),
		asked("settle otherwise", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: "r1", OutputTokens: new(int64(71))})
		}),
		asked("settle unknown", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: "nobody"})
		}),
		asked("settle without id", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Settle(ctx, &pb.SettleRequest{Key: key})
		}),
		asked("cancel", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Cancel(ctx, &pb.CancelRequest{Key: key, RequestId: "r2"})
		}),
		asked("cancel unknown", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Cancel(ctx, &pb.CancelRequest{Key: key, RequestId: "nobody"})
		}),
		asked("peek", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Peek(ctx, &pb.PeekRequest{Key: key, Model: "m"})
		}),
		asked("peek of no tier", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Peek(ctx, &pb.PeekRequest{Key: key, Tier: "nope"})
		}),
	}
}

func batches(key string) []question {
	return []question{
		{"check batch", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Batch(ctx, batchOf(&pb.CheckRequest{Key: key, InputTokens: 1, RequestId: "b1"}, &pb.CheckRequest{Key: key, InputTokens: -1}, &pb.CheckRequest{Key: ""}, &pb.CheckRequest{Key: key, InputTokens: 1, RequestId: "b1"}))
		}},
		{"reserve batch", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Batch(ctx, batchOf(&pb.ReserveRequest{Key: key, InputTokens: 1, MaxOutputTokens: new(int64(9)), RequestId: "b2"}, &pb.ReserveRequest{Key: key, Tier: "nope", RequestId: "b3"}, &pb.ReserveRequest{Key: key, InputTokens: 1, MaxOutputTokens: new(int64(9)), RequestId: "b4"}))
		}},
		{"settle batch", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Batch(ctx, batchOf(&pb.SettleRequest{Key: key, RequestId: "nobody"}, &pb.SettleRequest{Key: key, RequestId: "b2", OutputTokens: new(int64(2))}))
		}},
		{"cancel batch", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Batch(ctx, batchOf(&pb.CancelRequest{Key: key, RequestId: "b4"}, &pb.CancelRequest{Key: key}))
		}},
		{"peek batch", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Batch(ctx, batchOf(&pb.PeekRequest{Key: key}, &pb.PeekRequest{Key: key, Tier: "shrink"}, &pb.PeekRequest{Key: "a//b"}))
		}},
		{"batch too large", func(ctx context.Context, s pb.RateLimiterServer) (proto.Message, error) {
			return s.Batch(ctx, &pb.BatchRequest{Items: make([]*pb.Item, server.MaxItems+1)})
		}},
	}
}

// TestForwardedIsLocal: every call and batch gets the same answer, or error,
// through another member as from the local service of a lone node.
func TestForwardedIsLocal(t *testing.T) {
	nodes := newCluster(t, 2)
	alone := newNode(t, "node2", &clock{})
	key := nodes[1].ownedBy(3) + "/alice"
	ignore := cmp.Options{protocmp.Transform(), protocmp.IgnoreEnums(pb.Route(0))}
	for _, q := range questions(key) {
		t.Run(q.name, func(t *testing.T) {
			ctx := waittest.Context(t, testWait)
			want, wantErr := q.ask(ctx, alone.options.Local)
			got, err := q.ask(ctx, nodes[0])
			if diff := cmp.Diff(want, got, ignore); diff != "" {
				t.Errorf("answers differ (-local +forwarded):\n%s", diff)
			}
			sameError(t, wantErr, err)
			for _, route := range routesOf(got) {
				if route != pb.Route_ROUTE_FORWARD {
					t.Errorf("route = %v, want forward", route)
				}
			}
		})
	}
	if n := nodes[0].metric("bucketring_fallbacks_total"); n != 0 {
		t.Errorf("%v calls fell back, want 0", n)
	}
	if n := nodes[0].metric("bucketring_decision_duration_seconds", "forward"); n == 0 {
		t.Error("no forwarded decision was timed")
	}
}

// sameError compares errors as callers in this process and beyond see them.
func sameError(t *testing.T, want, got error) {
	t.Helper()
	if (want == nil) != (got == nil) {
		t.Fatalf("error = %v, want %v", got, want)
	}
	if want == nil {
		return
	}
	if want.Error() != got.Error() {
		t.Errorf("text = %q, want %q", got, want)
	}
	if diff := cmp.Diff(grpcstatus.Convert(want).Proto(), grpcstatus.Convert(got).Proto(), protocmp.Transform()); diff != "" {
		t.Errorf("statuses differ (-want +got):\n%s", diff)
	}
}

// routesOf returns the routes in an answer or a batch of them.
func routesOf(m proto.Message) (routes []pb.Route) {
	add := func(a interface{ GetRoute() pb.Route }, there bool) {
		if there {
			routes = append(routes, a.GetRoute())
		}
	}
	switch m := m.(type) {
	case *pb.Decision:
		add(m, m != nil)
	case *pb.Settlement:
		add(m, m != nil)
	case *pb.PeekResponse:
		add(m, m != nil)
	case *pb.BatchResponse:
		for _, r := range m.GetResults() {
			add(r.GetDecision(), r.GetDecision() != nil)
			add(r.GetSettlement(), r.GetSettlement() != nil)
			add(r.GetLimits(), r.GetLimits() != nil)
		}
	}
	return routes
}

// TestBatchOverMembers: a batch whose items belong to all members keeps its
// order, and every item is charged once.
func TestBatchOverMembers(t *testing.T) {
	nodes := newCluster(t, 3)
	const each = 40
	var b pb.BatchRequest
	owners := []string{}
	for i := range each {
		for _, n := range nodes {
			b.Items = append(b.Items, itemOf(&pb.CheckRequest{Key: n.ownedBy(i) + "/u", Tier: "thousand"}))
			owners = append(owners, n.name)
		}
	}
	got, err := nodes[0].Batch(waittest.Context(t, testWait), &b)
	if err != nil || len(got.Results) != len(b.Items) {
		t.Fatalf("Batch() = %d results, %v, want %d", len(got.GetResults()), err, len(b.Items))
	}
	ids := map[string]bool{}
	for i, r := range got.Results {
		d := r.GetDecision()
		want := pb.Route_ROUTE_FORWARD
		if owners[i] == nodes[0].name {
			want = pb.Route_ROUTE_LOCAL
		}
		if d.GetOwner() != owners[i] || d.GetRoute() != want || d.GetLimits()[0].GetScope() != b.Items[i].GetCheck().Key {
			t.Errorf("item %d = %v, want %s by %s", i, r, b.Items[i].GetCheck().Key, owners[i])
		}
		ids[d.GetRequestId()] = true
	}
	if len(ids) != len(b.Items) {
		t.Errorf("%d different ids, want %d", len(ids), len(b.Items))
	}
	for i, q := range b.Items {
		if n := nodes[i%3].used(q.GetCheck().Key, "thousand", "requests"); n != 1 {
			t.Errorf("%s was charged %d times, want once", q.GetCheck().Key, n)
		}
		if q.GetCheck().RequestId != "" {
			t.Errorf("the request of the caller got the id %q", q.GetCheck().RequestId)
		}
	}
}

// TestOneRequestManyTimes: requests stay as they are, so one that a caller uses
// for many items is many calls.
func TestOneRequestManyTimes(t *testing.T) {
	nodes := newCluster(t, 2)
	q := &pb.CheckRequest{Key: nodes[1].ownedBy(0), Tier: "thousand"}
	b := batchOf(q, q, q, q)
	if _, err := nodes[0].Batch(waittest.Context(t, testWait), b); err != nil {
		t.Fatal(err)
	}
	if n := nodes[1].used(q.Key, "thousand", "requests"); n != 4 {
		t.Errorf("charged %d, want 4", n)
	}
}

// TestReserveHereSettleThere: a reservation belongs to the key, not to the node
// that was asked. An id is one charge wherever it is repeated.
func TestReserveHereSettleThere(t *testing.T) {
	nodes := newCluster(t, 3)
	ctx := waittest.Context(t, testWait)
	for _, owner := range nodes {
		for i, first := range nodes {
			key, id := owner.ownedBy(i)+"/u", "r-"+first.name
			for _, n := range append(nodes[i:], nodes[:i]...) {
				d, err := n.Reserve(ctx, &pb.ReserveRequest{Key: key, InputTokens: 100, MaxOutputTokens: new(int64(400)), RequestId: id})
				if err != nil || d.RequestId != id || d.Owner != owner.name || d.Replayed != (n != first) {
					t.Fatalf("Reserve() at %s = %v, %v", n.name, d, err)
				}
			}
			if used := owner.used(key, "", "tokens"); used != 500 {
				t.Errorf("reserved %d tokens of %s, want 500", used, key)
			}
			other := nodes[(i+1)%len(nodes)]
			s, err := other.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: id, OutputTokens: new(int64(20))})
			if err != nil || s.Status != pb.ReservationStatus_RESERVATION_STATUS_SETTLED || s.Owner != owner.name {
				t.Fatalf("Settle() at %s = %v, %v", other.name, s, err)
			}
			if used := owner.used(key, "", "tokens"); used != 120 {
				t.Errorf("settled at %d tokens of %s, want 120", used, key)
			}
		}
	}
}

// TestCallerGoes: who does not wait gets the error of its own context, and no
// fallback.
func TestCallerGoes(t *testing.T) {
	nodes := newCluster(t, 2)
	key := nodes[1].ownedBy(0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := nodes[0].Check(ctx, &pb.CheckRequest{Key: key}); grpcstatus.Code(err) != codes.Canceled {
		t.Errorf("Check(cancelled) = %v, want Canceled", err)
	}
	if _, err := nodes[0].Batch(ctx, batchOf(&pb.CheckRequest{Key: key})); grpcstatus.Code(err) != codes.Canceled {
		t.Errorf("Batch(cancelled) = %v, want Canceled", err)
	}
	nodes[1].listener.setFrozen(true)
	ctx, cancel = context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := nodes[0].Check(ctx, &pb.CheckRequest{Key: key})
		done <- err
	}()
	waittest.Until(t, "the call to be under way", func() bool {
		l := nodes[0].Status().Members[1].Link
		return l.Queued+l.InFlight > 0
	})
	cancel()
	if err := <-done; grpcstatus.Code(err) != codes.Canceled {
		t.Errorf("Check() = %v, want Canceled", err)
	}
	if n := nodes[0].metric("bucketring_fallbacks_total"); n != 0 {
		t.Errorf("%v calls fell back, want 0", n)
	}
}
