// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
)

// status is what the tests look at in `bucketring status -o json`.
type status struct {
	Name    string
	Ready   bool
	Cluster struct {
		RingDigest string `json:"ring_digest"`
		Keys       []string
		Members    []struct {
			Name         string
			State        string
			Partitions   int
			PolicyDigest string `json:"policy_digest"`
		}
		Replication struct {
			Safe    bool
			NotSafe string `json:"not_safe"`
			Moving  int
			Copying int
			// Partitions without them.
			WithoutOwner int `json:"without_owner"`
			WithoutHeir  int `json:"without_heir"`
		}
	}
	Slices struct {
		Held           int
		Lent           int
		PendingReturns int `json:"pending_returns"`
	}
}

func statusOf(t *testing.T, http string) (s status) {
	t.Helper()
	out := must(t, binary(t), "status", "-o", "json", "--http", http)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("status of %s: %v in\n%s", http, err, out)
	}
	return s
}

// ownersOf are the owners that `bucketring keys` names.
func ownersOf(t *testing.T, grpc string, keys []string) (owners []string) {
	t.Helper()
	var answer struct {
		Locations []struct{ Key, Owner string }
	}
	out := must(t, binary(t), append([]string{"keys", "-o", "json", "--server", grpc}, keys...)...)
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("keys of %s: %v in\n%s", grpc, err, out)
	}
	for i, l := range answer.Locations {
		if i >= len(keys) || l.Key != keys[i] {
			t.Fatalf("keys of %s answers for %v, want %v", grpc, answer.Locations, keys)
		}
		owners = append(owners, l.Owner)
	}
	return owners
}

// TestDev is three nodes for who tries things out: one limiter, whichever is
// asked.
func TestDev(t *testing.T) {
	serve(t, "dev")
	c := &cluster{}
	for i := range 3 {
		m := newMember(t, fmt.Sprintf("dev-%d", i+1), fmt.Sprintf("127.0.0.1:%d", 6470+10*i), fmt.Sprintf("127.0.0.1:%d", 6471+10*i))
		ready(t, m.http)
		c.members = append(c.members, m)
	}
	c.client = c.dial(t)
	c.awaitOneView(t, waittest.Limit)
	c.wantBalance(t)
	c.wantSameOwners(t, 1024)

	first := statusOf(t, c.members[0].http)
	keys := numbered("dev", 0, 20)
	owners := ownersOf(t, c.members[0].grpc, keys)
	for i, m := range c.members {
		s := statusOf(t, m.http)
		if s.Name != m.name || !s.Ready || s.Cluster.RingDigest != first.Cluster.RingDigest || len(s.Cluster.Members) != 3 {
			t.Errorf("status of %s = %+v, want three members and ring %s", m.name, s, first.Cluster.RingDigest)
		}
		partitions := 0
		for j, other := range s.Cluster.Members {
			partitions += other.Partitions
			if other.Name != c.members[j].name || other.State != "serving" || other.PolicyDigest != first.Cluster.Members[0].PolicyDigest {
				t.Errorf("status of %s says of member %d: %+v, want %s, serving, with the policy of all", m.name, j, other, c.members[j].name)
			}
		}
		if partitions != 4096 {
			t.Errorf("status of %s: members own %d partitions, want 4096", m.name, partitions)
		}
		if got := ownersOf(t, m.grpc, keys); !slices.Equal(got, owners) {
			t.Errorf("keys of %s = %v, want %v as %s says", m.name, got, owners, c.members[0].name)
		}
		a := curl(t, m.http, `{"key":"dev/curl","tier":"free","input_tokens":1200}`)
		if _, left := a.limit(t, "requests"); a.status != 200 || left != int64(9-i) {
			t.Errorf("curl to %s = %d with %d requests left, want 200 with %d", m.name, a.status, left, 9-i)
		}
	}
}
