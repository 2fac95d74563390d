// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"testing"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/replication"
)

// TestNoOwnerForLong: calls wait for the next owner of a partition, but not for one that has
// not come for seconds, as on the smaller side of a split.
func TestNoOwnerForLong(t *testing.T) {
	t.Parallel()
	node := newCluster(t, 2)[0]
	gone := func(term uint64) {
		node.owners.set(func(int) replication.Place {
			return replication.Place{Owner: continuity.ID{Name: "gone", Boot: 1}, Term: term}
		})
	}
	gone(1)
	for _, step := range []struct {
		at    time.Duration
		term  uint64
		waits bool
	}{
		{0, 1, true},
		{time.Second, 1, true},
		{2 * time.Second, 1, true},
		{3 * time.Second, 1, false},
		{4 * time.Second, 1, false},
		{4 * time.Second, 2, true},  // an owner came, and went as well
		{20 * time.Second, 2, true}, // nobody has asked in between
		{21 * time.Second, 2, true},
		{22 * time.Second, 2, true},
		{23 * time.Second, 2, false},
	} {
		node.owners.clock.Store(int64(step.at))
		if step.term == 2 && step.at == 4*time.Second {
			gone(2)
		}
		before := node.owners.awaited.Load()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		d, err := node.Check(ctx, &pb.CheckRequest{Key: "acme/alice", Tier: "guarded", InputTokens: 1})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		if d.Route != pb.Route_ROUTE_FALLBACK {
			t.Errorf("at %s: decided by route %s, want fallback", step.at, d.Route)
		}
		if waited := node.owners.awaited.Load() > before; waited != step.waits {
			t.Errorf("at %s: waited for an owner: %t, want %t", step.at, waited, step.waits)
		}
	}
}

// TestOwnerThatIsBusy: after a call has waited for an owner and was answered by it, the next
// ones wait as long as the first.
func TestOwnerThatIsBusy(t *testing.T) {
	t.Parallel()
	var o ownerless
	for at := time.Duration(0); at < 10*maxOwnerless; at += ownerlessPause / 2 {
		if !o.waits(7, 1, at, maxOwnerless) {
			t.Fatalf("at %s: a call does not wait, although the last one was answered", at)
		}
		o.answered(7, at)
	}
}

// TestOwnerWithoutLease: calls wait for the lease of this member, which a new owner gets within
// milliseconds, but not for one that does not come, as when the member is cut off.
func TestOwnerWithoutLease(t *testing.T) {
	t.Parallel()
	node := newCluster(t, 2)[0]
	lease := func(role continuity.Role) {
		node.owners.set(func(int) replication.Place { return replication.Place{Owner: node.owners.self, Role: role} })
	}
	check := func(atMost time.Duration) pb.Route {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), atMost)
		defer cancel()
		d, err := node.Check(ctx, &pb.CheckRequest{Key: "acme/alice", Tier: "guarded", InputTokens: 1})
		if err != nil {
			t.Error(err)
		}
		return d.GetRoute()
	}
	lease(continuity.Fenced)
	before := node.owners.awaited.Load()
	early := make(chan pb.Route, 1)
	go func() { early <- check(testWait) }()
	waittest.Until(t, "the call to wait", func() bool { return node.owners.awaited.Load() > before })
	lease(continuity.Active)
	if route := <-early; route != pb.Route_ROUTE_LOCAL {
		t.Errorf("the lease came while the call waited: route %s, want local", route)
	}

	lease(continuity.Fenced)
	for _, step := range []struct {
		at    time.Duration
		waits bool
	}{
		{time.Minute, true},
		{time.Minute + maxUnleased/2, true},
		{time.Minute + maxUnleased, false},
		{time.Minute + 2*maxUnleased, false},
		{2 * time.Minute, true}, // nobody has asked in between
	} {
		node.owners.clock.Store(int64(step.at))
		before := node.owners.awaited.Load()
		if route := check(300 * time.Millisecond); route != pb.Route_ROUTE_FALLBACK {
			t.Errorf("at %s: route %s, want fallback", step.at, route)
		}
		if waited := node.owners.awaited.Load() > before; waited != step.waits {
			t.Errorf("at %s: waited for a lease: %t, want %t", step.at, waited, step.waits)
		}
	}
	if n := node.Status().Fallbacks["no_lease"]; n != 5 {
		t.Errorf("%d calls were decided in fallback for lack of a lease, want 5", n)
	}
}
