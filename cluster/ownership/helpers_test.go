// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/bucketring/bucketring/ring"
)

// tables caches tables: building one takes longer than a test's history of events.
var tables sync.Map

// tableOf returns the table of members.
func tableOf(t testing.TB, members ...string) *ring.Table {
	t.Helper()
	key := strings.Join(members, " ")
	if table, ok := tables.Load(key); ok {
		return table.(*ring.Table)
	}
	table, err := ring.New(members)
	if err != nil {
		t.Fatalf("New(%q): %v", members, err)
	}
	tables.Store(key, table)
	return table
}

// mustNew returns the state of a new boot.
func mustNew(t testing.TB, self string, boot uint64) *State {
	t.Helper()
	s, err := New(self, boot)
	if err != nil {
		t.Fatalf("New(%q, %d): %v", self, boot, err)
	}
	return s
}

// follow steps with a table of these members.
func follow(t testing.TB, s *State, members ...string) *State {
	t.Helper()
	s, _ = Step(s, RingChange{Table: tableOf(t, members...)})
	return s
}

// term returns a term with the tag of another boot.
func term(round uint64) uint64 { return round<<tagBits | 7 }

func round(term uint64) uint64 { return term >> tagBits }

// contents holds everything a reader can see of a state, for comparisons.
type contents struct {
	table  *ring.Table
	fenced bool
	counts [roles]int
	terms  [ring.Partitions]uint64
	roles  [ring.Partitions]Role
}

func read(s *State) contents {
	c := contents{table: s.Table(), fenced: s.Fenced()}
	for r := range Role(roles) {
		c.counts[r] = s.Count(r)
	}
	for p := range ring.Partitions {
		c.terms[p], c.roles[p] = s.Term(p), s.Role(p)
	}
	return c
}

// naive is a model: the same rules over plain maps, without chunks, sharing or
// counters.
type naive struct {
	self  string
	tag   uint64
	roles map[int]Role
	terms map[int]uint64
}

func newNaive(s *State) *naive {
	return &naive{self: s.self, tag: uint64(s.tag), roles: map[int]Role{}, terms: map[int]uint64{}}
}

// ring applies a table to some partitions.
func (n *naive) ring(table *ring.Table, fenced bool, partitions []int) {
	for _, p := range partitions {
		was, is := n.roles[p], None
		if table.Owner(p) == n.self {
			is = Active
			if fenced {
				is = Fenced
			}
		} else if was == Active || was == Relay {
			is = Relay
		}
		if is == Active && was != Active {
			n.terms[p] = (round(n.terms[p])+1)<<tagBits | n.tag
		}
		n.roles[p] = is
	}
}

func (n *naive) report(c TermReport) {
	if c.Term <= n.terms[c.Partition] {
		return
	}
	n.terms[c.Partition] = c.Term
	if n.roles[c.Partition] == Active {
		n.terms[c.Partition] = (round(c.Term)+1)<<tagBits | n.tag
	}
}

// differs returns an error for the first partition where s differs from n.
func (n *naive) differs(s *State, partitions []int) error {
	for _, p := range partitions {
		if s.Role(p) != n.roles[p] || s.Term(p) != n.terms[p] {
			return fmt.Errorf("%s is %s at %#x for partition %d, want %s at %#x", n.self, s.Role(p), s.Term(p), p, n.roles[p], n.terms[p])
		}
	}
	return nil
}

// countsOf counts what Count must return.
func countsOf(s *State) (counts [roles]int) {
	for p := range ring.Partitions {
		counts[s.Role(p)]++
	}
	return counts
}

// ownedBy returns a partition of a member.
func ownedBy(t testing.TB, table *ring.Table, member string) int {
	t.Helper()
	owned := table.Owned(member)
	if len(owned) == 0 {
		t.Fatalf("%s owns nothing among %q", member, table.Members())
	}
	return owned[len(owned)/2]
}
