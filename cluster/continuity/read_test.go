// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"testing"
	"time"
)

// TestTransferTellsItsPhase: while a member joins, each owner tells to whom it sends which
// partition, and the phases of a transfer follow each other.
func TestTransferTellsItsPhase(t *testing.T) {
	s := calm(t, 3)
	for _, n := range s.nodes {
		for p := range simPartitions {
			if x, ok := n.m.Transfer(p); ok {
				t.Fatalf("partition %d: %+v, want no transfer in a calm cluster", p, x)
			}
		}
	}
	s.start("x1", Joining, nil)
	type transfer struct {
		from, to  ID
		partition int
		move      bool
	}
	last := map[transfer]TransferPhase{}
	var seen [phases]bool
	moved := 0
	for end := s.now + 10*time.Second; s.now < end; s.run(t, 50*time.Microsecond) {
		for _, n := range s.nodes {
			for p := range simPartitions {
				x, ok := n.m.Transfer(p)
				if !ok {
					continue
				}
				k := transfer{n.id, x.To, p, x.Move}
				if n.m.Current(p).Owner != n.id || x.To == n.id || x.To.IsZero() {
					t.Fatalf("%v: transfer of a partition of %v", k, n.m.Current(p).Owner)
				}
				if before, found := last[k]; found && x.Phase < before {
					t.Errorf("%+v: %s after %s", k, x.Phase, before)
				} else if !found && x.Move {
					moved++
				}
				last[k], seen[x.Phase] = x.Phase, true
			}
		}
	}
	if owned := len(s.ownedBy("x1")); moved != owned || owned == 0 {
		t.Errorf("%d moves, and x1 owns %d partitions", moved, owned)
	}
	for phase, was := range seen {
		if p := TransferPhase(phase); !was && p != CatchingUp { // few have changes meanwhile
			t.Errorf("no transfer was ever %s", p)
		}
	}
}
