// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"testing"

	"github.com/bucketring/bucketring/ring"
)

// BenchmarkAdmit is what each call that comes from another member costs.
func BenchmarkAdmit(b *testing.B) {
	s := follow(b, mustNew(b, "a", 1), "a", "b", "c")
	b.ReportAllocs()
	decide := 0
	for i := 0; b.Loop(); i++ {
		if s.Admit(i%ring.Partitions, 0).Decide {
			decide++
		}
	}
}

// BenchmarkHeard is what a message costs that says one new term, nothing new, or
// a new term of each partition in a batch of the largest size.
func BenchmarkHeard(b *testing.B) {
	s := follow(b, mustNew(b, "a", 1), "a", "b", "c")
	full := make(Heard, 512)
	for i := range full {
		full[i] = Claim{i * ring.Partitions / len(full), term(9)}
	}
	known, _ := Step(s, full)
	for name, step := range map[string]struct {
		s *State
		h Heard
	}{"one": {s, full[:1]}, "nothing": {known, full}, "512": {s, full}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Step(step.s, step.h)
			}
		})
	}
}

// BenchmarkRing is what a join and the leave that undoes it cost.
func BenchmarkRing(b *testing.B) {
	two, three := tableOf(b, "a", "b"), tableOf(b, "a", "b", "c")
	s := follow(b, mustNew(b, "a", 1), "a", "b")
	b.ReportAllocs()
	for b.Loop() {
		s, _ = Step(s, Ring{Table: three})
		s, _ = Step(s, Ring{Table: two})
	}
}

// TestReadingAllocatesNothing is the proof for the path of every call; a message
// that says nothing new is on it too.
func TestReadingAllocatesNothing(t *testing.T) {
	s := follow(t, mustNew(t, "a", 1), "a", "b")
	var heard Event = Heard{{1, s.Term(1)}, {2, s.Term(2)}}
	got := testing.AllocsPerRun(1000, func() {
		for p := range 8 {
			if a := s.Admit(p, s.Term(p)); a.Learn || a.Decide != (s.Role(p) == Active) {
				t.Errorf("Admit(%d) = %+v", p, a)
			}
		}
		if next, _ := Step(s, heard); next != s {
			t.Error("a new state with nothing new")
		}
	})
	if got != 0 {
		t.Errorf("reading allocates %v times, want 0", got)
	}
}
