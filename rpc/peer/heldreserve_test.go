// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// busyLimit is the limit of tier busy in requests.
const busyLimit = 6_000

func reserveBusy(t *testing.T, n *node, key string, input, output int64) *pb.Decision {
	t.Helper()
	q := &pb.ReserveRequest{Key: key, Tier: "busy", InputTokens: input, MaxOutputTokens: new(output)}
	d, err := n.Reserve(waittest.Context(t, testWait), q)
	if err != nil {
		t.Fatalf("Reserve() at %s = %v", n.name, err)
	}
	return d
}

func settleBusy(t *testing.T, n *node, key, id string, output int64) *pb.Settlement {
	t.Helper()
	s, err := n.Settle(waittest.Context(t, testWait), &pb.SettleRequest{Key: key, RequestId: id, OutputTokens: new(output)})
	if err != nil {
		t.Fatalf("Settle(%s) at %s = %v", id, n.name, err)
	}
	return s
}

// charged is what a key was charged that was made busy.
type charged struct{ requests, tokens int64 }

// makeBusy has n hold a slice for reserves of a key, and returns what was charged until then.
// All these reservations are open, and are estimated at 10 tokens.
func makeBusy(t *testing.T, owner, n *node, key string) charged {
	t.Helper()
	c := charged{requests: heatTier(t, n, key, "busy")}
	c.add(holdReserves(t, owner, n, key))
	return c
}

func (c *charged) add(more charged) {
	c.requests += more.requests
	c.tokens += more.tokens
}

// holdReserves is makeBusy for a key that is hot.
func holdReserves(t *testing.T, owner, n *node, key string) (c charged) {
	t.Helper()
	waittest.Until(t, "a reserve to be answered from a slice", func() bool {
		owner.owners.clock.Add(int64(lendInterval))
		d := reserveBusy(t, n, key, 4, 6)
		if d.Outcome != pb.Outcome_OUTCOME_ALLOWED {
			t.Fatalf("Reserve() = %v, want it allowed", d)
		}
		c.requests++
		c.tokens += 10
		return d.Route == pb.Route_ROUTE_SLICE
	})
	return c
}

// heldReserve reserves at a member until a slice answers, which it is to hold.
func heldReserve(t *testing.T, n *node, key string, input, output int64) *pb.Decision {
	t.Helper()
	d := reserveBusy(t, n, key, input, output)
	if d.Route != pb.Route_ROUTE_SLICE || !strings.HasPrefix(d.RequestId, requestid.HeldPrefix+n.name+":") || d.GetGrantedOutputTokens() != output || d.Tier != "busy" {
		t.Fatalf("Reserve() at %s = %v, want it from the slice", n.name, d)
	}
	return d
}

// awaitReturns waits until all slices of a key are returned.
func awaitReturns(t *testing.T, key string, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		n.holder.Recall(key)
	}
	waittest.Until(t, "all slices to be returned", func() bool {
		for _, n := range nodes {
			if s := n.Status().Slices; s.Held+s.Lent+s.PendingReturns > 0 {
				return false
			}
		}
		return true
	})
}

func wantUsed(t *testing.T, owner *node, key string, want charged) {
	t.Helper()
	got := charged{owner.used(key, "busy", "requests"), owner.used(key, "busy", "tokens")}
	if got != want {
		t.Errorf("the owner has %+v, want %+v", got, want)
	}
}

// TestSettleHeld: a reservation from a slice is settled, and cancelled, at any member, while
// the slice is held and after that. It is charged what it used, once.
func TestSettleHeld(t *testing.T) {
	for _, ended := range []bool{false, true} {
		for i, at := range []string{"owner", "holder", "another"} {
			t.Run(map[bool]string{false: "slice is held, at ", true: "slice has ended, at "}[ended]+at, func(t *testing.T) {
				nodes := newCluster(t, 3)
				owner, n := nodes[0], nodes[1]
				key := owner.ownedBy(0)
				want := makeBusy(t, owner, n, key)
				settled, cancelled := heldReserve(t, n, key, 20, 30), heldReserve(t, n, key, 20, 30)
				if c := settled.Limits[1].GetCost(); c != 50 {
					t.Errorf("a reserve of 50 tokens costs %d", c)
				}
				want.requests++
				want.tokens += 25
				route := pb.Route_ROUTE_SLICE
				if ended {
					n.holder.Recall(key)
					route = pb.Route_ROUTE_FORWARD
				}
				ask := nodes[i]
				if ask == owner && ended {
					awaitReturns(t, key, nodes...)
					route = pb.Route_ROUTE_LOCAL
				}
				s := settleBusy(t, ask, key, settled.RequestId, 5)
				if s.RequestId != settled.RequestId || s.Status != pb.ReservationStatus_RESERVATION_STATUS_SETTLED || s.Route != route || s.Limits[1].GetCost() != 25 {
					t.Errorf("Settle() = %v, want 25 tokens by the route %s", s, route)
				}
				if again := settleBusy(t, ask, key, settled.RequestId, 5); again.Status != s.Status || again.Limits[1].GetCost() != 25 {
					t.Errorf("Settle() again = %v, want it as before", again)
				}
				ctx := waittest.Context(t, testWait)
				if _, err := ask.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: settled.RequestId, OutputTokens: new(int64(6))}); grpcstatus.Code(err) != codes.AlreadyExists {
					t.Errorf("Settle() with other numbers = %v, want a conflict", err)
				}
				if _, err := ask.Cancel(ctx, &pb.CancelRequest{Key: key, RequestId: settled.RequestId}); grpcstatus.Code(err) != codes.AlreadyExists {
					t.Errorf("Cancel() after Settle() = %v, want a conflict", err)
				}
				c, err := ask.Cancel(ctx, &pb.CancelRequest{Key: key, RequestId: cancelled.RequestId})
				if err != nil || c.Status != pb.ReservationStatus_RESERVATION_STATUS_CANCELLED || c.RequestId != cancelled.RequestId {
					t.Errorf("Cancel() = %v, %v, want it cancelled", c, err)
				}
				if _, err := ask.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: cancelled.RequestId, InputTokens: new(int64(-1))}); grpcstatus.Code(err) != codes.InvalidArgument {
					t.Errorf("an invalid Settle() = %v, want it rejected", err)
				}
				if _, err := ask.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: requestid.Held(n.name, "unknown")}); grpcstatus.Code(err) != codes.NotFound {
					t.Errorf("Settle() of an unknown reservation = %v, want not found", err)
				}
				awaitReturns(t, key, nodes...)
				wantUsed(t, owner, key, want)
			})
		}
	}
}

// TestProgressOfHeld: progress of a reservation from a slice is reported to the owner, after
// the return of the slice.
func TestProgressOfHeld(t *testing.T) {
	nodes := newCluster(t, 3)
	owner, n := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	want := makeBusy(t, owner, n, key)
	for _, ask := range nodes {
		d := heldReserve(t, n, key, 20, 30)
		q := &pb.SettleRequest{Key: key, RequestId: d.RequestId, OutputTokens: new(int64(40)), Final: new(false)}
		s, err := ask.Settle(waittest.Context(t, testWait), q)
		if err != nil || s.Status != pb.ReservationStatus_RESERVATION_STATUS_HELD || s.RequestId != d.RequestId || s.Limits[1].GetCost() != 60 {
			t.Errorf("progress at %s = %v, %v, want 60 tokens held", ask.name, s, err)
		}
		s, err = ask.Settle(waittest.Context(t, testWait), &pb.SettleRequest{Key: key, RequestId: d.RequestId})
		if err != nil || s.Status != pb.ReservationStatus_RESERVATION_STATUS_SETTLED || s.Limits[1].GetCost() != 60 {
			t.Errorf("Settle() at %s = %v, %v, want the output last reported", ask.name, s, err)
		}
		want.requests++
		want.tokens += 60
		want.add(holdReserves(t, owner, n, key)) // the slice has ended
	}
	awaitReturns(t, key, nodes...)
	wantUsed(t, owner, key, want)
}

// TestRecallWithOpenReservations: before the owner denies a call, it recalls slices. What they
// hold open stays charged, and the limit admits exactly its amount.
func TestRecallWithOpenReservations(t *testing.T) {
	nodes := newCluster(t, 3)
	owner, n := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	admitted := makeBusy(t, owner, n, key).requests
	open := []string{}
	for range 20 {
		open = append(open, heldReserve(t, n, key, 1, 1).RequestId)
		admitted++
	}
	for {
		d := reserveBusy(t, owner, key, 1, 1)
		if d.Outcome == pb.Outcome_OUTCOME_ALLOWED {
			admitted++
			continue
		}
		if owner.Status().Slices.Lent == 0 {
			break
		}
		awaitReturns(t, key, nodes...) // it did not come in time, on a busy machine
	}
	if admitted != busyLimit {
		t.Errorf("%d reserves admitted, want %d", admitted, busyLimit)
	}
	if owner.metric("bucketring_slice_recalls_total") == 0 {
		t.Error("no slice was recalled")
	}
	for _, id := range open {
		if _, err := owner.Cancel(waittest.Context(t, testWait), &pb.CancelRequest{Key: key, RequestId: id}); err != nil {
			t.Errorf("Cancel(%s) = %v", id, err)
		}
	}
	awaitReturns(t, key, nodes...)
	if used := owner.used(key, "busy", "requests"); used != busyLimit-20 {
		t.Errorf("the owner has %d requests after 20 were cancelled, want %d", used, busyLimit-20)
	}
}

// TestRetryOfAHeldID: if the owner makes a reservation with the id of one that a member holds,
// it is charged once.
func TestRetryOfAHeldID(t *testing.T) {
	nodes := newCluster(t, 2)
	owner, n := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	want := makeBusy(t, owner, n, key)
	d := heldReserve(t, n, key, 20, 30)
	_, id := requestid.Split(d.RequestId)
	ctx := waittest.Context(t, testWait)
	q := &pb.ReserveRequest{Key: key, Tier: "busy", InputTokens: 20, MaxOutputTokens: new(int64(30)), RequestId: id}
	if d, err := n.Reserve(ctx, q); err != nil || d.Route != pb.Route_ROUTE_FORWARD || d.Replayed {
		t.Errorf("Reserve() with the id = %v, %v, want it made by the owner", d, err)
	}
	awaitReturns(t, key, nodes...)
	if d, err := n.Reserve(ctx, q); err != nil || !d.Replayed {
		t.Errorf("Reserve() again = %v, %v, want it replayed", d, err)
	}
	want.requests++
	want.tokens += 50
	wantUsed(t, owner, key, want)
	settleBusy(t, n, key, d.RequestId, 1)
	want.tokens -= 29
	wantUsed(t, owner, key, want)
	if _, err := n.Reserve(ctx, &pb.ReserveRequest{Key: key, Tier: "busy", RequestId: d.RequestId}); grpcstatus.Code(err) != codes.InvalidArgument {
		t.Errorf("Reserve() with an id of a member's reservation = %v, want it rejected", err)
	}
}

// TestLeavingHolder: the reservations of a member that leaves are settled by the owner.
func TestLeavingHolder(t *testing.T) {
	nodes := newCluster(t, 3)
	owner, leaving, other := nodes[0], nodes[1], nodes[2]
	key := owner.ownedBy(0)
	want := makeBusy(t, owner, leaving, key)
	d := heldReserve(t, leaving, key, 20, 30)
	before := heldReserve(t, leaving, key, 20, 30)
	if err := leaving.ReturnSlices(waittest.Context(t, testWait)); err != nil {
		t.Fatalf("ReturnSlices() = %v", err)
	}
	if s := settleBusy(t, other, key, before.RequestId, 0); s.Status != pb.ReservationStatus_RESERVATION_STATUS_SETTLED || s.Limits[1].GetCost() != 20 {
		t.Errorf("Settle() while the holder drains = %v, want 20 tokens", s)
	}
	if d := reserveBusy(t, leaving, key, 1, 1); d.Route != pb.Route_ROUTE_FORWARD {
		t.Errorf("Reserve() while the holder drains = %v, want it forwarded", d)
	}
	leaving.kill()
	for _, n := range []*node{owner, other} {
		n.see(owner, other)
	}
	if s := settleBusy(t, other, key, d.RequestId, 10); s.Status != pb.ReservationStatus_RESERVATION_STATUS_SETTLED || s.Limits[1].GetCost() != 30 || s.RequestId != d.RequestId {
		t.Errorf("Settle() without the holder = %v, want 30 tokens", s)
	}
	want.requests += 3
	want.tokens += 20 + 2 + 30
	if owner.ownedBy(0) == key { // the ring has not moved it
		wantUsed(t, owner, key, want)
	}
}

// TestKilledHolder: a holder that dies costs its slice. Nobody knows its reservations.
func TestKilledHolder(t *testing.T) {
	nodes := newCluster(t, 3)
	owner, n, other := nodes[0], nodes[1], nodes[2]
	key := owner.ownedBy(0)
	want := makeBusy(t, owner, n, key)
	d := heldReserve(t, n, key, 20, 30)
	lent := owner.used(key, "busy", "requests")
	n.kill()
	settle := func(want codes.Code) {
		t.Helper()
		for _, ask := range []*node{owner, other} {
			_, err := ask.Settle(waittest.Context(t, testWait), &pb.SettleRequest{Key: key, RequestId: d.RequestId})
			if grpcstatus.Code(err) != want {
				t.Errorf("Settle() at %s = %v, want %v", ask.name, err, want)
			}
		}
	}
	settle(codes.Unavailable) // it may only be slow, with its return under way
	owner.see(owner, other)
	other.see(owner, other)
	settle(codes.NotFound)
	owner.clock.elapsed.Add(int64(10 * time.Second)) // the slice is over
	refilled := int64(10 * busyLimit / 3600)
	if used := owner.used(key, "busy", "requests"); used < lent-2*refilled || used <= want.requests {
		t.Errorf("%d requests used after the slice of a dead holder was over, of %d with it, want it charged", used, lent)
	}
}

// TestReservesOfADeadOwner: while a slice has room, reserves are answered from it, also the one
// that was to renew it, and settled there. Their ids are not those that the owner was asked with.
func TestReservesOfADeadOwner(t *testing.T) {
	nodes := newCluster(t, 2)
	owner, n := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	makeBusy(t, owner, n, key)
	owner.kill()
	ids := map[string]bool{}
	for {
		d := reserveBusy(t, n, key, 4, 6)
		if d.Route != pb.Route_ROUTE_SLICE {
			break
		}
		ids[d.RequestId] = true
	}
	if len(ids) < 8 {
		t.Errorf("%d reserves were answered from the slice, want more", len(ids))
	}
	if held := n.Status().Slices.Held; held != 1 {
		t.Errorf("%d slices are held after that, want the one, until its deadline", held)
	}
	for id := range ids {
		if s := settleBusy(t, n, key, id, 1); s.Route != pb.Route_ROUTE_SLICE {
			t.Fatalf("Settle(%s) = %v, want it settled from the slice", id, s)
		}
	}
}

// TestConcurrentHeldReservations: many callers reserve at members that do not own a key, and
// settle and cancel anywhere, until the limit denies. What is charged in the end is what was
// settled and what is open, and the limit was never exceeded.
func TestConcurrentHeldReservations(t *testing.T) {
	nodes := newCluster(t, 3)
	owner := nodes[0]
	key := owner.ownedBy(0)
	var requests, tokens, fromSlice atomic.Int64
	for _, n := range nodes[1:] {
		requests.Add(heatTier(t, n, key, "busy"))
	}
	ctx := waittest.Context(t, testWait)
	var callers sync.WaitGroup
	for i := range 6 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			n := nodes[1+i%2]
			for range busyLimit {
				owner.owners.clock.Add(int64(lendInterval / 50))
				output := r.Int64N(40)
				d, err := n.Reserve(ctx, &pb.ReserveRequest{Key: key, Tier: "busy", InputTokens: 5, MaxOutputTokens: new(output)})
				if err != nil {
					t.Errorf("Reserve() at %s = %v", n.name, err)
					return
				}
				if d.Outcome == pb.Outcome_OUTCOME_DENIED {
					return
				}
				if d.Route == pb.Route_ROUTE_SLICE {
					fromSlice.Add(1)
				}
				used := 5 + output
				requests.Add(1)
				ask := nodes[r.IntN(3)]
				switch r.IntN(5) {
				case 0: // it stays open
				case 1:
					if _, err := ask.Cancel(ctx, &pb.CancelRequest{Key: key, RequestId: d.RequestId}); err != nil {
						t.Errorf("Cancel(%s) at %s = %v", d.RequestId, ask.name, err)
					}
					requests.Add(-1)
					used = 0
				default:
					used = 5 + r.Int64N(60)
					if _, err := ask.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: d.RequestId, OutputTokens: new(used - 5)}); err != nil {
						t.Errorf("Settle(%s) at %s = %v", d.RequestId, ask.name, err)
					}
				}
				tokens.Add(used)
			}
		})
	}
	callers.Wait()
	if fromSlice.Load() < 100 {
		t.Errorf("%d reserves were answered from slices, want more", fromSlice.Load())
	}
	awaitReturns(t, key, nodes...)
	wantUsed(t, owner, key, charged{requests.Load(), tokens.Load()})
	if requests.Load() > busyLimit {
		t.Errorf("%d requests admitted, want at most %d", requests.Load(), busyLimit)
	}
	t.Logf("%d of %d from slices, %v lent, %v recalls", fromSlice.Load(), requests.Load(), owner.metric("bucketring_slices_lent_total"), owner.metric("bucketring_slice_recalls_total"))
}
