// SPDX-License-Identifier: Apache-2.0

package ring_test

import (
	"fmt"
	"testing"

	"github.com/bucketring/bucketring/ring"
)

// TestMostLoaded checks that the most loaded member owns at most 1.2
// times the mean, for several naming schemes.
func TestMostLoaded(t *testing.T) {
	for _, n := range []int{2, 3, 5, 10, 30, 100} {
		for _, format := range []string{"limiter-%d", "10.0.0.%d", "node%d.rack1.example", "%d"} {
			members := make([]string, n)
			for i := range members {
				members[i] = fmt.Sprintf(format, i)
			}
			counts, most := loads(mustNew(t, members...))
			least := ring.Partitions
			for _, m := range members {
				least = min(least, counts[m])
			}
			mean := float64(ring.Partitions) / float64(n)
			t.Logf("%3d members %-21s most %.3f, least %.3f of the mean", n, format, float64(most)/mean, float64(least)/mean)
			if float64(most) > 1.2*mean {
				t.Errorf("%d members %s: the most loaded owns %d, want at most 1.2 x %.1f", n, format, most, mean)
			}
		}
	}
}

// TestMovement bounds how many partitions a join and a leave move. The ideal is the
// share of one member; the load bound adds moves between members that stay. The
// log shows the mean of eight clusters; the bounds hold for each of them.
func TestMovement(t *testing.T) {
	const clusters = 8
	for _, n := range []int{3, 5, 10, 30} {
		ideal := float64(ring.Partitions) / float64(n+1)
		var moved, bystanders int
		var worst float64
		for c := range clusters {
			members := make([]string, n+1)
			for i := range members {
				members[i] = fmt.Sprintf("c%d-limiter-%d", c, i)
			}
			joiner := members[n]
			small, large := mustNew(t, members[:n]...), mustNew(t, members...)
			join, leave := ring.Diff(small, large), ring.Diff(large, small)
			if len(join) != len(leave) {
				t.Errorf("%d members: a join moves %d, the leave that undoes it %d", n, len(join), len(leave))
			}
			between := 0
			for _, m := range join {
				if m.To != joiner {
					between++
				}
			}
			if float64(len(join)) > 1.6*ideal {
				t.Errorf("%d -> %d members: %d partitions move, want at most 1.6 x %.0f", n, n+1, len(join), ideal)
			}
			if between > ring.Partitions/50 {
				t.Errorf("%d -> %d members: %d partitions move between others, want at most 2 %%", n, n+1, between)
			}
			worst = max(worst, float64(len(join))/ideal)
			moved, bystanders = moved+len(join), bystanders+between
		}
		const all = clusters * ring.Partitions
		t.Logf("%2d -> %2d and back: moves %4.1f %% (ideal %4.1f %%, worst %.2f x ideal), between others %.1f %%",
			n, n+1, 100*float64(moved)/all, 100/float64(n+1), worst, 100*float64(bystanders)/all)
	}
}
