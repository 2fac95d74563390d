// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"slices"

	"github.com/bucketring/bucketring/ring"
)

// Event is a [RingChange] or [TermReports].
type Event interface{ event() }

// RingChange is a new ring table, or a change of whether a newer boot has the
// name of this member.
type RingChange struct {
	Table  *ring.Table // nil: no member serves
	Fenced bool
}

// TermReports are the terms in one or more messages. The senders must be
// authenticated members, because a report can make an owner take a higher term.
type TermReports []TermReport

// TermReport says that the sender of a message knows a term of a partition.
type TermReport struct {
	Partition int
	Term      uint64
}

func (RingChange) event()  {}
func (TermReports) event() {}

// Effects are for the caller to act on or to count. Each slice has at most one
// entry per partition of the ring or per report.
type Effects struct {
	// Gained lists the partitions that became active, Lost those that were active
	// and are now relay or fenced. Both are in ascending order.
	Gained, Lost []int
	// Contested lists, in the order of the reports, active partitions for which a
	// higher term was reported: a member with another view has decided there, and
	// may still do so. This member's terms are now above the reported ones.
	Contested []int
	// Learned counts terms adopted from reports.
	Learned int
	// Rejected counts invalid reports: of a partition that does not exist or of the
	// last round. They had no other effect.
	Rejected int
}

// Step returns the state after an event. If nothing changes, it returns s and
// allocates nothing. A [RingChange] costs a pass over all partitions;
// [TermReports] cost time proportional to their number, plus a copy of at most
// half a kilobyte for each new term.
func Step(s *State, e Event) (*State, Effects) {
	switch e := e.(type) {
	case RingChange:
		return s.applyRing(e)
	case TermReports:
		return s.applyTerms(e)
	}
	return s, Effects{}
}

// applyRing returns the state with the roles that follow from a ring.
func (s *State) applyRing(e RingChange) (*State, Effects) {
	if e.Table == nil {
		e.Table = &ring.Table{}
	}
	var fx Effects
	if e.Fenced == s.fenced && e.Table.Digest() == s.table.Digest() {
		return s, fx
	}
	d := draft{old: s, next: *s}
	d.next.table, d.next.fenced = e.Table, e.Fenced
	self, isMember := slices.BinarySearch(e.Table.Members(), s.self)
	for p := range ring.Partitions {
		owned := isMember && e.Table.OwnerIndex(p) == self
		from, to := s.Role(p), None
		switch {
		case owned && e.Fenced:
			to = Fenced
		case owned:
			to = Active
		case from == Active || from == Relay:
			to = Relay
		}
		if from == to {
			continue
		}
		d.setRole(p, to)
		switch {
		case to == Active:
			d.setTerm(p, s.nextTerm(s.Term(p)))
			fx.Gained = append(fx.Gained, p)
		case from == Active:
			fx.Lost = append(fx.Lost, p)
		}
	}
	return &d.next, fx
}

// applyTerms returns the state with the terms that others reported.
func (s *State) applyTerms(reports TermReports) (*State, Effects) {
	var fx Effects
	var d *draft
	current := s
	for _, r := range reports {
		switch {
		case r.Partition < 0 || r.Partition >= ring.Partitions || !adoptable(r.Term):
			fx.Rejected++
			continue
		case r.Term <= current.Term(r.Partition):
			continue
		case d == nil:
			d = &draft{old: s, next: *s}
			current = &d.next
		}
		if current.Role(r.Partition) == Active {
			d.setTerm(r.Partition, s.nextTerm(r.Term))
			fx.Contested = append(fx.Contested, r.Partition)
		} else {
			d.setTerm(r.Partition, r.Term)
			fx.Learned++
		}
	}
	return current, fx
}

// draft builds the next state. It shares the chunks of old until they are
// written (copy on write).
type draft struct {
	old  *State
	next State
}

func (d *draft) setRole(partition int, r Role) {
	c, i := d.writable(partition), partition%chunkSize
	d.next.counts[c.roles[i]]--
	d.next.counts[r]++
	c.roles[i] = r
}

func (d *draft) setTerm(partition int, term uint64) {
	d.writable(partition).terms[partition%chunkSize] = term
}

// writable returns the chunk of a partition, copied if it is still shared.
func (d *draft) writable(partition int) *chunk {
	i := partition / chunkSize
	if d.next.chunks[i] == d.old.chunks[i] {
		c := *d.old.chunks[i]
		d.next.chunks[i] = &c
	}
	return d.next.chunks[i]
}

// Parts of a term.
const (
	tagBits   = 32
	lastRound = 1<<(64-tagBits) - 1
)

// adoptable reports whether there is a round above that of term.
func adoptable(term uint64) bool { return term>>tagBits < lastRound }

// nextTerm returns the term that this boot takes when it knows term. It is
// greater than term if term is adoptable; otherwise it is the last term of this
// boot.
func (s *State) nextTerm(term uint64) uint64 {
	return min(term>>tagBits+1, lastRound)<<tagBits | uint64(s.tag)
}
