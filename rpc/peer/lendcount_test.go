// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// hotHits is the limit of the counters of these tests.
const hotHits = 20_000

// heatCounter counts a counter at n so often that slices of it are lent. None is lent yet: each
// call looks at the counter, too.
func heatCounter(n *node, key string) (within int64) {
	n.t.Helper()
	hits := make([]server.Count, 500)
	for i := range hits {
		hits[i] = perDay(key, hotHits, 1)
	}
	for range 3 {
		for _, c := range n.count(hits...) {
			if c.Over {
				n.t.Fatalf("Count(%s) = %+v, want it within the limit", key, c)
			}
			within++
		}
	}
	return within
}

// holdHits has n hold a slice of a counter that is hot already.
func holdHits(n *node, key string, owner *node) (within int64) {
	n.t.Helper()
	waittest.Until(n.t, "hits of a slice", func() bool {
		owner.owners.clock.Add(int64(lendInterval))
		c := n.count(perDay(key, hotHits, 1))[0]
		if c.Over {
			n.t.Fatalf("Count(%s) = %+v, want it within the limit", key, c)
		}
		within++
		return c.Route == pb.Route_ROUTE_SLICE
	})
	return within
}

// exhaustHits counts at n until a hit is over the limit. It returns how many were not.
func exhaustHits(n *node, key string) (within int64) {
	n.t.Helper()
	for ; ; within++ {
		if n.count(perDay(key, hotHits, 1))[0].Over {
			return within
		}
	}
}

// allReturned waits until no slice is left.
func allReturned(t *testing.T, key string, nodes ...*node) {
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

// TestCountsFromSlices: three members count on one counter, two of them from slices. No more
// hits than the limit are answered as within it, and every hit is counted once.
func TestCountsFromSlices(t *testing.T) {
	nodes := newCluster(t, 3)
	owner := nodes[0]
	key := owner.ownedBy(0)
	var within, over, fromSlice atomic.Int64
	within.Add(heatCounter(nodes[1], key))
	within.Add(heatCounter(nodes[2], key))
	for _, n := range nodes[1:] {
		within.Add(holdHits(n, key, owner))
	}
	ctx := waittest.Context(t, testWait)
	var callers sync.WaitGroup
	for i := range 9 {
		callers.Go(func() {
			n := nodes[i%3]
			for j := 0; within.Load()+over.Load() < hotHits*3/4 && (n != owner || j < 500); j++ {
				owner.owners.clock.Add(int64(lendInterval / 100))
				counted, err := n.Count(ctx, []server.Count{perDay(key, hotHits, 1)})
				switch {
				case err != nil || counted[0].Err != nil:
					t.Errorf("Count() at %s = %v, %v", n.name, counted, err)
					return
				case counted[0].Over:
					over.Add(1)
				default:
					within.Add(1)
				}
				if c := counted[0]; c.Route == pb.Route_ROUTE_SLICE {
					fromSlice.Add(1)
					if c.Over || c.Limit != hotHits || c.Used > hotHits || c.Owner != owner.name || c.Reset <= 0 {
						t.Errorf("Count() from a slice = %+v", c)
						return
					}
				}
			}
		})
	}
	callers.Wait()
	if fromSlice.Load() == 0 {
		t.Fatal("no hit was counted from a slice")
	}
	if over.Load() != 0 {
		t.Errorf("%d hits were over the limit before it was reached", over.Load())
	}
	for i := range 3 {
		within.Add(exhaustHits(nodes[(i+1)%3], key))
	}
	if within.Load() != hotHits {
		t.Errorf("%d hits were within the limit, want %d", within.Load(), hotHits)
	}
	allReturned(t, key, nodes...)
	if used := owner.counted(key); used != hotHits+3 {
		t.Errorf("the owner has %d hits, want %d", used, hotHits+3)
	}
	if lent, returned := owner.metric("bucketring_slices_lent_total"), owner.metric("bucketring_slices_returned_total"); lent != returned || lent == 0 {
		t.Errorf("%v slices lent and %v returned, want all", lent, returned)
	}
	t.Logf("%d of %d from slices, %v lent, %v recalls", fromSlice.Load(), within.Load(), owner.metric("bucketring_slices_lent_total"), owner.metric("bucketring_slice_recalls_total"))
}

// TestRecallForHits: the owner takes back what members hold before hits are over the limit, and
// before hits are given back.
func TestRecallForHits(t *testing.T) {
	for by, name := range []string{"owner", "holder", "another"} {
		t.Run(name, func(t *testing.T) {
			nodes := newCluster(t, 3)
			owner := nodes[0]
			key := owner.ownedBy(0)
			within := heatCounter(nodes[1], key)
			within += holdHits(nodes[1], key, owner)
			left := hotHits - within
			c := nodes[by].count(perDay(key, hotHits, left))[0]
			if c.Over || c.Used != hotHits {
				t.Errorf("Count() of all that is left, %d = %+v, want it within the limit", left, c)
			}
			if n := owner.metric("bucketring_slice_recalls_total"); n != 1 {
				t.Errorf("%v slices were recalled, want 1", n)
			}
			if c := nodes[by].count(perDay(key, hotHits, 1))[0]; !c.Over || c.Used != hotHits+1 {
				t.Errorf("Count() of one more = %+v, want it over the limit", c)
			}
			if c := nodes[by].count(back(perDay(key, hotHits, hotHits+1)))[0]; c.Used != 0 {
				t.Errorf("Count() that gives all back = %+v, want nothing used", c)
			}
		})
	}
}

// TestGiveBackWhatIsLent: hits that were counted from a slice can be given back.
func TestGiveBackWhatIsLent(t *testing.T) {
	nodes := newCluster(t, 2)
	owner, holder := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	within := heatCounter(holder, key)
	within += holdHits(holder, key, owner)
	if c := holder.count(back(perDay(key, hotHits, within)))[0]; c.Used != 0 || c.Over {
		t.Errorf("Count() that gives back all %d = %+v, want nothing used", within, c)
	}
	allReturned(t, key, nodes...)
	if used := owner.counted(key); used != 0 {
		t.Errorf("the owner has %d hits, want none", used)
	}
}

// TestKilledHolderOfHits: what a member holds that dies stays counted, so that no more hits than
// the limit are within it, and no fewer than that less the slice.
//
// A slice may just be on its way back when its holder ends, so this looks until one is lost.
func TestKilledHolderOfHits(t *testing.T) {
	for i := 0; i < 10 && !t.Failed(); i++ {
		var lost int64
		t.Run("cluster", func(t *testing.T) { lost = killHolderOfHits(t) })
		if lost > 0 {
			return
		}
	}
	if !t.Failed() {
		t.Error("all slices had come back when their holders ended")
	}
}

// killHolderOfHits returns how many hits are lost with a holder.
func killHolderOfHits(t *testing.T) (lost int64) {
	nodes := newCluster(t, 3)
	owner, holder := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	within := heatCounter(holder, key)
	within += holdHits(holder, key, owner)
	holder.kill()
	held := owner.counted(key) - within
	for range 3 {
		within += exhaustHits(owner, key)
		owner.owners.clock.Add(int64(recallWait))
	}
	if lost = hotHits - within; held < 0 || lost < 0 || lost > held {
		t.Fatalf("%d hits were within the limit of %d, want at most %d fewer: what was lent when the holder ended", within, hotHits, held)
	}
	return lost
}
