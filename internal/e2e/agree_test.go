// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// wantSameOwners checks that all members and the client library agree on the owners
// of n keys, and that the client calls the owners directly.
func (c *cluster) wantSameOwners(t *testing.T, n int) {
	t.Helper()
	keys := numbered("agree", 0, n)
	owners := c.members[0].locate(t, keys)
	for _, m := range c.members[1:] {
		different := 0
		for i, owner := range m.locate(t, keys) {
			if owner != owners[i] {
				if different++; different == 1 {
					t.Errorf("key %s: %s names %q as owner, %s names %q", keys[i], m.name, owner, c.members[0].name, owners[i])
				}
			}
		}
		if different > 1 {
			t.Errorf("%s and %s name different owners for %d of %d keys", m.name, c.members[0].name, different, n)
		}
	}

	var next, wrong, forwarded atomic.Int64
	var group sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	for range workers {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				state, err := c.client.Peek(ctx, client.Query{Key: keys[i]})
				if err != nil || state.Owner != owners[i] {
					if wrong.Add(1) == 1 {
						t.Errorf("client: key %s: owner %q, %v, want %q", keys[i], state.Owner, err, owners[i])
					}
				} else if state.Route != client.Local {
					forwarded.Add(1)
				}
			}
		})
	}
	group.Wait()
	if wrong.Load() > 1 {
		t.Errorf("the client has no or another owner for %d of %d keys", wrong.Load(), n)
	}
	if forwarded.Load() > 0 {
		t.Errorf("the client did not call the owner directly for %d of %d keys", forwarded.Load(), n)
	}
}

// wantBalance checks that the most loaded member owns at most 1.2 times the mean
// number of partitions.
func (c *cluster) wantBalance(t *testing.T) {
	t.Helper()
	ring, err := c.members[0].ring(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	owned := make([]int, len(ring.GetMembers()))
	for i := 0; i+1 < len(ring.GetOwners()); i += 2 {
		owner := int(ring.GetOwners()[i]) | int(ring.GetOwners()[i+1])<<8
		if owner >= len(owned) {
			t.Fatalf("partition %d belongs to member %d of %d", i/2, owner, len(owned))
		}
		owned[owner]++
	}
	partitions, most := len(ring.GetOwners())/2, 0
	for _, n := range owned {
		most = max(most, n)
	}
	if partitions != 4096 || most*len(owned)*10 > partitions*12 {
		t.Errorf("of %d partitions the members own %v, want 4096, and no member more than 1.2 times the mean", partitions, owned)
	}
	t.Logf("partitions owned: %v", owned)
}

// wantOneCount checks that all callers together get a limit of 1,000 exactly, for
// keys of all members in turn.
func (c *cluster) wantOneCount(t *testing.T, what string, callers []caller, rounds int) {
	t.Helper()
	for i, owner := range c.members {
		for _, key := range c.keysOf(t, owner, "count-"+what, (rounds+len(c.members)-1-i)/len(c.members)) {
			wantExactly(t, what+", owner "+owner.name, callers, key)
		}
	}
}

// wantOneReservation reserves through each member and settles through the next one,
// and then does the same with the client library.
func (c *cluster) wantOneReservation(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	for i, from := range c.members {
		to := c.members[(i+1)%len(c.members)]
		key := fmt.Sprintf("reserve-%d/user", i)
		reserve := func() *pb.Decision {
			d, err := from.api.Reserve(ctx, &pb.ReserveRequest{Key: key, Tier: "model", InputTokens: 1000, MaxOutputTokens: new(int64(500))})
			if err != nil {
				t.Fatalf("%s: reserve %s: %v", from.name, key, err)
			}
			return d
		}
		d := reserve()
		if d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED {
			t.Fatalf("%s: reserve %s = %v, want allowed", from.name, key, d)
		}
		if second := reserve(); second.GetOutcome() != pb.Outcome_OUTCOME_DENIED {
			t.Errorf("%s: the second reserve of %s = %v, want denied: there is one slot", from.name, key, second)
		}
		s, err := to.api.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: d.GetRequestId(), OutputTokens: new(int64(200))})
		if err != nil {
			t.Fatalf("%s: settle what %s reserved of %s: %v", to.name, from.name, key, err)
		}
		if s.GetStatus() != pb.ReservationStatus_RESERVATION_STATUS_SETTLED || s.GetOwner() != d.GetOwner() {
			t.Errorf("%s: settle of %s = %v, want settled by %s", to.name, key, s, d.GetOwner())
		}
		left := c.members[(i+2)%len(c.members)].remaining(t, key, "model", "model")
		if left != 10_000-1200 {
			t.Errorf("after 1,200 tokens of 10,000 for %s, %d are left", key, left)
		}
	}

	key := "reserve-client/user"
	r, err := c.client.Reserve(ctx, client.Estimate{Key: key, Tier: "model", InputTokens: 1000, MaxOutputTokens: new(int64(500))})
	if err != nil || r.Denied() {
		t.Fatalf("client: reserve %s = %+v, %v, want allowed", key, r, err)
	}
	s, err := c.dial(t).Reservation(key, r.RequestID).Settle(ctx, client.Usage{InputTokens: new(int64(900)), OutputTokens: new(int64(100))})
	if err != nil || s.Status != client.Settled {
		t.Errorf("another client: settle %s = %+v, %v, want settled", key, s, err)
	}
	if left := c.members[0].remaining(t, key, "model", "model"); left != 10_000-1000 {
		t.Errorf("after 1,000 tokens of 10,000 for %s, %d are left", key, left)
	}
}

// remaining returns the remaining amount of a limit.
func (m *member) remaining(t *testing.T, key, tier, limit string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	state, err := m.api.Peek(ctx, &pb.PeekRequest{Key: key, Tier: tier})
	if err != nil {
		t.Fatalf("%s: peek %s: %v", m.name, key, err)
	}
	for _, l := range state.GetLimits() {
		if l.GetName() == limit {
			return l.GetRemaining()
		}
	}
	t.Fatalf("%s: peek %s = %v, want a limit %s", m.name, key, state, limit)
	return 0
}
