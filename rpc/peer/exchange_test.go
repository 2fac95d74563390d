// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// exchange is a client's stream.
type exchange struct {
	t        *testing.T
	stream   grpc.BidiStreamingClient[pb.Batch, pb.Answers]
	sequence uint64
	takes    bool // definitions
}

func openExchange(t *testing.T, n *node) *exchange {
	t.Helper()
	stream, err := pb.NewRateLimiterClient(n.conn()).Exchange(waittest.Context(t, testWait))
	if err != nil {
		t.Fatal(err)
	}
	return &exchange{t: t, stream: stream}
}

func (e *exchange) ask(items ...*pb.Item) *pb.Answers {
	e.t.Helper()
	e.sequence++
	if err := e.stream.Send(&pb.Batch{Sequence: e.sequence, Items: items, TakesDefinitions: e.takes}); err != nil {
		e.t.Fatal(err)
	}
	a, err := e.stream.Recv()
	if err != nil {
		e.t.Fatal(err)
	}
	if a.Sequence != e.sequence || len(a.Results) != len(items) {
		e.t.Fatalf("answers %d with %d results, want %d with %d", a.Sequence, len(a.Results), e.sequence, len(items))
	}
	return a
}

func checkItem(key, tier string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: key, Tier: tier}}}
}

func settleItem(key, id string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Settle{Settle: &pb.SettleRequest{Key: key, RequestId: id, OutputTokens: new(int64(1))}}}
}

// TestExchange: a client gets what the node owns decided, and is told where to
// ask for the rest.
func TestExchange(t *testing.T) {
	nodes := newCluster(t, 3)
	a, b := nodes[0], nodes[1]
	e := openExchange(t, a)
	mine, other := a.ownedBy(0), b.ownedBy(0)
	replay := checkItem(mine, "")
	replay.Replay = true
	got := e.ask(
		checkItem(mine, ""),
		checkItem(other, ""),
		checkItem(mine, "nope"),
		replay,
		&pb.Item{Call: &pb.Item_Reserve{Reserve: &pb.ReserveRequest{Key: mine, RequestId: "r", MaxOutputTokens: new(int64(10))}}},
		&pb.Item{Call: &pb.Item_Reserve{Reserve: &pb.ReserveRequest{Key: mine, RequestId: "fallback:a:b"}}},
		settleItem(mine, "r"),
		settleItem(mine, "unknown"),
		&pb.Item{Call: &pb.Item_Peek{Peek: &pb.PeekRequest{Key: mine}}},
		settleItem(mine, "fallback:node1:unknown"),
		settleItem(other, "fallback:node1:unknown"),
		settleItem(mine, "fallback:node2:x"),
		settleItem(mine, "fallback:gone:unknown"),
		settleItem(other, "fallback:gone:unknown"),
	)
	v := a.table.Load()
	if got.Ring != v.ring.Digest() {
		t.Errorf("ring = %#x, want %#x", got.Ring, v.ring.Digest())
	}
	r := got.Results
	if d := r[0].GetDecision(); d.GetRoute() != pb.Route_ROUTE_LOCAL {
		t.Errorf("own check = %v", r[0])
	}
	if r[4].GetDecision() == nil || r[6].GetSettlement() == nil || r[8].GetLimits() == nil {
		t.Errorf("own reserve, settle and peek = %v, %v, %v", r[4], r[6], r[8])
	}
	for i, field := range map[int]string{2: "tier", 3: "replay", 5: "request_id"} {
		if e := r[i].GetError(); codes.Code(e.GetCode()) != codes.InvalidArgument || e.Field != field {
			t.Errorf("item %d = %v, want an error of %s", i, r[i], field)
		}
	}
	for _, i := range []int{7, 9, 10, 12} {
		if code(r[i]) != codes.NotFound {
			t.Errorf("item %d = %v, want NotFound", i, r[i])
		}
	}
	for _, i := range []int{1, 11, 13} {
		if to := r[i].GetRedirect(); to.GetOwner() != b.name || to.GetAddress() != b.address {
			t.Errorf("item %d = %v, want a redirect to %s", i, r[i], b.name)
		}
	}
	if n := b.used(other, "", "requests"); n != 0 {
		t.Errorf("the other owner was charged %d, want 0: a receiver does not forward", n)
	}
	empty := e.ask(&pb.Item{}, nil)
	for _, result := range empty.Results { // where the empty key belongs is anybody's guess
		if code(result) != codes.InvalidArgument && result.GetRedirect() == nil {
			t.Errorf("no call = %v", result)
		}
	}
	tooMany := e.ask(make([]*pb.Item, server.MaxBatchItems+1)...)
	for _, result := range tooMany.Results {
		if code(result) != codes.InvalidArgument {
			t.Fatalf("a result of a batch that is too large = %v, want InvalidArgument", result)
		}
	}
}

// TestExchangeSettlesFallback: the member that made a reservation in fallback
// takes its end from clients, too.
func TestExchangeSettlesFallback(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2, short)
	key := nodes[1].ownedBy(0)
	nodes[1].listener.setFrozen(true)
	d, err := nodes[0].Reserve(waittest.Context(t, testWait), &pb.ReserveRequest{Key: key, MaxOutputTokens: new(int64(100))})
	if err != nil {
		t.Fatal(err)
	}
	got := openExchange(t, nodes[0]).ask(settleItem(key, d.RequestId)).Results[0].GetSettlement()
	if got.GetRequestId() != d.RequestId || got.GetRoute() != pb.Route_ROUTE_FALLBACK || got.GetStatus() != pb.ReservationStatus_RESERVATION_STATUS_SETTLED {
		t.Errorf("settlement = %v, want %s settled in fallback", got, d.RequestId)
	}
	nodes[1].listener.setFrozen(false)
	waittest.Until(t, "the outbox to be empty", func() bool { return nodes[0].Status().Outbox == 0 })
	if used := nodes[1].used(key, "", "tokens"); used != 1 {
		t.Errorf("the owner has %d tokens, want 1", used)
	}
}

// TestDrainEndsStreams: all of them end in order, so that a server can stop.
func TestDrainEndsStreams(t *testing.T) {
	nodes := newCluster(t, 2)
	n := nodes[0]
	e := openExchange(t, n)
	e.ask(checkItem(n.ownedBy(0), ""))
	watch, err := pb.NewRateLimiterClient(n.conn()).Watch(waittest.Context(t, testWait), &pb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := nodes[1].Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: n.ownedBy(0)}); err != nil {
		t.Fatal(err)
	}
	n.Drain()
	n.Drain()
	late, err := pb.NewRateLimiterClient(n.conn()).Watch(waittest.Context(t, testWait), &pb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := late.Recv(); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("Watch of a node that leaves = %v, want Unavailable", err)
	}
	n.grpc.GracefulStop()
	if _, err := e.stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("Exchange ended with %v, want EOF", err)
	}
	if _, err := watch.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("Watch ended with %v, want EOF", err)
	}
}
