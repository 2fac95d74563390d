// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestTableOfSlices is TestSlices with the holder that members have.
func TestTableOfSlices(t *testing.T) {
	nodes := newCluster(t, 3)
	owner := nodes[0]
	key := owner.ownedBy(0)
	var admitted, fromSlice atomic.Int64
	admitted.Add(heat(t, nodes[1], key))
	admitted.Add(heat(t, nodes[2], key))
	ctx := waittest.Context(t, testWait)
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			n := nodes[1+i%2]
			for range hotLimit {
				owner.owners.clock.Add(int64(lendInterval / 100))
				d, err := n.Check(ctx, &pb.CheckRequest{Key: key, Tier: "hot"})
				if err != nil {
					t.Errorf("Check() at %s = %v", n.name, err)
					return
				}
				if d.Outcome == pb.Outcome_OUTCOME_DENIED {
					return
				}
				admitted.Add(1)
				if d.Route == pb.Route_ROUTE_SLICE {
					fromSlice.Add(1)
				}
			}
		})
	}
	callers.Wait()
	if fromSlice.Load() == 0 {
		t.Error("no check was answered from a slice")
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
	if used := owner.used(key, "hot", "requests"); used != admitted.Load() {
		t.Errorf("the owner has %d requests, want the %d that were admitted", used, admitted.Load())
	}
	if admitted.Add(exhaust(t, owner, key)); admitted.Load() != hotLimit {
		t.Errorf("%d checks admitted in the end, want %d", admitted.Load(), hotLimit)
	}
	t.Logf("%d of %d from slices, %v lent, %v recalls", fromSlice.Load(), admitted.Load(), owner.metric("bucketring_slices_lent_total"), owner.metric("bucketring_slice_recalls_total"))
}

// TestSliceOfADeadOwner: while a slice lasts, no check is decided without the owner, not even
// the one that was to renew the slice.
func TestSliceOfADeadOwner(t *testing.T) {
	nodes := newCluster(t, 2)
	owner, holder := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	heat(t, holder, key)
	waittest.Until(t, "a slice", func() bool {
		owner.owners.clock.Add(int64(lendInterval))
		checkHot(t, holder, key)
		return holder.Status().Slices.Held == 1
	})
	owner.kill()
	fromSlice := 0
	for holder.Status().Slices.Held == 1 {
		if d := checkHot(t, holder, key); d.Route != pb.Route_ROUTE_SLICE {
			t.Fatalf("Check() = %v after %d checks from a slice that lasts, want it from the slice", d, fromSlice)
		}
		fromSlice++
	}
	if fromSlice < 8 {
		t.Errorf("%d checks were answered from the slice, want more", fromSlice)
	}
}
