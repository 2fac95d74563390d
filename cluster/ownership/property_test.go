// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/ring"
)

// TestStepIsTheModel compares a history of events with the same rules over plain
// maps, and holds what a member promises on its own: terms never fall, and no
// state changes after it was returned.
func TestStepIsTheModel(t *testing.T) {
	all := []string{"a", "b", "c"}
	partitions := make([]int, ring.Partitions)
	for p := range partitions {
		partitions[p] = p
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := mustNew(t, "b", rapid.Uint64().Draw(rt, "boot"))
		model := newNaive(s)
		type kept struct {
			state *State
			then  contents
		}
		history := []kept{{s, read(s)}}
		// A few partitions, so that claims meet; two of them share a chunk.
		some := rapid.SampledFrom([]int{0, 1, chunkSize - 1, chunkSize, 2000, ring.Partitions - 1})
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "ring") {
				var members []string
				for _, m := range all {
					if rapid.Bool().Draw(rt, m) {
						members = append(members, m)
					}
				}
				e := Ring{Table: tableOf(t, members...), Fenced: rapid.Bool().Draw(rt, "fenced")}
				s, _ = Step(s, e)
				model.ring(e.Table, e.Fenced, partitions)
			} else {
				var heard Heard
				for range rapid.IntRange(0, 6).Draw(rt, "claims") {
					c := Claim{some.Draw(rt, "partition"), rapid.Uint64Range(0, 8<<tagBits).Draw(rt, "term")}
					heard = append(heard, c)
					model.heard(c)
				}
				s, _ = Step(s, heard)
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
					rt.Fatalf("the term of %d fell from %#x to %#x", p, before, now.terms[p])
				}
			}
			history = append(history, kept{s, now})
		}
		for i, k := range history {
			if read(k.state) != k.then {
				rt.Fatalf("state %d of %d has changed since", i, len(history))
			}
		}
	})
}

// TestTermsAreTakenByOneBoot: whatever two boots have heard, what they take
// differs, and is above what they have heard.
func TestTermsAreTakenByOneBoot(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := mustNew(t, "a", rapid.Uint64().Draw(rt, "boot of a")), mustNew(t, "b", rapid.Uint64().Draw(rt, "boot of b"))
		heard := rapid.Uint64Range(0, 1<<63)
		x, y := heard.Draw(rt, "heard by a"), heard.Draw(rt, "heard by b")
		if a.above(x) <= x || b.above(y) <= y {
			rt.Errorf("above(%#x) = %#x, above(%#x) = %#x", x, a.above(x), y, b.above(y))
		}
		if a.tag != b.tag && a.above(x) == b.above(y) {
			rt.Errorf("both take %#x", a.above(x))
		}
	})
}
