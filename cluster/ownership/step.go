// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"slices"

	"github.com/bucketring/bucketring/ring"
)

// Event is a [Ring] or a [Heard].
type Event interface{ event() }

// Ring is a new table, or a change of whether another boot holds the slot of
// this member.
type Ring struct {
	Table  *ring.Table // nil: nobody serves
	Fenced bool
}

// Heard is what one message, or several, say of terms. It must come from
// members that have shown who they are: whoever may say a term can make owners
// take higher ones.
type Heard []Claim

// Claim is that somebody knows of a term of a partition.
type Claim struct {
	Partition int
	Term      uint64
}

func (Ring) event()  {}
func (Heard) event() {}

// Effects are for the caller to carry out or to count. The slices have no more
// entries than the ring has partitions, or the [Heard] has claims.
type Effects struct {
	// Gained became active, Lost were: they are now relay or fenced. Ascending.
	Gained, Lost []int
	// Contested are active here, and somebody knew of a higher term: a member
	// with another view has decided in them, or does so still. In the order of
	// the claims; their terms are above those now.
	Contested []int
	// Learned counts terms adopted from others.
	Learned int
	// Refused counts claims that no member makes: of a partition that does not
	// exist or of the last round. They had no other effect.
	Refused int
}

// Step returns the state after an event. It returns s itself if nothing is
// different, and allocates nothing then. The cost of a [Ring] is one look at
// each partition; that of a [Heard] is proportional to its claims, and copies at
// most half a kilobyte for each that brings something new.
func Step(s *State, e Event) (*State, Effects) {
	switch e := e.(type) {
	case Ring:
		return s.follow(e)
	case Heard:
		return s.hear(e)
	}
	return s, Effects{}
}

// follow takes the roles that a ring gives.
func (s *State) follow(e Ring) (*State, Effects) {
	if e.Table == nil {
		e.Table = &ring.Table{}
	}
	var fx Effects
	if e.Fenced == s.fenced && e.Table.Digest() == s.table.Digest() {
		return s, fx
	}
	d := draft{old: s, next: *s}
	d.next.table, d.next.fenced = e.Table, e.Fenced
	me, there := slices.BinarySearch(e.Table.Members(), s.self)
	for p := range ring.Partitions {
		mine := there && e.Table.OwnerIndex(p) == me
		from, to := s.Role(p), None
		switch {
		case mine && e.Fenced:
			to = Fenced
		case mine:
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
			d.setTerm(p, s.above(s.Term(p)))
			fx.Gained = append(fx.Gained, p)
		case from == Active:
			fx.Lost = append(fx.Lost, p)
		}
	}
	return &d.next, fx
}

// hear takes the terms that others know of.
func (s *State) hear(claims Heard) (*State, Effects) {
	var fx Effects
	var d *draft
	now := s
	for _, c := range claims {
		switch {
		case c.Partition < 0 || c.Partition >= ring.Partitions || !adoptable(c.Term):
			fx.Refused++
			continue
		case c.Term <= now.Term(c.Partition):
			continue
		case d == nil:
			d = &draft{old: s, next: *s}
			now = &d.next
		}
		if now.Role(c.Partition) == Active {
			d.setTerm(c.Partition, s.above(c.Term))
			fx.Contested = append(fx.Contested, c.Partition)
		} else {
			d.setTerm(c.Partition, c.Term)
			fx.Learned++
		}
	}
	return now, fx
}

// draft is a state in the making. Its chunks are those of old until they are
// written.
type draft struct {
	old  *State
	next State
}

func (d *draft) setRole(partition int, r Role) {
	c, i := d.own(partition), partition%chunkSize
	d.next.counts[c.roles[i]]--
	d.next.counts[r]++
	c.roles[i] = r
}

func (d *draft) setTerm(partition int, term uint64) {
	d.own(partition).terms[partition%chunkSize] = term
}

// own returns a chunk that may be written.
func (d *draft) own(partition int) *chunk {
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

// adoptable reports whether there is a term above one that somebody knows of.
func adoptable(term uint64) bool { return term>>tagBits < lastRound }

// above returns the term that this boot takes when it knows of term. It is above
// that for every adoptable term, and for the rest it is the last of this boot.
func (s *State) above(term uint64) uint64 {
	return min(term>>tagBits+1, lastRound)<<tagBits | uint64(s.tag)
}
