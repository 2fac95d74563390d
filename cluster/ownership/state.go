// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/bucketring/bucketring/ring"
)

// Role is what this member is for a partition.
type Role uint8

// The roles of a member. See the package comment.
const (
	None   Role = iota // not mine
	Active             // decides
	Relay              // was mine, moved
	Fenced             // another boot holds my slot

	roles = iota
)

var roleNames = [roles]string{None: "none", Active: "active", Relay: "relay", Fenced: "fenced"}

// String returns the name as it is shown to people: none, active, relay or
// fenced.
func (r Role) String() string {
	if r >= roles {
		return fmt.Sprintf("role %d", uint8(r))
	}
	return roleNames[r]
}

// State is what one boot is for all partitions. It never changes: [Step] makes
// a new one, which shares with the old one what is the same. Any number of
// goroutines may read it; a router keeps the current one behind an atomic
// pointer, loads it once per batch, and lets one goroutine step at a time.
// Reading takes no lock and allocates nothing.
//
// Methods that take a partition panic unless it is from 0 to
// [ring.Partitions]-1.
type State struct {
	self   string
	tag    uint32 // of this boot
	table  *ring.Table
	fenced bool
	counts [roles]int // of partitions; they sum to ring.Partitions
	chunks [ring.Partitions / chunkSize]*chunk
}

// chunkSize is chosen so that copying a chunk and copying the pointers to all
// of them cost the same, about half a kilobyte.
const chunkSize = 64

// chunk is a run of partitions. One that a State points to is never written.
type chunk struct {
	terms [chunkSize]uint64 // highest known; with role Active, my own
	roles [chunkSize]Role
}

// New returns the state of a boot that has seen no ring and heard no term: it
// is [None] everywhere. Self is the name that the ring has for this member,
// boot is random and tells its runs apart.
func New(self string, boot uint64) (*State, error) {
	if self == "" {
		return nil, errors.New("self: must not be empty")
	}
	s := &State{self: self, tag: tagOf(self, boot), table: &ring.Table{}}
	s.counts[None] = ring.Partitions
	empty := new(chunk)
	for i := range s.chunks {
		s.chunks[i] = empty
	}
	return s, nil
}

// tagOf hashes who takes terms.
func tagOf(self string, boot uint64) uint32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(self)) // never fails
	var b [8]byte
	for i := range b {
		b[i] = byte(boot >> (8 * i))
	}
	_, _ = h.Write(b[:])
	sum := h.Sum64()
	return uint32(sum>>32) ^ uint32(sum)
}

// Self is the name of this member.
func (s *State) Self() string { return s.self }

// Table is the ring that the roles follow from, never nil.
func (s *State) Table() *ring.Table { return s.table }

// Fenced reports whether another boot holds the slot of this member.
func (s *State) Fenced() bool { return s.fenced }

// Role returns what this member is for a partition.
func (s *State) Role(partition int) Role {
	return s.chunks[partition/chunkSize].roles[partition%chunkSize]
}

// Term returns the highest term of a partition that this member knows of: its
// own if it is active. 0: none.
func (s *State) Term(partition int) uint64 {
	return s.chunks[partition/chunkSize].terms[partition%chunkSize]
}

// Count returns how many partitions this member has a role for.
func (s *State) Count(r Role) int { return s.counts[r] }

// Admission is what to do with a call that somebody sent here.
type Admission struct {
	// Decide here. If false, redirect to the owner by [State.Table]: when this
	// member is fenced that may be its own name, which is now at the address of
	// the other boot.
	Decide bool
	// Learn says that the sender knows of a higher term. If the sender is a
	// member, step with a [Heard] of it before answering, and answer with the
	// term of the new state, so that the sender learns where the owner is now.
	// That step changes no role, so Decide stays as it is.
	Learn bool
}

// Admit says what to do with a call for a partition whose sender knows of term.
// A sender that knows only of a lower term is served like any other; it learns
// the term from the answer.
func (s *State) Admit(partition int, term uint64) Admission {
	c, i := s.chunks[partition/chunkSize], partition%chunkSize
	return Admission{Decide: c.roles[i] == Active, Learn: term > c.terms[i] && adoptable(term)}
}
