// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"testing"

	"github.com/bucketring/bucketring/ring"
)

// BenchmarkAdmit measures the admission of a call from another member.
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

// BenchmarkTermReports measures messages with one new term, with no new term, and
// with new terms for the largest batch.
func BenchmarkTermReports(b *testing.B) {
	s := follow(b, mustNew(b, "a", 1), "a", "b", "c")
	full := make(TermReports, 512)
	for i := range full {
		full[i] = TermReport{i * ring.Partitions / len(full), term(9)}
	}
	known, _ := Step(s, full)
	for name, step := range map[string]struct {
		s *State
		h TermReports
	}{"one": {s, full[:1]}, "nothing": {known, full}, "512": {s, full}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Step(step.s, step.h)
			}
		})
	}
}

// BenchmarkRingChange measures a join and a leave.
func BenchmarkRingChange(b *testing.B) {
	two, three := tableOf(b, "a", "b"), tableOf(b, "a", "b", "c")
	s := follow(b, mustNew(b, "a", 1), "a", "b")
	b.ReportAllocs()
	for b.Loop() {
		s, _ = Step(s, RingChange{Table: three})
		s, _ = Step(s, RingChange{Table: two})
	}
}

// TestReadingAllocatesNothing checks the hot path, which includes messages without
// a new term.
func TestReadingAllocatesNothing(t *testing.T) {
	s := follow(t, mustNew(t, "a", 1), "a", "b")
	var reports Event = TermReports{{1, s.Term(1)}, {2, s.Term(2)}}
	got := testing.AllocsPerRun(1000, func() {
		for p := range 8 {
			if a := s.Admit(p, s.Term(p)); a.Learn || a.Decide != (s.Role(p) == Active) {
				t.Errorf("Admit(%d) = %+v", p, a)
			}
		}
		if next, _ := Step(s, reports); next != s {
			t.Error("a new state with nothing new")
		}
	})
	if got != 0 {
		t.Errorf("reading allocates %v times, want 0", got)
	}
}
