// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/pb"
)

// holdReturns gives n a holder whose returns are sent once open is called. No slice may have
// been lent to n.
func (n *node) holdReturns() (open func()) {
	gate := make(chan struct{})
	n.holder = newTableHolder(n.name, n.Router.owners.Clock, n.local.NewID, func(ctx context.Context, item *pb.Item) error {
		<-gate // an error would end with the time of a clock that stands still
		return n.returnSlice(context.WithoutCancel(ctx), item)
	}, n.ownerOfKey)
	open = sync.OnceFunc(func() { close(gate) })
	n.t.Cleanup(open)
	return open
}

// endOf is a settle, a cancel or progress of a reservation.
func endOf(kind, key, id string) proto.Message {
	if kind == "cancel" {
		return &pb.CancelRequest{Key: key, RequestId: id}
	}
	return &pb.SettleRequest{Key: key, RequestId: id, OutputTokens: new(int64(1)), Final: new(kind == "settle")}
}

// doOne has n do one call.
func (n *node) doOne(ctx context.Context, request proto.Message, origin call.Origin) *pb.Result {
	results := n.Do(ctx, []call.Call{call.FromItem(itemOf(request), origin)})
	defer results.Release()
	return proto.CloneOf(results.Get(0))
}

// TestEndWhileReturning: while the owner has not acknowledged the return of a slice, whoever
// settles, cancels or reports progress of one of its reservations is asked to try again, at
// every member and by the outbox. It does not reach the owner, which does not know the
// reservation. After that, it does.
func TestEndWhileReturning(t *testing.T) {
	nodes := newCluster(t, 3)
	owner, n := nodes[0], nodes[1]
	open := n.holdReturns()
	key := owner.ownedBy(0)
	want := makeBusy(t, owner, n, key)
	var ends []proto.Message
	for _, kind := range []string{"settle", "cancel", "progress"} {
		for range nodes {
			ends = append(ends, endOf(kind, key, heldReserve(t, n, key, 20, 30).RequestId))
		}
	}
	n.holder.Recall(key)
	soon := func() context.Context { return waittest.Context(t, 200*time.Millisecond) }
	for i, q := range ends {
		at := nodes[i%3]
		if r := at.doOne(soon(), q, call.API); code(r) != codes.Unavailable {
			t.Errorf("%v at %s before the return = %v, want unavailable", q, at.name, r)
		}
		c := call.Of(q)
		err := at.deliver(soon(), c.Copy())
		if _, final := outbox.ReasonOf(err); err == nil || final {
			t.Errorf("%v by the outbox of %s before the return = %v, want an error that is not final", q, at.name, err)
		}
	}
	open()
	for i, q := range ends {
		at := nodes[i%3]
		if r := at.doOne(waittest.Context(t, testWait), q, call.API); r.GetSettlement() == nil {
			t.Errorf("%v at %s = %v, want it done after the return", q, at.name, r)
		}
		c := call.Of(q)
		if err := at.deliver(waittest.Context(t, testWait), c.Copy()); err != nil {
			t.Errorf("%v by the outbox of %s, again = %v", q, at.name, err)
		}
	}
	want.add(charged{requests: 6, tokens: 3*21 + 3*50})
	wantUsed(t, owner, key, want)
}

// TestStreamedEndWhileReturning: what comes by a stream neither waits for the return of a
// slice nor is forwarded, as all calls of the stream would wait.
func TestStreamedEndWhileReturning(t *testing.T) {
	for _, origin := range []call.Origin{call.MemberStream, call.ClientStream} {
		nodes := newCluster(t, 2)
		owner, n := nodes[0], nodes[1]
		open := n.holdReturns()
		key := owner.ownedBy(0)
		makeBusy(t, owner, n, key)
		held, kept := heldReserve(t, n, key, 20, 30), heldReserve(t, n, key, 20, 30)
		if r := n.doOne(t.Context(), endOf("settle", key, held.RequestId), origin); r.GetSettlement().GetRoute() != pb.Route_ROUTE_SLICE {
			t.Errorf("Settle() while the slice is held = %v, want it settled", r)
		}
		q := endOf("progress", key, kept.RequestId)
		began := time.Now()
		if r := n.doOne(t.Context(), q, origin); code(r) != codes.Unavailable {
			t.Errorf("progress, before the return = %v, want unavailable", r)
		}
		if took := time.Since(began); took > testWait/2 {
			t.Errorf("progress, before the return, took %v, want no wait", took)
		}
		open()
		awaitReturns(t, key, nodes...)
		if r := n.doOne(t.Context(), q, origin); r.GetRedirect().GetOwner() != owner.name {
			t.Errorf("progress, after the return = %v, want a redirect to the owner", r)
		}
	}
}

// TestDrainingHolder: a member that leaves returns its slices before it refuses the streams of
// other members. Even if it does not, or while the return is under way, nobody is told that
// its reservations are unknown.
func TestDrainingHolder(t *testing.T) {
	nodes := newCluster(t, 3)
	owner, n, other := nodes[0], nodes[1], nodes[2]
	open := n.holdReturns()
	key := owner.ownedBy(0)
	makeBusy(t, owner, n, key)
	q := endOf("settle", key, heldReserve(t, n, key, 20, 30).RequestId)
	returned := make(chan error, 1)
	go func() { returned <- n.ReturnSlices(waittest.Context(t, testWait)) }()
	want := func(at *node, when string) {
		t.Helper()
		if r := at.doOne(waittest.Context(t, 300*time.Millisecond), q, call.API); code(r) != codes.Unavailable {
			t.Errorf("Settle() at %s %s = %v, want unavailable", at.name, when, r)
		}
	}
	waittest.Until(t, "the slices to end", func() bool { return n.Status().Slices.PendingReturns > 0 })
	want(other, "during the return")
	n.Drain()
	want(other, "after the streams have ended")
	want(owner, "after the streams have ended")
	open()
	if err := <-returned; err != nil {
		t.Errorf("ReturnSlices() = %v", err)
	}
	for _, at := range nodes {
		if r := at.doOne(waittest.Context(t, testWait), q, call.API); r.GetSettlement().GetStatus() != pb.ReservationStatus_RESERVATION_STATUS_SETTLED {
			t.Errorf("Settle() at %s after the return = %v, want it settled", at.name, r)
		}
	}
}
