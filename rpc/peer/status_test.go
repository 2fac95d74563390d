// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"testing"

	"github.com/bucketring/bucketring/ring"
)

func TestOwners(t *testing.T) {
	nodes := newCluster(t, 3)
	table := nodes[0].table.Load().roles.Table()
	at, counts := 0, map[string]int{}
	last := ""
	for _, run := range nodes[0].Owners() {
		if run.Owner == last || run.Partitions <= 0 {
			t.Fatalf("a run of %d of %q follows one of %q", run.Partitions, run.Owner, last)
		}
		for range run.Partitions {
			if want := nodes[table.OwnerIndex(at)].name; run.Owner != want {
				t.Fatalf("partition %d is of %s, want %s", at, run.Owner, want)
			}
			at++
		}
		counts[run.Owner] += run.Partitions
		last = run.Owner
	}
	if at != ring.Partitions {
		t.Errorf("%d partitions, want all %d", at, ring.Partitions)
	}
	for _, m := range nodes[0].Status().Members {
		if counts[m.Name] != m.Partitions {
			t.Errorf("%s owns %d partitions, want %d as in Status", m.Name, counts[m.Name], m.Partitions)
		}
	}
}

func TestOwnersOfNobody(t *testing.T) {
	a, b := newNode(t, "a", &clock{}), newNode(t, "b", &clock{})
	for _, tt := range []struct {
		name  string
		see   Topology
		owner string
	}{
		{"alone", Topology{Others: []Member{b.member()}, Roster: 1}, "a"},
		{"fenced", Topology{Others: []Member{b.member()}, Roster: 1, Fenced: true}, ""},
	} {
		if err := a.SetTopology(tt.see); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if got := a.Owners(); len(got) != 1 || got[0] != (OwnerRun{tt.owner, ring.Partitions}) {
			t.Errorf("%s: owners %v, want %q of all", tt.name, got, tt.owner)
		}
	}
}
