// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// lendToClient has n remember a slice of a key for reserves that a client holds.
func (n *node) lendToClient(key string) {
	n.t.Helper()
	p := ring.PartitionOf(key)
	n.owners.clock.Add(int64(lendInterval))
	if _, ok := n.lender.begin(p, key, 77, limiter.HotRate, 500); !ok {
		n.t.Fatal("nothing may be lent")
	}
	id := requestid.Slice("client", uint64(n.owners.clock.Load()))
	n.lender.add(p, &lentSlice{id: id, key: key, asker: 77, reserve: true, holder: askerName{text: "client"}}, time.Second)
}

// TestUnknownWhileLentToAClient: a reservation that the owner does not know may be in a slice
// of a client. Whoever ends it is to try again, until all slices that were lent before are
// over, and others may be lent meanwhile.
func TestUnknownWhileLentToAClient(t *testing.T) {
	nodes := newCluster(t, 2)
	owner, other := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	ask := func(n *node, kind, id string, origin call.Origin) codes.Code {
		return code(n.doOne(waittest.Context(t, testWait), endOf(kind, key, id), origin))
	}
	want := func(when string, want codes.Code) {
		t.Helper()
		for _, kind := range []string{"settle", "cancel", "progress"} {
			if got := ask(owner, kind, kind+"-1", call.API); got != want {
				t.Errorf("%s at the owner %s = %v, want %v", kind, when, got, want)
			}
			if got := ask(owner, kind, kind+"-2", call.ClientStream); got != want {
				t.Errorf("%s by a stream %s = %v, want %v", kind, when, got, want)
			}
			if got := ask(other, kind, kind+"-3", call.API); got != want {
				t.Errorf("%s at another member %s = %v, want %v", kind, when, got, want)
			}
		}
	}
	want("before anything is lent", codes.NotFound)
	owner.lendToClient(key)
	want("while it may be in a slice", codes.Unavailable)
	want("again", codes.Unavailable)
	for _, id := range []string{requestid.Held(owner.name, "x"), requestid.Fallback(owner.name, "x")} {
		if got := ask(owner, "settle", id, call.API); got != codes.NotFound {
			t.Errorf("Settle(%s) = %v, want not found: it is of no client", id, got)
		}
	}
	withdrawal := call.FromItem(&pb.Item{Attempt: 1, Call: &pb.Item_Cancel{Cancel: &pb.CancelRequest{Key: key, RequestId: "w"}}}, call.API)
	results := owner.Do(t.Context(), []call.Call{withdrawal})
	if results.Code(0) == codes.Unavailable {
		t.Errorf("a withdrawal = %v, want it answered", results.Get(0))
	}
	results.Release()
	owner.owners.clock.Add(int64(10 * time.Second))
	owner.lendToClient(key)
	want("after the slices that were lent before", codes.NotFound)
	// What is remembered for that is bounded, and forgotten.
	p := ring.PartitionOf(key)
	for round := range 2 {
		for i := range maxKeyUnknown {
			if id := fmt.Sprint("many-", round, "-", i); !owner.lender.mayHave(p, key, id) {
				t.Fatalf("mayHave(%s) = false, want true", id)
			}
		}
		if owner.lender.mayHave(p, key, "one too many") {
			t.Error("mayHave() = true for one more than is remembered")
		}
		owner.owners.clock.Add(int64(10 * time.Second))
		owner.lendToClient(key)
	}
}
