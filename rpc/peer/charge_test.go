// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// charge charges requests on keys, and fails the test on an error of all.
func (n *node) charge(tier string, requests int64, keys ...string) []*pb.Result {
	n.t.Helper()
	b := &pb.BatchRequest{}
	for _, key := range keys {
		b.Items = append(b.Items, itemOf(&pb.CheckRequest{Key: key, Tier: tier, Requests: &requests}))
	}
	out, err := n.Charge(waittest.Context(n.t, testWait), b)
	if err != nil || len(out.GetResults()) != len(keys) {
		n.t.Fatalf("Charge() at %s = %v, %v, want %d answers", n.name, out, err, len(keys))
	}
	return out.GetResults()
}

// TestCharge: what was used counts at its owner, whoever is told and whatever is
// used up.
func TestCharge(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 3)
	var keys []string
	for _, n := range nodes {
		keys = append(keys, n.ownedBy(0))
	}
	for _, n := range nodes {
		for i, r := range n.charge("share", 100, keys...) {
			if d := r.GetDecision(); d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED || d.GetOwner() != nodes[i].name {
				t.Errorf("Charge(%s) at %s = %v, want it charged at %s", keys[i], n.name, r, nodes[i].name)
			}
		}
	}
	// A bucket owes at most what it has room for.
	for i, n := range nodes {
		if got := n.used(keys[i], "share", "requests"); got != 180 {
			t.Errorf("%s has %d requests of %s, want the limit of 90 and as much debt", n.name, got, keys[i])
		}
	}
	if r := nodes[0].charge("nothing", 1, keys...)[1]; codes.Code(r.GetError().GetCode()) != codes.InvalidArgument {
		t.Errorf("Charge() in a tier that does not exist = %v, want InvalidArgument", r)
	}
	if _, err := nodes[0].Charge(t.Context(), &pb.BatchRequest{Items: make([]*pb.Item, server.MaxItems+1)}); grpcstatus.Code(err) != codes.InvalidArgument {
		t.Errorf("Charge() of too much = %v, want InvalidArgument", err)
	}
}

// TestChargeInFallback: an owner that is away hears of all that was used, once,
// also of a limit that denies without it.
func TestChargeInFallback(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2, short, func(o *Options) { o.MaxOutbox = 5 })
	asked, owner := nodes[0], nodes[1]
	owner.listener.setFrozen(true)
	key := func(tier string) string { return owner.ownedBy(0) + "/" + tier }
	for i := range 2 {
		for _, tier := range []string{"share", "closed"} {
			if d := asked.charge(tier, 20, key(tier))[0].GetDecision(); d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED || d.GetRoute() != pb.Route_ROUTE_FALLBACK {
				t.Errorf("Charge(%s) %d = %v, want it charged in fallback", tier, i, d)
			}
		}
	}
	var full bool
	for i := range 2 { // there is room for one more
		r := asked.charge("free", 1, fmt.Sprintf("%s/%d", owner.ownedBy(0), i))[0]
		full = codes.Code(r.GetError().GetCode()) == codes.Unavailable
	}
	if !full {
		t.Error("Charge() that nobody can be told of later has an answer, want Unavailable")
	}
	owner.listener.setFrozen(false)
	waittest.Until(t, "the outbox to be empty", func() bool { return asked.Status().Outbox == 0 })
	for _, tier := range []string{"share", "closed"} {
		if got := owner.used(key(tier), tier, "requests"); got != 40 {
			t.Errorf("the owner has %d requests of %s, want 40", got, tier)
		}
	}
}
