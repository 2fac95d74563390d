// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
)

var (
	seeds = flag.Int("seeds", 0, "how many seeds TestSim runs; 0: a small fixed set")
	first = flag.Int("first", 0, "the first seed of TestSim")
)

// Seeds that have found bugs of the protocol. What the simulator has learned since is left out
// of their runs, which would be others with it.
var (
	beforeSlices   = []int{33, 432, 515, 2209, 3319, 5902, 6619, 8092, 9208, 104786, 117294, 118254, 124340, 203658, 210396}
	beforeRemovals = append([]int{403918, 506260}, beforeSlices...)
	regressions    = append([]int{701288, 1002277, 1002711}, beforeRemovals...)
)

// TestSim runs the simulator. To repeat one seed, use -run 'TestSim/seed_N$', with
// -first N -seeds 1 if N is not in the fixed set.
func TestSim(t *testing.T) {
	n := 40
	switch {
	case *seeds > 0:
		n = *seeds
	case testing.Short():
		n = 8
	}
	run := slices.Clone(regressions)
	if *seeds > 0 {
		run = nil
	}
	for seed := *first; seed < *first+n; seed++ {
		run = append(run, seed)
	}
	var total simCounters
	slices.Sort(run)
	for _, seed := range slices.Compact(run) {
		t.Run(fmt.Sprintf("seed_%d", seed), func(t *testing.T) {
			s := runSim(uint64(seed), noBug, false)
			if s.failure != "" {
				t.Fatalf("seed %d: %s", seed, runSim(uint64(seed), noBug, true).report(60))
			}
			total.add(&s.counters)
		})
	}
	t.Logf("%d seeds: %+v", n, total)
	if n >= 40 && (total.moves == 0 || total.takeovers == 0 || total.claims == 0 || total.repaid == 0 || total.leaves == 0 || total.joins == 0 ||
		total.denied == 0 || total.pauses == 0 || total.cuts == 0 || total.settles == 0 || total.falseViews == 0 || total.overlaps == 0 || total.orders == 0 ||
		total.sliced == 0 || total.returned == 0 || total.expired == 0 || total.recalled == 0 || total.repeated == 0 || total.late == 0 || total.elsewhere == 0 || total.former == 0 || total.corrected == 0 || total.kept == 0 || total.removed == 0) {
		t.Errorf("some kinds of events never happened: %+v", total)
	}
}

// TestSimIsDeterministic runs a seed twice and compares everything that happened.
func TestSimIsDeterministic(t *testing.T) {
	a, b := runSim(1, noBug, true), runSim(1, noBug, true)
	for i := range a.trace {
		if i >= len(b.trace) || a.trace[i] != b.trace[i] {
			t.Fatalf("event %d differs", i)
		}
	}
	if len(a.trace) == 0 || len(a.trace) != len(b.trace) || a.counters != b.counters {
		t.Errorf("%d events, then %d", len(a.trace), len(b.trace))
	}
}

// TestSimFindsPlantedBugs checks that the simulator is not blind: each bug is found
// within some seeds, and what is found is a broken promise, not slowness.
func TestSimFindsPlantedBugs(t *testing.T) {
	const within = 500
	for _, b := range plantedBugs {
		t.Run(b.name, func(t *testing.T) {
			for i := range within {
				seed := (b.seed + i) % within
				if s := runSim(uint64(seed), b.bug, false); s.failure != "" && !strings.Contains(s.failure, "liveness") {
					t.Logf("seed %d: %s", seed, s.failure)
					return
				}
			}
			t.Errorf("not found within %d seeds", within)
		})
	}
}
