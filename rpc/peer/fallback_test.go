// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// short makes members wait for owners less, so that tests do.
func short(o *Options) { o.Timeout = 250 * time.Millisecond }

// eventuallyForwarded asks until the owner answers, and has been told of what was decided
// before it did: the timeouts are short, and the machine may be busy.
func eventuallyForwarded(t *testing.T, n *node, ask func() (pb.Route, error)) {
	t.Helper()
	waittest.Until(t, "the owner to answer", func() bool {
		route, err := ask()
		if err != nil {
			t.Fatal(err)
		}
		return route == pb.Route_ROUTE_FORWARD && n.Status().Outbox == 0
	})
}

// TestModes: without its owner a call is decided as its limit declares, and in
// time. When the owner is back it has every charge, once.
func TestModes(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"frozen", "cut off"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			nodes := newCluster(t, 3, short)
			asked, owner := nodes[0], nodes[1]
			lose, regain := func() { owner.listener.setFrozen(true) }, func() { owner.listener.setFrozen(false) }
			if how == "cut off" { // nobody answers at its address
				away := owner.member()
				away.GRPC = "127.0.0.1:1"
				lose = func() {
					if err := asked.SetTopology(Topology{Serving: []Member{nodes[0].member(), away, nodes[2].member()}, Roster: 3}); err != nil {
						t.Fatal(err)
					}
				}
				regain = func() { asked.see(nodes...) }
			}
			lose()
			for _, tt := range []struct {
				tier    string
				allowed int
				reason  pb.Reason
			}{
				{"closed", 0, pb.Reason_REASON_OWNER_UNREACHABLE},
				{"share", 30, pb.Reason_REASON_LIMIT_EXCEEDED},
				{"open", 40, 0},
			} {
				key := owner.ownedBy(0) + "/" + tt.tier
				allowed := 0
				for i := range 40 {
					d, err := asked.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: key, Tier: tt.tier, RequestId: fmt.Sprint(tt.tier, i)})
					if err != nil || d.Route != pb.Route_ROUTE_FALLBACK || d.Owner != asked.name {
						t.Fatalf("Check(%s) = %v, %v, want a fallback", tt.tier, d, err)
					}
					if d.Outcome == pb.Outcome_OUTCOME_ALLOWED {
						allowed++
					} else if d.Reason != tt.reason {
						t.Errorf("Check(%s) was denied for %v, want %v", tt.tier, d.Reason, tt.reason)
					}
				}
				if allowed != tt.allowed {
					t.Errorf("%s: %d of 40 allowed, want %d", tt.tier, allowed, tt.allowed)
				}
			}
			p, err := asked.Peek(waittest.Context(t, testWait), &pb.PeekRequest{Key: owner.ownedBy(0) + "/share", Tier: "share"})
			if err != nil || p.Route != pb.Route_ROUTE_FALLBACK || p.Limits[0].Remaining != 0 {
				t.Errorf("Peek() = %v, %v, want what the fallback has left", p, err)
			}
			if n := asked.metric("bucketring_fallbacks_total", "check"); n != 120 {
				t.Errorf("%v checks fell back, want 120", n)
			}
			if d, err := asked.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: nodes[2].ownedBy(0)}); err != nil || d.Route != pb.Route_ROUTE_FORWARD {
				t.Errorf("Check() of another owner = %v, %v, want it forwarded", d, err)
			}
			regain()
			waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
			for tier, want := range map[string]int64{"closed": 0, "share": 30, "open": 40} {
				if got := owner.used(owner.ownedBy(0)+"/"+tier, tier, "requests"); got != want {
					t.Errorf("the owner has %d of %s, want %d", got, tier, want)
				}
			}
			eventuallyForwarded(t, asked, func() (pb.Route, error) {
				d, err := asked.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: owner.ownedBy(1)})
				return d.GetRoute(), err
			})
		})
	}
}

// TestInTime: a fallback answer comes within the caller's deadline.
func TestInTime(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2)
	nodes[1].listener.setFrozen(true)
	key := nodes[1].ownedBy(0)
	for _, ask := range []func(context.Context) (pb.Route, error){
		func(ctx context.Context) (pb.Route, error) {
			d, err := nodes[0].Check(ctx, &pb.CheckRequest{Key: key, Tier: "open"})
			return d.GetRoute(), err
		},
		func(ctx context.Context) (pb.Route, error) {
			b, err := nodes[0].Batch(ctx, batchOf(&pb.CheckRequest{Key: key, Tier: "open"}, &pb.CheckRequest{Key: nodes[0].ownedBy(0)}, &pb.CheckRequest{Key: key, Tier: "open"}))
			if err == nil && b.Results[1].GetDecision().GetRoute() != pb.Route_ROUTE_LOCAL {
				t.Errorf("own item = %v, want local", b.Results[1])
			}
			return b.GetResults()[2].GetDecision().GetRoute(), err
		},
	} {
		ctx := waittest.Context(t, 400*time.Millisecond)
		if route, err := ask(ctx); err != nil || route != pb.Route_ROUTE_FALLBACK {
			t.Errorf("route = %v, %v, want fallback", route, err)
		}
		if ctx.Err() != nil {
			t.Error("the answer came after the deadline")
		}
	}
}

// TestReservationInFallback follows one reservation from the fallback to its
// owner: the settle at another member than made it.
func TestReservationInFallback(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 128)
	for _, end := range []string{"settle", "settle after healing", "cancel", "own id", "longest id", "elsewhere, made by the dead"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			nodes := newCluster(t, 3, short)
			asked, owner, other := nodes[0], nodes[1], nodes[2]
			key, id := owner.ownedBy(0)+"/u", "r1"
			if end == "longest id" {
				id = long
			}
			owner.listener.setFrozen(true)
			ctx := waittest.Context(t, testWait)
			d, err := asked.Reserve(ctx, &pb.ReserveRequest{Key: key, InputTokens: 100, MaxOutputTokens: new(int64(400)), RequestId: id})
			if err != nil || d.Route != pb.Route_ROUTE_FALLBACK || d.Outcome != pb.Outcome_OUTCOME_ALLOWED || d.RequestId != "fallback:node1:"+id {
				t.Fatalf("Reserve() = %v, %v, want a reservation in fallback", d, err)
			}
			heal := func() {
				owner.listener.setFrozen(false)
				for _, n := range nodes {
					waittest.Until(t, "the outbox of "+n.name+" to be empty", func() bool { return n.Status().Outbox == 0 })
				}
			}
			settle := &pb.SettleRequest{Key: key, RequestId: d.RequestId, InputTokens: new(int64(100)), OutputTokens: new(int64(30))}
			check := func(s *pb.Settlement, err error, status pb.ReservationStatus, by string) {
				t.Helper()
				if err != nil || s.Route != pb.Route_ROUTE_FALLBACK || s.Status != status || s.Owner != by {
					t.Fatalf("answer = %v, %v, want %v in fallback by %s", s, err, status, by)
				}
			}
			const settled, cancelled = pb.ReservationStatus_RESERVATION_STATUS_SETTLED, pb.ReservationStatus_RESERVATION_STATUS_CANCELLED
			want := int64(130)
			switch end {
			case "settle", "longest id":
				progress := &pb.SettleRequest{Key: key, RequestId: d.RequestId, OutputTokens: new(int64(10)), Final: new(false)}
				s, err := asked.Settle(ctx, progress)
				check(s, err, pb.ReservationStatus_RESERVATION_STATUS_HELD, "node1")
				s, err = other.Settle(ctx, settle)
				check(s, err, settled, "node1")
				if s.RequestId != d.RequestId || len(s.Limits) == 0 {
					t.Errorf("settlement = %v, want one of %s with limits", s, d.RequestId)
				}
				if _, err := asked.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: d.RequestId, OutputTokens: new(int64(31))}); grpcstatus.Code(err) != codes.AlreadyExists {
					t.Errorf("another settle = %v, want AlreadyExists", err)
				}
				heal()
			case "settle after healing":
				heal()
				if used := owner.used(key, "", "tokens"); used != 500 {
					t.Errorf("the owner holds %d tokens, want 500", used)
				}
				s, err := other.Settle(ctx, settle)
				check(s, err, settled, "node1")
				heal()
			case "cancel":
				want = 0
				b, err := other.Batch(ctx, batchOf(&pb.CancelRequest{Key: key, RequestId: d.RequestId}))
				if err != nil {
					t.Fatal(err)
				}
				check(b.Results[0].GetSettlement(), nil, cancelled, "node1")
				heal()
			case "own id":
				settle.RequestId = id
				s, err := asked.Settle(ctx, settle)
				check(s, err, settled, "node1")
				heal()
			case "elsewhere, made by the dead":
				heal()
				asked.kill()
				other.see(owner, other)
				owner.see(owner, other)
				s, err := other.Settle(ctx, settle)
				check(s, err, settled, "node3")
				return
			}
			if used := owner.used(key, "", "tokens"); used != want {
				t.Errorf("the owner has %d tokens, want %d", used, want)
			}
			if used := owner.used(key, "", "concurrent"); used != 0 {
				t.Errorf("the owner has %d slots taken, want 0", used)
			}
			if used := used(t, asked.fallback, key, "", "tokens"); used != want {
				t.Errorf("the fallback has %d tokens, want %d", used, want)
			}
		})
	}
}

// TestSettleThroughOutbox: a settle whose owner is away is taken, and is there
// when it is back.
func TestSettleThroughOutbox(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2, short)
	key := nodes[1].ownedBy(0) + "/u"
	ctx := waittest.Context(t, testWait)
	for _, id := range []string{"settled", "cancelled", "held"} {
		eventuallyForwarded(t, nodes[0], func() (pb.Route, error) {
			d, err := nodes[0].Reserve(ctx, &pb.ReserveRequest{Key: key, InputTokens: 100, MaxOutputTokens: new(int64(100)), RequestId: id})
			return d.GetRoute(), err
		})
	}
	nodes[1].listener.setFrozen(true)
	s, err := nodes[0].Settle(ctx, &pb.SettleRequest{Key: key, RequestId: "settled", OutputTokens: new(int64(7))})
	want := func(s *pb.Settlement, err error, id string, status pb.ReservationStatus) {
		t.Helper()
		if err != nil || s.Status != status || s.Route != pb.Route_ROUTE_FALLBACK || s.RequestId != id || s.Owner != "node1" {
			t.Errorf("answer = %v, %v, want %v in fallback", s, err, status)
		}
	}
	want(s, err, "settled", pb.ReservationStatus_RESERVATION_STATUS_SETTLED)
	s, err = nodes[0].Cancel(ctx, &pb.CancelRequest{Key: key, RequestId: "cancelled"})
	want(s, err, "cancelled", pb.ReservationStatus_RESERVATION_STATUS_CANCELLED)
	b, err := nodes[0].Batch(ctx, batchOf(&pb.SettleRequest{Key: key, RequestId: "held", OutputTokens: new(int64(3)), Final: new(false)}))
	want(b.GetResults()[0].GetSettlement(), err, "held", pb.ReservationStatus_RESERVATION_STATUS_HELD)
	if n := nodes[0].metric("bucketring_outbox_entries"); n != 3 {
		t.Errorf("outbox has %v entries, want 3", n)
	}
	nodes[1].listener.setFrozen(false)
	if err := nodes[0].Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if used := nodes[1].used(key, "", "tokens"); used != 107+200 {
		t.Errorf("the owner has %d tokens, want 107 settled and 200 held", used)
	}
	if used := nodes[1].used(key, "", "concurrent"); used != 1 {
		t.Errorf("the owner has %d slots taken, want 1", used)
	}
}

// TestOutboxFull: what the owner could not be told of later is not decided.
func TestOutboxFull(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2, short, func(o *Options) { o.MaxOutbox = 2 })
	nodes[1].listener.setFrozen(true)
	key := nodes[1].ownedBy(0)
	ctx := waittest.Context(t, testWait)
	for i := range 2 {
		if d, err := nodes[0].Check(ctx, &pb.CheckRequest{Key: key, Tier: "open"}); err != nil || d.Outcome != pb.Outcome_OUTCOME_ALLOWED {
			t.Fatalf("Check() %d = %v, %v", i, d, err)
		}
	}
	if d, err := nodes[0].Check(ctx, &pb.CheckRequest{Key: key, Tier: "open"}); grpcstatus.Code(err) != codes.Unavailable || d != nil {
		t.Errorf("Check() = %v, %v, want Unavailable", d, err)
	}
	if d, err := nodes[0].Check(ctx, &pb.CheckRequest{Key: key, Tier: "closed"}); err != nil || d.Outcome != pb.Outcome_OUTCOME_DENIED {
		t.Errorf("Check() of what is denied = %v, %v, want a denial", d, err)
	}
	if d, err := nodes[0].Reserve(ctx, &pb.ReserveRequest{Key: key}); grpcstatus.Code(err) != codes.Unavailable || d != nil {
		t.Errorf("Reserve() = %v, %v, want Unavailable", d, err)
	}
	if s, err := nodes[0].Settle(ctx, &pb.SettleRequest{Key: key, RequestId: "a"}); grpcstatus.Code(err) != codes.Unavailable || s != nil {
		t.Errorf("Settle() = %v, %v, want Unavailable", s, err)
	}
	nodes[1].listener.setFrozen(false)
	waittest.Until(t, "the outbox to be empty", func() bool { return nodes[0].Status().Outbox == 0 })
}

// TestRetryDuringFallback: the same id, asked before, during and after a time
// without the owner, is one charge.
func TestRetryDuringFallback(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2, short)
	key := nodes[1].ownedBy(0)
	ask := func() {
		t.Helper()
		d, err := nodes[0].Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: key, Tier: "open", RequestId: "once"})
		if err != nil || d.Outcome != pb.Outcome_OUTCOME_ALLOWED || d.Route != pb.Route_ROUTE_FALLBACK {
			t.Fatalf("Check() = %v, %v, want fallback", d, err)
		}
	}
	eventuallyForwarded(t, nodes[0], func() (pb.Route, error) {
		d, err := nodes[0].Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: key, Tier: "open", RequestId: "once"})
		return d.GetRoute(), err
	})
	nodes[1].listener.setFrozen(true)
	ask()
	ask()
	nodes[1].listener.setFrozen(false)
	waittest.Until(t, "the outbox to be empty", func() bool { return nodes[0].Status().Outbox == 0 })
	waittest.Until(t, "the owner to answer", func() bool { return !nodes[0].Status().Members[1].Link.BreakerOpen })
	if used := nodes[1].used(key, "open", "requests"); used != 1 {
		t.Errorf("the owner has %d requests, want 1", used)
	}
}
