// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/ring"
)

func TestNewHasNoRole(t *testing.T) {
	if _, err := New("", 1); err == nil || !strings.Contains(err.Error(), "self") {
		t.Errorf("New without a name: %v, want an error that names self", err)
	}
	s := mustNew(t, "a", 1)
	if s.Self() != "a" || s.Fenced() || len(s.Table().Members()) != 0 || s.Count(None) != ring.Partitions {
		t.Errorf("a new state: self %q, fenced %v, members %v, %d x none", s.Self(), s.Fenced(), s.Table().Members(), s.Count(None))
	}
	for p := range ring.Partitions {
		if s.Role(p) != None || s.Term(p) != 0 || s.Admit(p, 0) != (Admission{}) {
			t.Fatalf("a new state is %s at %d for partition %d, want none at 0", s.Role(p), s.Term(p), p)
		}
	}
}

// TestRoles takes one partition through all changes of role.
func TestRoles(t *testing.T) {
	mine := ownedBy(t, tableOf(t, "a", "b"), "a")
	type event struct {
		members string // empty: no member serves
		fenced  bool
	}
	alone, both, without := event{members: "a"}, event{members: "a b"}, event{members: "b"}
	fencedOwner, fencedWithout := event{"a b", true}, event{"b", true}
	tests := []struct {
		name   string
		events []event
		want   Role
		rounds uint64 // of the term
	}{
		{"the ring names this member", []event{both}, Active, 1},
		{"a ring without this member", []event{without}, None, 0},
		{"no member serves", []event{{}}, None, 0},
		{"stays active", []event{alone, both}, Active, 1},
		{"moves away", []event{both, without}, Relay, 1},
		{"no member serves any more", []event{both, {}}, Relay, 1},
		{"a relay stays one", []event{both, without, {}, without}, Relay, 1},
		{"comes back", []event{both, without, both}, Active, 2},
		{"fenced from the start", []event{fencedOwner}, Fenced, 0},
		{"fenced while active", []event{both, fencedOwner}, Fenced, 1},
		{"fenced, then moved", []event{both, fencedOwner, fencedWithout}, None, 1},
		{"a relay that is fenced", []event{both, without, fencedWithout}, Relay, 1},
		{"a relay that would get it back, fenced", []event{both, without, fencedOwner}, Fenced, 1},
		{"no longer fenced", []event{both, fencedOwner, both}, Active, 2},
		{"moved and fenced at once", []event{both, fencedWithout}, Relay, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := mustNew(t, "a", 1)
			for _, e := range test.events {
				from := s
				var fx Effects
				s, fx = Step(s, RingChange{Table: tableOf(t, strings.Fields(e.members)...), Fenced: e.fenced})
				if s.Fenced() != e.fenced || strings.Join(s.Table().Members(), " ") != e.members {
					t.Errorf("after %+v: fenced %v, members %v", e, s.Fenced(), s.Table().Members())
				}
				if got := countsOf(s); got != s.counts {
					t.Errorf("after %+v: Count says %v, want %v", e, s.counts, got)
				}
				checkMoves(t, from, s, fx)
			}
			if s.Role(mine) != test.want || round(s.Term(mine)) != test.rounds {
				t.Errorf("%s at %#x, want %s in round %d", s.Role(mine), s.Term(mine), test.want, test.rounds)
			}
			if got, want := s.Admit(mine, 0), (Admission{Decide: test.want == Active}); got != want {
				t.Errorf("Admit = %+v, want %+v", got, want)
			}
		})
	}
}

// checkMoves compares the effects of a ring with the two states.
func checkMoves(t *testing.T, from, to *State, fx Effects) {
	t.Helper()
	var want Effects
	for p := range ring.Partitions {
		switch was, is := from.Role(p) == Active, to.Role(p) == Active; {
		case !was && is:
			want.Gained = append(want.Gained, p)
		case was && !is:
			want.Lost = append(want.Lost, p)
		}
	}
	if diff := cmp.Diff(want, fx); diff != "" {
		t.Errorf("effects (-want +got):\n%s", diff)
	}
}

func TestTermReports(t *testing.T) {
	table := tableOf(t, "a", "b")
	mine, other := ownedBy(t, table, "a"), ownedBy(t, table, "b")
	fresh := follow(t, mustNew(t, "a", 1), "a", "b")
	own := fresh.Term(mine)
	tests := []struct {
		name    string
		reports TermReports
		rounds  [2]uint64 // of mine and other
		fx      Effects
	}{
		{"nothing", nil, [2]uint64{1, 0}, Effects{}},
		{"a higher term of another owner", TermReports{{other, term(5)}}, [2]uint64{1, 5}, Effects{Learned: 1}},
		{"a higher term of an active partition", TermReports{{mine, term(5)}}, [2]uint64{6, 0}, Effects{Contested: []int{mine}}},
		{"the same round, another tag", TermReports{{mine, own + 1}}, [2]uint64{2, 0}, Effects{Contested: []int{mine}}},
		{"a lower tag", TermReports{{mine, own - 1}}, [2]uint64{1, 0}, Effects{}},
		{"the own term", TermReports{{mine, own}}, [2]uint64{1, 0}, Effects{}},
		{"none", TermReports{{mine, 0}, {other, 0}}, [2]uint64{1, 0}, Effects{}},
		{"falling", TermReports{{other, term(5)}, {other, term(4)}}, [2]uint64{1, 5}, Effects{Learned: 1}},
		{"rising", TermReports{{mine, term(4)}, {mine, term(4)}, {mine, term(9)}}, [2]uint64{10, 0}, Effects{Contested: []int{mine, mine}}},
		{"the last that can be adopted", TermReports{{other, term(lastRound - 1)}}, [2]uint64{1, lastRound - 1}, Effects{Learned: 1}},
		{"the last round", TermReports{{mine, term(lastRound)}, {other, 1<<64 - 1}}, [2]uint64{1, 0}, Effects{Rejected: 2}},
		{"no such partition", TermReports{{-1, term(1)}, {ring.Partitions, term(1)}, {other, term(2)}}, [2]uint64{1, 2}, Effects{Rejected: 2, Learned: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			before := read(fresh)
			s, fx := Step(fresh, test.reports)
			if diff := cmp.Diff(test.fx, fx); diff != "" {
				t.Errorf("effects (-want +got):\n%s", diff)
			}
			if got := [2]uint64{round(s.Term(mine)), round(s.Term(other))}; got != test.rounds {
				t.Errorf("rounds %v, want %v", got, test.rounds)
			}
			if uint32(s.Term(mine)) != s.tag {
				t.Errorf("active at %#x, want the tag %#x", s.Term(mine), s.tag)
			}
			if s.Role(mine) != Active || s.Role(other) != None {
				t.Errorf("roles %s and %s, want active and none", s.Role(mine), s.Role(other))
			}
			if test.fx.Learned+len(test.fx.Contested) == 0 && s != fresh {
				t.Error("a new state with nothing new")
			}
			if read(fresh) != before {
				t.Error("the state before has changed")
			}
		})
	}
}

func TestAdmit(t *testing.T) {
	table := tableOf(t, "a", "b")
	mine, other := ownedBy(t, table, "a"), ownedBy(t, table, "b")
	s := follow(t, mustNew(t, "a", 1), "a", "b")
	s, _ = Step(s, TermReports{{mine, term(3)}, {other, term(3)}})
	moved := follow(t, s, "b")
	fenced, _ := Step(s, RingChange{Table: table, Fenced: true})
	tests := []struct {
		name      string
		s         *State
		partition int
		term      uint64
		want      Admission
	}{
		{"active, sender knows nothing", s, mine, 0, Admission{Decide: true}},
		{"active, sender is behind", s, mine, term(3), Admission{Decide: true}},
		{"active, sender agrees", s, mine, s.Term(mine), Admission{Decide: true}},
		{"active, sender is ahead", s, mine, term(9), Admission{Decide: true, Learn: true}},
		{"active, sender has an invalid term", s, mine, term(lastRound), Admission{Decide: true}},
		{"not the owner, sender is behind", s, other, term(2), Admission{}},
		{"not the owner, sender agrees", s, other, term(3), Admission{}},
		{"not the owner, sender is ahead", s, other, term(4), Admission{Learn: true}},
		{"relay, sender has this term", moved, mine, s.Term(mine), Admission{}},
		{"relay, sender is ahead", moved, mine, term(9), Admission{Learn: true}},
		{"fenced, sender has this term", fenced, mine, s.Term(mine), Admission{}},
		{"fenced, sender is ahead", fenced, mine, term(9), Admission{Learn: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := test.s.Admit(test.partition, test.term)
			if got != test.want {
				t.Fatalf("Admit = %+v, want %+v", got, test.want)
			}
			learned, fx := Step(test.s, TermReports{{test.partition, test.term}})
			if news := fx.Learned+len(fx.Contested) > 0; news != got.Learn {
				t.Errorf("a step brings something new: %v, want what Admit says, %v", news, got.Learn)
			}
			if again := learned.Admit(test.partition, test.term); again != (Admission{Decide: got.Decide}) {
				t.Errorf("Admit after the step = %+v, want only Decide: %v", again, got.Decide)
			}
		})
	}
}

// TestNothingNewIsTheSameState checks the most frequent case.
func TestNothingNewIsTheSameState(t *testing.T) {
	s := follow(t, mustNew(t, "a", 1), "a", "b")
	again, err := ring.New([]string{"b", "a"})
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]Event{"no event": nil, "an equal table": RingChange{Table: again}, "own terms": TermReports{{0, s.Term(0)}}} {
		if got, fx := Step(s, e); got != s || !cmp.Equal(fx, Effects{}) {
			t.Errorf("%s: a new state, effects %+v, want the same and none", name, fx)
		}
	}
	if got, _ := Step(mustNew(t, "a", 1), RingChange{}); got.Count(None) != ring.Partitions {
		t.Errorf("a ring without a table: %v, want none everywhere", got.counts)
	}
}

// TestChunksAreShared checks that unchanged chunks are not copied.
func TestChunksAreShared(t *testing.T) {
	s := follow(t, mustNew(t, "a", 1), "a", "b")
	next, _ := Step(s, TermReports{{chunkSize, term(9)}, {chunkSize + 1, term(9)}})
	for i := range s.chunks {
		if shared := s.chunks[i] == next.chunks[i]; shared != (i != 1) {
			t.Errorf("chunk %d shared: %v", i, shared)
		}
	}
}

// TestTheLastRound checks that an owner in the last round keeps its own term.
func TestTheLastRound(t *testing.T) {
	table := tableOf(t, "a", "b")
	mine := ownedBy(t, table, "a")
	s, _ := Step(mustNew(t, "a", 1), TermReports{{mine, term(lastRound - 1)}})
	var last uint64
	for range 3 {
		s = follow(t, s, "a", "b")
		if round(s.Term(mine)) != lastRound || uint32(s.Term(mine)) != s.tag || s.Term(mine) < last {
			t.Fatalf("active at %#x, want the last round and the tag %#x", s.Term(mine), s.tag)
		}
		last = s.Term(mine)
		s = follow(t, s, "b")
	}
}

// TestTags checks that tags depend on the name and the boot.
func TestTags(t *testing.T) {
	seen := map[uint32]string{}
	for _, self := range []string{"a", "b", "limiter-1", "limiter-11"} {
		for _, boot := range []uint64{0, 1, 2, 1 << 32, 1<<32 + 1, 1 << 63} {
			tag := tagOf(self, boot)
			if other, ok := seen[tag]; ok {
				t.Errorf("%s, boot %#x: tag %#x, which %s has", self, boot, tag, other)
			}
			seen[tag] = self
		}
	}
}

func TestRoleNames(t *testing.T) {
	var names []string
	for r := range Role(roles + 1) {
		names = append(names, r.String())
	}
	if want := []string{"none", "active", "relay", "fenced", "role 4"}; !slices.Equal(names, want) {
		t.Errorf("names %v, want %v", names, want)
	}
}

// TestWhatDoesNotHold pins the two limitations in the package comment. It will
// fail, and can go, once there is a register of terms.
func TestWhatDoesNotHold(t *testing.T) {
	p := ownedBy(t, tableOf(t, "a", "b"), "a")
	a, b := follow(t, mustNew(t, "a", 1), "a", "b"), follow(t, mustNew(t, "b", 1), "a", "b")
	a, _ = Step(a, TermReports{{p, term(5)}})
	b = follow(t, b, "b") // cut off from a
	if a.Role(p) != Active || b.Role(p) != Active {
		t.Fatalf("in a split: %s and %s, want two owners", a.Role(p), b.Role(p))
	}
	if a.Term(p) <= b.Term(p) {
		t.Errorf("the former owner is at %#x, the new one at %#x, want the new one below: it received no message", a.Term(p), b.Term(p))
	}
	b, fx := Step(b, TermReports{{p, a.Term(p)}})
	if b.Term(p) <= a.Term(p) || !slices.Equal(fx.Contested, []int{p}) {
		t.Errorf("the new owner is at %#x after the first message, contested %v, want above %#x", b.Term(p), fx.Contested, a.Term(p))
	}
}
