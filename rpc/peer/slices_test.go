// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// hotLimit is the limit of tier hot in requests. The clock of the tests stands still, so that
// it does not refill.
const hotLimit = 6_000

// heat checks a key at n so often that slices of it are lent. It returns how many checks were
// admitted.
func heat(t *testing.T, n *node, key string) (admitted int64) {
	t.Helper()
	return heatTier(t, n, key, "hot")
}

// heatTier is heat for a tier.
func heatTier(t *testing.T, n *node, key, tier string) (admitted int64) {
	t.Helper()
	q := &pb.CheckRequest{Key: key, Tier: tier}
	calls := make([]*pb.CheckRequest, 500)
	for i := range calls {
		calls[i] = proto.CloneOf(q)
		calls[i].RequestId = fmt.Sprint(n.name, "-", i) // never from a slice
	}
	for round := range 3 {
		for _, c := range calls {
			c.RequestId = fmt.Sprint(c.RequestId, "-", round)
		}
		b, err := n.Batch(waittest.Context(t, testWait), batchOf(calls...))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range b.Results {
			if r.GetDecision().GetOutcome() != pb.Outcome_OUTCOME_ALLOWED || r.GetSlice() != nil {
				t.Fatalf("check %d of %s = %v, want it allowed, without a slice", i, key, r)
			}
			admitted++
		}
	}
	return admitted
}

// checkHot checks a key of tier hot once.
func checkHot(t *testing.T, n *node, key string) *pb.Decision {
	t.Helper()
	d, err := n.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: key, Tier: "hot"})
	if err != nil {
		t.Fatalf("Check() at %s = %v", n.name, err)
	}
	return d
}

// hold has n hold a slice of a key that is hot already. It returns how many checks that took.
func hold(t *testing.T, n *node, key string) (admitted int64) {
	t.Helper()
	waittest.Until(t, "a slice to be held", func() bool {
		if d := checkHot(t, n, key); d.Outcome != pb.Outcome_OUTCOME_ALLOWED {
			t.Fatalf("Check() = %v, want it allowed", d)
		}
		admitted++
		held, _ := n.held().Status()
		return held > 0
	})
	return admitted
}

// exhaust checks a key at n, one call after the other, until one is denied. It returns how
// many were admitted.
func exhaust(t *testing.T, n *node, key string) (admitted int64) {
	t.Helper()
	for ; ; admitted++ {
		if d := checkHot(t, n, key); d.Outcome == pb.Outcome_OUTCOME_DENIED {
			return admitted
		}
	}
}

// returnAll waits until all slices are returned.
func returnAll(t *testing.T, nodes ...*node) {
	t.Helper()
	for _, n := range nodes {
		n.held().endAll()
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

// TestSlices: a hot key that is checked at members that do not own it is answered from
// slices, never too often, and what was spent is charged once.
func TestSlices(t *testing.T) {
	nodes := newCluster(t, 3, holding)
	owner := nodes[0]
	key := owner.ownedBy(0)
	var admitted, fromSlice atomic.Int64
	admitted.Add(heat(t, nodes[1], key))
	admitted.Add(heat(t, nodes[2], key))
	var callers sync.WaitGroup
	for i := range 8 {
		callers.Go(func() {
			n := nodes[1+i%2]
			for range hotLimit {
				owner.owners.clock.Add(int64(lendInterval / 100))
				d, err := n.Check(context.Background(), &pb.CheckRequest{Key: key, Tier: "hot"})
				switch {
				case err != nil:
					t.Errorf("Check() at %s = %v", n.name, err)
					return
				case d.Outcome == pb.Outcome_OUTCOME_ALLOWED:
					admitted.Add(1)
					if d.Route == pb.Route_ROUTE_SLICE {
						fromSlice.Add(1)
						if d.Owner != owner.name || d.RequestId == "" || d.Tier != "hot" || len(d.Limits) != 1 {
							t.Errorf("Check() from a slice = %v, want the decision of %s", d, owner.name)
							return
						}
					}
				case d.Route == pb.Route_ROUTE_SLICE:
					t.Errorf("Check() from a slice = %v, want no denial from memory", d)
					return
				default:
					return
				}
			}
		})
	}
	waittest.Until(t, "an answer from a slice", func() bool { return fromSlice.Load() > 0 })
	admitted.Add(exhaust(t, owner, key))
	callers.Wait()
	if n := admitted.Load(); n > hotLimit {
		t.Errorf("%d checks admitted, want at most %d", n, hotLimit)
	}
	if fromSlice.Load() == 0 {
		t.Error("no check was answered from a slice")
	}
	returnAll(t, nodes...)
	if used := owner.used(key, "hot", "requests"); used != admitted.Load() {
		t.Errorf("the owner has %d requests, want the %d that were admitted", used, admitted.Load())
	}
	if admitted.Add(exhaust(t, owner, key)); admitted.Load() != hotLimit {
		t.Errorf("%d checks admitted in the end, want %d", admitted.Load(), hotLimit)
	}
	lent, returned := owner.metric("bucketring_slices_lent_total"), owner.metric("bucketring_slices_returned_total")
	if lent == 0 || returned != lent || owner.metric("bucketring_slices_expired_total") != 0 {
		t.Errorf("%v slices lent and %v returned, want all to be returned", lent, returned)
	}
	observed := 0.0
	for _, n := range nodes {
		observed += n.metric("bucketring_decision_duration_seconds", "slice")
	}
	if observed != float64(fromSlice.Load()) {
		t.Errorf("%v decisions from slices observed, want %d", observed, fromSlice.Load())
	}
	t.Logf("%d of %d from slices, %v lent, %v recalls", fromSlice.Load(), admitted.Load(), lent, owner.metric("bucketring_slice_recalls_total"))
}

// TestRecall: an owner takes back what members hold before it denies a call, whichever
// member asks, so that the count is exact.
func TestRecall(t *testing.T) {
	for _, by := range []string{"owner", "holder", "another"} {
		t.Run("denial of a call of "+by, func(t *testing.T) {
			nodes := newCluster(t, 3, holding)
			owner := nodes[0]
			asker := map[string]*node{"owner": owner, "holder": nodes[1], "another": nodes[2]}[by]
			key := owner.ownedBy(0)
			admitted := heat(t, nodes[1], key)
			admitted += hold(t, nodes[1], key)
			if by == "holder" { // with a call that the slice is not for
				for {
					d, err := asker.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: key, Tier: "hot", Requests: new(int64(2))})
					if err != nil {
						t.Fatal(err)
					}
					if d.Outcome == pb.Outcome_OUTCOME_DENIED {
						break
					}
					admitted += 2
				}
			}
			admitted += exhaust(t, asker, key)
			if admitted != hotLimit {
				t.Errorf("%d checks admitted, want %d", admitted, hotLimit)
			}
			if n := owner.metric("bucketring_slice_recalls_total"); n == 0 {
				t.Error("no slice was recalled")
			}
			returnAll(t, nodes...)
			if used := owner.used(key, "hot", "requests"); used != hotLimit {
				t.Errorf("the owner has %d requests, want %d", used, hotLimit)
			}
			// A call that is denied, recalled for, and decided again is one decision.
			decisions := 0.0
			for _, outcome := range []string{"allowed", "denied"} {
				decisions += owner.metric("bucketring_decisions_total", outcome)
			}
			if d := owner.metric("bucketring_decision_duration_seconds", "local"); d != decisions {
				t.Errorf("%v decisions counted and %v durations, want as many", decisions, d)
			}
		})
	}
}

// TestSilentHolder: a holder that does not return what is recalled is asked once. What it
// holds stays charged.
func TestSilentHolder(t *testing.T) {
	nodes := newCluster(t, 3, holding)
	owner, silent := nodes[0], nodes[1]
	silent.held().mute = true
	key := owner.ownedBy(0)
	admitted := heat(t, silent, key)
	admitted += hold(t, silent, key)
	before := silent.held().taken()
	for range 3 {
		admitted += exhaust(t, owner, key)
		owner.owners.clock.Add(int64(recallWait))
	}
	if admitted >= hotLimit {
		t.Errorf("%d checks admitted, want less than %d: the others are lent", admitted, hotLimit)
	}
	if n := owner.metric("bucketring_slice_recalls_total"); n != 1 {
		t.Errorf("%v recalls, want 1", n)
	}
	if held := owner.Status().Slices.Lent; held != 1 {
		t.Errorf("%d slices are lent, want 1", held)
	}
	if d := checkHot(t, silent, key); d.Route != pb.Route_ROUTE_SLICE || silent.held().taken() != before+1 {
		t.Errorf("Check() at the holder = %v, want it answered from its slice", d)
	}
	admitted++
	silent.held().endAll()
	waittest.Until(t, "the slice to be returned", func() bool { return owner.Status().Slices.Lent == 0 })
	if admitted += exhaust(t, owner, key); admitted != hotLimit {
		t.Errorf("%d checks admitted in the end, want %d", admitted, hotLimit)
	}
}

// TestSliceOfFormerOwner: when another member owns the key, the return goes there, and the
// member that has lent the slice knows no more of it.
func TestSliceOfFormerOwner(t *testing.T) {
	nodes := newCluster(t, 3, holding)
	former, n := nodes[0], nodes[1]
	key := former.ownedBy(0)
	heat(t, n, key)
	hold(t, n, key)
	for _, m := range nodes[1:] {
		m.see(nodes[1:]...)
	}
	former.see(nodes[1:]...)
	waittest.Until(t, "the former owner to forget what it has lent", func() bool { return former.Status().Slices.Lent == 0 })
	n.held().endAll()
	// These members do not hand over state: the next owner does not know the slice.
	waittest.Until(t, "the return to be acknowledged", func() bool { return n.Status().Slices.PendingReturns == 0 })
	if d := checkHot(t, n, key); d.Outcome != pb.Outcome_OUTCOME_ALLOWED || d.Route == pb.Route_ROUTE_SLICE || d.Owner == former.name {
		t.Errorf("Check() = %v, want it allowed by the next owner", d)
	}
}

// TestReturnSlices: a member that leaves returns what it holds, and then forwards every
// check.
func TestReturnSlices(t *testing.T) {
	nodes := newCluster(t, 2, holding)
	owner, leaving := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	admitted := heat(t, leaving, key)
	admitted += hold(t, leaving, key)
	for range 10 {
		checkHot(t, leaving, key)
		admitted++
	}
	if err := leaving.ReturnSlices(waittest.Context(t, testWait)); err != nil {
		t.Fatalf("ReturnSlices() = %v", err)
	}
	if s := leaving.Status().Slices; s != (SliceStatus{}) {
		t.Errorf("status of the member that leaves = %+v, want no slices", s)
	}
	if used := owner.used(key, "hot", "requests"); used != admitted {
		t.Errorf("the owner has %d requests, want %d", used, admitted)
	}
	if d := checkHot(t, leaving, key); d.Route != pb.Route_ROUTE_FORWARD {
		t.Errorf("Check() after that = %v, want it forwarded", d)
	}
	if err := leaving.ReturnSlices(waittest.Context(t, testWait)); err != nil {
		t.Errorf("ReturnSlices() again = %v", err)
	}
}

// TestSliceWithoutHeir: while the heir of an owner is silent, the answers that bring slices are
// not sent, and nothing of the limit is lost with them.
func TestSliceWithoutHeir(t *testing.T) {
	nodes := newCluster(t, 2, holding)
	owner, n := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	admitted := heat(t, n, key)
	owner.owners.waits.Store(true) // and durable is 0: the heir has nothing
	for i := range 5 {
		owner.owners.clock.Add(int64(lendInterval))
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if d, err := n.Check(ctx, &pb.CheckRequest{Key: key, Tier: "hot"}); err == nil && d.GetOutcome() == pb.Outcome_OUTCOME_ALLOWED {
			admitted++
		}
		cancel()
		if lent := owner.metric("bucketring_slices_lent_total"); lent != float64(i+1) {
			t.Fatalf("%v slices lent after %d calls that ask, want each to be lent one", lent, i+1)
		}
		if s := owner.Status().Slices; s.Lent != 0 {
			t.Errorf("%d slices are lent, want those taken back whose answers are not sent", s.Lent)
		}
	}
	owner.owners.durable.Store(math.MaxUint64)
	if err := n.Flush(waittest.Context(t, testWait)); err != nil {
		t.Fatal(err)
	}
	if used := owner.used(key, "hot", "requests"); used != admitted {
		t.Errorf("the owner has %d requests, want the %d that were admitted", used, admitted)
	}
	if admitted += exhaust(t, owner, key); admitted != hotLimit {
		t.Errorf("%d checks admitted in the end, want %d", admitted, hotLimit)
	}
}

// TestRecallNearTheEnd: when less than a fifth of a limit is left, what is lent of it is
// recalled, before any call is denied.
func TestRecallNearTheEnd(t *testing.T) {
	nodes := newCluster(t, 3, holding)
	owner, n, another := nodes[0], nodes[1], nodes[2]
	key := owner.ownedBy(0)
	admitted := heat(t, n, key)
	admitted += hold(t, n, key)
	q := &pb.CheckRequest{Key: key, Tier: "hot", Requests: new(hotLimit*9/10 - owner.used(key, "hot", "requests"))}
	if d, err := owner.Check(t.Context(), q); err != nil || d.Outcome != pb.Outcome_OUTCOME_ALLOWED {
		t.Fatalf("Check() = %v, %v, want it allowed", d, err)
	}
	admitted += q.GetRequests()
	waittest.Until(t, "the return of the slice", func() bool {
		owner.owners.clock.Add(int64(lendInterval))
		if d := checkHot(t, another, key); d.Outcome != pb.Outcome_OUTCOME_ALLOWED {
			t.Fatalf("Check() = %v, want it allowed", d)
		}
		admitted++
		return owner.Status().Slices.Lent == 0
	})
	if n := owner.metric("bucketring_slice_recalls_total"); n == 0 {
		t.Error("no slice was recalled")
	}
	if admitted += exhaust(t, another, key); admitted != hotLimit {
		t.Errorf("%d checks admitted, want %d", admitted, hotLimit)
	}
}

// TestReturnWithoutOwner: a return is not decided in fallback, but fails and is sent again.
func TestReturnWithoutOwner(t *testing.T) {
	nodes := newCluster(t, 2, holding)
	owner, n := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	admitted := heat(t, n, key)
	admitted += hold(t, n, key)
	owner.listener.setFrozen(true)
	n.held().endAll()
	item := &pb.Item{Call: &pb.Item_SliceReturn{SliceReturn: &pb.SliceReturn{Key: key, Slice: "slice:x:1"}}}
	soon := waittest.Context(t, 100*time.Millisecond)
	if err := n.returnSlice(soon, item); err == nil {
		t.Error("returnSlice() to an owner that does not answer = nil, want an error")
	}
	if err := n.deliver(soon, item); err == nil {
		t.Error("deliver() to an owner that does not answer = nil, want an error")
	}
	if s := n.Status(); s.Slices.PendingReturns != 1 || s.Outbox != 0 {
		t.Errorf("status = %+v, want 1 pending return, and nothing in the outbox", s)
	}
	owner.listener.setFrozen(false)
	waittest.Until(t, "the return to be acknowledged", func() bool { return n.Status().Slices.PendingReturns == 0 })
	if used := owner.used(key, "hot", "requests"); used != admitted {
		t.Errorf("the owner has %d requests, want %d", used, admitted)
	}
}

// TestNoSlice: checks with an id of the caller, and calls of the owner's own callers, are
// never answered from a slice.
func TestNoSlice(t *testing.T) {
	nodes := newCluster(t, 2, holding)
	owner, n := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	heat(t, n, key)
	hold(t, n, key)
	ctx := waittest.Context(t, testWait)
	for _, q := range []*pb.CheckRequest{
		{Key: key, Tier: "hot", RequestId: "mine"},
		{Key: key, Tier: "hot", Requests: new(int64(3))},
	} {
		if d, err := n.Check(ctx, q); err != nil || d.Route != pb.Route_ROUTE_FORWARD {
			t.Errorf("Check(%v) = %v, %v, want it forwarded", q, d, err)
		}
	}
	item := itemOf(&pb.CheckRequest{Key: key, Tier: "hot"})
	item.TakesSlice = true // for members and clients with a stream
	for _, n := range nodes {
		b, err := n.Batch(ctx, &pb.BatchRequest{Items: []*pb.Item{item}})
		if err != nil || b.Results[0].GetDecision() == nil || b.Results[0].GetSlice() != nil {
			t.Errorf("Batch() at %s = %v, %v, want a decision without a slice", n.name, b, err)
		}
	}
	recall := &pb.Item{Call: &pb.Item_SliceRecall{SliceRecall: &pb.SliceRecall{Key: key}}}
	b, err := n.Batch(ctx, &pb.BatchRequest{Items: []*pb.Item{recall}})
	if err != nil || b.Results[0].GetError().GetField() != "call" {
		t.Errorf("Batch() with a recall = %v, %v, want it rejected", b, err)
	}
	if held, _ := n.held().Status(); held != 1 {
		t.Errorf("%d slices are held, want 1", held)
	}
}
