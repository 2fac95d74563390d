// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// bringing is a settle that brings the reservation of runHeld along.
func bringing(s *pb.SettleRequest) *pb.SettleRequest {
	s.Reservation = &pb.ReserveRequest{Key: "acme/alice", RequestId: "r1", InputTokens: 900, MaxOutputTokens: new(int64(800))}
	return s
}

var errUnknown = status.Error(codes.NotFound, "unknown reservation")

// knowsNothing makes a node forget the reservation until a settle brings it along.
func knowsNothing(n *fakeNode) {
	n.behave(func(context.Context, int) error {
		sent := n.sent()
		if s, ok := sent[len(sent)-1].(*pb.SettleRequest); ok && s.Reservation != nil {
			return nil
		}
		return errUnknown
	})
}

// TestReassert: a reservation whose owner and heir are lost is brought along by what is
// reported of it.
func TestReassert(t *testing.T) {
	runHeld(t, func(t scene, n *fakeNode, r *client.Reservation) {
		knowsNothing(n)
		if s, err := r.Progress(t.Context(), client.Usage{OutputTokens: new(int64(100))}); err != nil || s.Status != client.Held {
			t.Errorf("Progress(100) = %q, %v, want held", s.Status, err)
		}
		if s, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(312))}); err != nil || s.Status != client.Settled {
			t.Errorf("Settle(312) = %q, %v, want settled", s.Status, err)
		}
		var settles []*pb.SettleRequest
		for _, q := range n.sent()[1:] {
			if s := q.(*pb.SettleRequest); s.Reservation != nil {
				settles = append(settles, s)
			}
		}
		want := []*pb.SettleRequest{bringing(settle(100, false)), bringing(settle(312, true))}
		if len(settles) != 2 || !proto.Equal(settles[0], want[0]) || !proto.Equal(settles[1], want[1]) {
			t.Errorf("with the reservation came %v, want %v", settles, want)
		}
	})
}

// TestReassertOnlyInLease: a reservation whose lease is over may have been forgotten on
// time. It is not charged again.
func TestReassertOnlyInLease(t *testing.T) {
	runHeld(t, func(t scene, n *fakeNode, r *client.Reservation) {
		knowsNothing(n)
		time.Sleep(31 * time.Second) // of the bubble
		if _, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(312))}); !errors.Is(err, client.ErrUnknownReservation) {
			t.Errorf("Settle(312) after the lease = %v, want ErrUnknownReservation", err)
		}
	})
}

// TestReassertNeedsTheReserve: a handle of another process's reservation knows nothing of
// it.
func TestReassertNeedsTheReserve(t *testing.T) {
	runHeld(t, func(t scene, n *fakeNode, r *client.Reservation) {
		knowsNothing(n)
		other := t.c.Reservation(r.Key, r.RequestID)
		if _, err := other.Settle(t.Context(), client.Usage{}); !errors.Is(err, client.ErrUnknownReservation) {
			t.Errorf("Settle() = %v, want ErrUnknownReservation", err)
		}
		if err := t.c.Reservation(r.Key, r.RequestID).Cancel(t.Context()); !errors.Is(err, client.ErrUnknownReservation) {
			t.Errorf("Cancel() = %v, want ErrUnknownReservation", err)
		}
		if err := r.Cancel(t.Context()); err != nil {
			t.Errorf("Cancel() of a reservation that was lost = %v, want nil: nothing is charged", err)
		}
	})
}

// TestClusterReassert: the owner of reservations and their heir die at once. The calls go
// on, and what they used is charged once, at the members that own the keys then.
func TestClusterReassert(t *testing.T) {
	names := []string{"node1", "node2", "node3", "node4", "node5"}
	nodes := startCluster(t, names...)
	c := dialCluster(t, nodes, "node1", false)
	held := map[string]*client.Reservation{}
	var owner, heir string
	for _, key := range keys(400) {
		place := nodes["node1"].owners.Place(ring.PartitionOf(key))
		if owner == "" && place.Owner.Name != "node1" && place.Heir.Name != "node1" {
			owner, heir = place.Owner.Name, place.Heir.Name
		}
		if owner == "" || place.Owner.Name != owner || place.Heir.Name != heir || len(held) == 10 {
			continue
		}
		r, err := c.Reserve(t.Context(), client.Estimate{Key: key, Tier: "tokens", InputTokens: 100, MaxOutputTokens: new(int64(400)), TTL: 10 * time.Minute})
		if err != nil || r.Denied() || r.Route == client.Fallback {
			t.Fatalf("Reserve(%s) = %v, %v", key, r, err)
		}
		held[key] = r
	}
	nodes[owner].kill()
	nodes[heir].kill()
	delete(nodes, owner)
	delete(nodes, heir)
	var left []string
	for name := range nodes {
		left = append(left, name)
	}
	serving(t, nodes, left...)
	for key, r := range held {
		waittest.Until(t, "an owner of "+key, func() bool {
			s, err := c.Peek(t.Context(), client.Query{Key: key, Tier: "tokens"})
			return err == nil && s.Route != client.Fallback
		})
		for range 2 {
			s, err := r.Settle(t.Context(), client.Usage{OutputTokens: new(int64(23))})
			if err != nil || s.Status != client.Settled || s.Route == client.Fallback {
				t.Fatalf("Settle(%s) = %+v, %v, want settled by an owner", key, s, err)
			}
		}
		s, err := c.Peek(t.Context(), client.Query{Key: key, Tier: "tokens"})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Limits[0].Limit - s.Limits[0].Remaining; got != 123 {
			t.Errorf("%s: %d tokens used, want 123", key, got)
		}
	}
}
