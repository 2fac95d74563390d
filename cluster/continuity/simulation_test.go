// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"flag"
	"fmt"
	"testing"
)

var (
	seeds = flag.Int("seeds", 0, "how many seeds TestSim runs; 0: a small fixed set")
	first = flag.Int("first", 0, "the first seed of TestSim")
)

// TestSim runs the simulator. To repeat one seed, use -run 'TestSim/seed_N$'.
func TestSim(t *testing.T) {
	n := 60
	switch {
	case *seeds > 0:
		n = *seeds
	case testing.Short():
		n = 10
	}
	var total simCounters
	for seed := *first; seed < *first+n; seed++ {
		t.Run(fmt.Sprintf("seed_%d", seed), func(t *testing.T) {
			s := runSim(uint64(seed), noBug, false)
			if s.failure != "" {
				t.Fatalf("seed %d: %s", seed, runSim(uint64(seed), noBug, true).report(60))
			}
			total.add(&s.counters)
		})
	}
	t.Logf("%+v", total)
}
