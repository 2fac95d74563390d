// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/ring"
)

// TestStepIsTheModel compares random events with the naive model. It also checks
// that terms never decrease and that a state does not change after it was
// returned.
func TestStepIsTheModel(t *testing.T) {
	all := []string{"a", "b", "c"}
	partitions := make([]int, ring.Partitions)
	for p := range partitions {
		partitions[p] = p
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := mustNew(t, "b", rapid.Uint64().Draw(rt, "boot"))
		model := newNaive(s)
		type recorded struct {
			state *State
			then  contents
		}
		history := []recorded{{s, read(s)}}
		// Few partitions, so that reports collide; two of them share a chunk.
		some := rapid.SampledFrom([]int{0, 1, chunkSize - 1, chunkSize, 2000, ring.Partitions - 1})
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "ring") {
				var members []string
				for _, m := range all {
					if rapid.Bool().Draw(rt, m) {
						members = append(members, m)
					}
				}
				e := RingChange{Table: tableOf(t, members...), Fenced: rapid.Bool().Draw(rt, "fenced")}
				s, _ = Step(s, e)
				model.ring(e.Table, e.Fenced, partitions)
			} else {
				var reports TermReports
				for range rapid.IntRange(0, 6).Draw(rt, "reports") {
					c := TermReport{some.Draw(rt, "partition"), rapid.Uint64Range(0, 8<<tagBits).Draw(rt, "term")}
					reports = append(reports, c)
					model.report(c)
				}
				s, _ = Step(s, reports)
			}
			if err := model.differs(s, partitions); err != nil {
				rt.Fatal(err)
			}
			if got := countsOf(s); got != s.counts {
				rt.Fatalf("Count says %v, want %v", s.counts, got)
			}
			now := read(s)
			for p, before := range history[len(history)-1].then.terms {
				if now.terms[p] < before {
					rt.Fatalf("the term of %d decreased from %#x to %#x", p, before, now.terms[p])
				}
			}
			history = append(history, recorded{s, now})
		}
		for i, k := range history {
			if read(k.state) != k.then {
				rt.Fatalf("state %d of %d has changed after it was returned", i, len(history))
			}
		}
	})
}

// TestTermsAreTakenByOneBoot checks that two boots take different terms, each
// above the term that it knows.
func TestTermsAreTakenByOneBoot(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := mustNew(t, "a", rapid.Uint64().Draw(rt, "boot of a")), mustNew(t, "b", rapid.Uint64().Draw(rt, "boot of b"))
		terms := rapid.Uint64Range(0, 1<<63)
		x, y := terms.Draw(rt, "known to a"), terms.Draw(rt, "known to b")
		if a.nextTerm(x) <= x || b.nextTerm(y) <= y {
			rt.Errorf("nextTerm(%#x) = %#x, nextTerm(%#x) = %#x", x, a.nextTerm(x), y, b.nextTerm(y))
		}
		if a.tag != b.tag && a.nextTerm(x) == b.nextTerm(y) {
			rt.Errorf("both take %#x", a.nextTerm(x))
		}
	})
}
