// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"testing"

	"github.com/bucketring/bucketring/ring"
)

func TestOwners(t *testing.T) {
	nodes := newCluster(t, 3)
	table := nodes[0].table.Load().ring
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
