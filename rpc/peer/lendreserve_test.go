// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestReservesFromSlices: members answer reserves of a hot key from slices. Whatever is
// settled, cancelled or left open, at the member that answered or another, the owner has what
// the calls have cost in the end, and nothing more is admitted than the limit.
func TestReservesFromSlices(t *testing.T) {
	nodes := newCluster(t, 3)
	owner := nodes[0]
	key := owner.ownedBy(0)
	var charged, fromSlice, open, ended atomic.Int64
	charged.Add(heat(t, nodes[1], key))
	charged.Add(heat(t, nodes[2], key))
	ctx := waittest.Context(t, testWait)
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			n := nodes[1+i%2]
			for range hotLimit {
				owner.owners.clock.Add(int64(lendInterval / 100))
				d, err := n.Reserve(ctx, &pb.ReserveRequest{Key: key, Tier: "hot", InputTokens: r.Int64N(100), MaxOutputTokens: new(r.Int64N(50))})
				if err != nil {
					t.Errorf("Reserve() at %s = %v", n.name, err)
					return
				}
				if d.Outcome == pb.Outcome_OUTCOME_DENIED {
					return
				}
				charged.Add(1)
				if d.Route == pb.Route_ROUTE_SLICE {
					fromSlice.Add(1)
					if !strings.HasPrefix(d.RequestId, requestid.HeldPrefix+n.name) {
						t.Errorf("a reserve from a slice of %s has the id %q", n.name, d.RequestId)
					}
				}
				at := nodes[r.IntN(3)]
				switch r.IntN(4) {
				case 0:
					open.Add(1)
				case 1:
					s, err := at.Cancel(ctx, &pb.CancelRequest{Key: key, RequestId: d.RequestId})
					if err != nil || s.Status != pb.ReservationStatus_RESERVATION_STATUS_CANCELLED || s.RequestId != d.RequestId {
						t.Errorf("Cancel(%s) at %s = %v, %v", d.RequestId, at.name, s, err)
						return
					}
					charged.Add(-1)
					ended.Add(1)
				default:
					s, err := at.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: d.RequestId, OutputTokens: new(r.Int64N(100))})
					if err != nil || s.Status != pb.ReservationStatus_RESERVATION_STATUS_SETTLED || s.RequestId != d.RequestId {
						t.Errorf("Settle(%s) at %s = %v, %v", d.RequestId, at.name, s, err)
						return
					}
					ended.Add(1)
				}
			}
		})
	}
	callers.Wait()
	if fromSlice.Load() == 0 {
		t.Error("no reserve was answered from a slice")
	}
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
	used := owner.used(key, "hot", "requests")
	if used != charged.Load() || used > hotLimit {
		t.Errorf("the owner has %d requests, want the %d that were admitted and not cancelled", used, charged.Load())
	}
	if got := int64(owner.metric("bucketring_reservations")); got != open.Load() {
		t.Errorf("the owner has %d live reservations, want the %d that are open", got, open.Load())
	}
	t.Logf("%d reserves from slices, %d ended, %d open", fromSlice.Load(), ended.Load(), open.Load())
}
