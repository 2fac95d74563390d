// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// TestFallbackIsAskedLast: a reservation that the owner does not know of may be
// one that this member made in fallback, and whose caller uses its own id. That
// holds for every form of the call, also if this member is the owner by now.
func TestFallbackIsAskedLast(t *testing.T) {
	nodes := newCluster(t, 2)
	asked := nodes[0]
	ctx := waittest.Context(t, testWait)
	exchange := openExchange(t, asked)
	forms := map[string]func(key, id string) (*pb.Settlement, error){
		"settle": func(key, id string) (*pb.Settlement, error) {
			return asked.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: id, OutputTokens: new(int64(1))})
		},
		"cancel": func(key, id string) (*pb.Settlement, error) {
			return asked.Cancel(ctx, &pb.CancelRequest{Key: key, RequestId: id})
		},
		"settle batch": func(key, id string) (*pb.Settlement, error) {
			b, err := asked.Batch(ctx, batchOf(&pb.SettleRequest{Key: key, RequestId: id}))
			return batchSettlement(b, err)
		},
		"cancel batch": func(key, id string) (*pb.Settlement, error) {
			b, err := asked.Batch(ctx, batchOf(&pb.CancelRequest{Key: key, RequestId: id}))
			return batchSettlement(b, err)
		},
		"exchange": func(key, id string) (*pb.Settlement, error) {
			result := exchange.ask(settleItem(key, id)).Results[0]
			return result.GetSettlement(), server.ErrorOf(result)
		},
	}
	told := 0
	for _, owner := range nodes {
		for name, form := range forms {
			if name == "exchange" && owner != asked {
				continue // redirected
			}
			t.Run(name+" of a key of "+owner.name, func(t *testing.T) {
				key, id := owner.ownedBy(0), name+owner.name
				if _, err := form(key, id); grpcstatus.Code(err) != codes.NotFound {
					t.Errorf("%s of what nobody knows = %v, want NotFound", name, err)
				}
				if _, err := asked.fallback.Reserve(ctx, &pb.ReserveRequest{Key: key, RequestId: id, MaxOutputTokens: new(int64(10))}); err != nil {
					t.Fatal(err)
				}
				told++
				s, err := form(key, id)
				if err != nil || s.GetRoute() != pb.Route_ROUTE_FALLBACK || s.GetRequestId() != id || s.GetOwner() != asked.name {
					t.Errorf("%s = %v, %v, want it done in fallback", name, s, err)
				}
			})
		}
	}
	// The owners never saw the reserves, so they refuse what they are told.
	waittest.Until(t, "the owners to be told", func() bool {
		return asked.Status().Outbox == 0 && asked.metric("bucketring_outbox_dropped_total") == float64(told)
	})
}

func batchSettlement(b *pb.BatchResponse, err error) (*pb.Settlement, error) {
	if err != nil {
		return nil, err
	}
	if e := b.Results[0].GetError(); e != nil {
		return nil, server.ErrorOf(&pb.Result{Result: &pb.Result_Error{Error: e}})
	}
	return b.Results[0].GetSettlement(), nil
}

// TestDeciderForgot: the member that made a reservation in fallback, and told
// the owner of it, has restarted. The owner settles it.
func TestDeciderForgot(t *testing.T) {
	nodes := newCluster(t, 3)
	decider, owner := nodes[0], nodes[1]
	ctx := waittest.Context(t, testWait)
	for i, n := range nodes {
		key, id := owner.ownedBy(i), fmt.Sprint("r", i)
		if _, err := owner.local.Reserve(ctx, &pb.ReserveRequest{Key: key, RequestId: id, MaxOutputTokens: new(int64(10))}); err != nil {
			t.Fatal(err)
		}
		asked := requestid.Fallback(decider.name, id)
		s, err := n.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: asked, OutputTokens: new(int64(1))})
		if err != nil || s.Owner != owner.name || s.RequestId != asked || s.Status != pb.ReservationStatus_RESERVATION_STATUS_SETTLED {
			t.Errorf("Settle() at %s = %v, %v, want %s settled by %s", n.name, s, err, asked, owner.name)
		}
		if _, err := n.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: requestid.Fallback(decider.name, "nobody")}); grpcstatus.Code(err) != codes.NotFound {
			t.Errorf("Settle() at %s of what nobody knows = %v, want NotFound", n.name, err)
		}
		if _, err := n.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: asked, OutputTokens: new(int64(-1))}); grpcstatus.Code(err) != codes.InvalidArgument {
			t.Errorf("Settle() at %s of less than nothing = %v, want InvalidArgument", n.name, err)
		}
	}
}

// TestDeciderIsAway: if it can't be reached, the owner is told by whoever was
// asked.
func TestDeciderIsAway(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 3, short)
	decider, owner, asked := nodes[0], nodes[1], nodes[2]
	ctx := waittest.Context(t, testWait)
	key := owner.ownedBy(0)
	if _, err := owner.local.Reserve(ctx, &pb.ReserveRequest{Key: key, RequestId: "r", MaxOutputTokens: new(int64(10))}); err != nil {
		t.Fatal(err)
	}
	decider.listener.setFrozen(true)
	id := requestid.Fallback(decider.name, "r")
	s, err := asked.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: id, OutputTokens: new(int64(3))})
	if err != nil || s.Route != pb.Route_ROUTE_FALLBACK || s.RequestId != id || s.Owner != asked.name || s.Status != pb.ReservationStatus_RESERVATION_STATUS_SETTLED {
		t.Errorf("Settle() = %v, %v, want it taken in fallback by %s", s, err, asked.name)
	}
	if err := asked.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if used := owner.used(key, "", "tokens"); used != 3 {
		t.Errorf("the owner has %d tokens, want 3", used)
	}
}

// TestAfterTheEnd: a router that has ended leaves nothing behind, whatever it is
// told.
func TestAfterTheEnd(t *testing.T) {
	nodes := newCluster(t, 2)
	n := nodes[0]
	n.kill()
	n.see(nodes...)
	n.see(n)
	n.see(nodes...) // goleak looks for what these leave
	d, err := n.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: nodes[1].ownedBy(0), Tier: "open"})
	if grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("Check() = %v, %v, want Unavailable: nobody will tell the owner", d, err)
	}
	if d, err := n.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: n.ownedBy(0)}); err != nil || d.Route != pb.Route_ROUTE_LOCAL {
		t.Errorf("Check() of its own = %v, %v, want local", d, err)
	}
}

// TestSettleBringsItsReservation: a settle that could not reach the owner, and whose
// reservation is lost meanwhile, is charged when the outbox delivers it.
func TestSettleBringsItsReservation(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2, short)
	asked, owner := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	ctx := waittest.Context(t, testWait)
	owner.listener.setFrozen(true)
	held := &pb.ReserveRequest{Key: key, Tier: "guarded", RequestId: "lost", InputTokens: 100, MaxOutputTokens: new(int64(400))}
	for _, q := range []*pb.SettleRequest{
		{Key: key, RequestId: "lost", OutputTokens: new(int64(30))},
		{Key: key, RequestId: "lost", OutputTokens: new(int64(30)), Reservation: held},
	} {
		s, err := asked.Settle(ctx, q)
		if err != nil || s.Route != pb.Route_ROUTE_FALLBACK {
			t.Fatalf("Settle() = %v, %v, want it accepted in fallback", s, err)
		}
	}
	if n := asked.Status().Outbox; n > 2 {
		t.Errorf("%d calls wait for the owner, want at most 2", n)
	}
	owner.listener.setFrozen(false)
	waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
	if got := owner.used(key, "guarded", "tokens"); got != 130 {
		t.Errorf("%d tokens used, want 130", got)
	}
	if got := owner.used(key, "guarded", "concurrent"); got != 0 {
		t.Errorf("%d slots taken, want 0", got)
	}
}
