// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"errors"
	"fmt"
	"hash/fnv"

	"github.com/bucketring/bucketring/ring"
)

// Role is the role of this member for a partition.
type Role uint8

// The roles of a member. See the package comment.
const (
	None   Role = iota // not the owner
	Active             // the owner: decides
	Relay              // a former owner
	Fenced             // a newer boot has this member's name

	roles = iota
)

var roleNames = [roles]string{None: "none", Active: "active", Relay: "relay", Fenced: "fenced"}

// String returns none, active, relay or fenced.
func (r Role) String() string {
	if r >= roles {
		return fmt.Sprintf("role %d", uint8(r))
	}
	return roleNames[r]
}

// State holds the roles and terms of one boot for all partitions. It is immutable
// and safe for concurrent use; reading takes no lock and allocates nothing.
// [Step] returns a new state that shares unchanged parts with the old one. A
// router should keep the current state behind an atomic pointer and step it from
// one goroutine at a time.
//
// Methods that take a partition panic unless it is from 0 to
// [ring.Partitions]-1.
type State struct {
	self   string
	tag    uint32 // of this boot
	table  *ring.Table
	fenced bool
	counts [roles]int // partitions per role; the sum is ring.Partitions
	chunks [ring.Partitions / chunkSize]*chunk
}

// chunkSize makes a chunk as large as the array of pointers to all chunks, about
// half a kilobyte, so that a change copies little of either.
const chunkSize = 64

// chunk holds consecutive partitions. It is immutable once a State points to it.
type chunk struct {
	terms [chunkSize]uint64 // highest known; with role Active, this member's own
	roles [chunkSize]Role
}

// New returns the state of a boot that has seen no ring and no term: its role is
// [None] for every partition. Self is the name of this member in the ring, and
// boot is a random number that differs between its runs.
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

// tagOf returns the tag of the terms that a boot of a member takes.
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

// Self returns the name of this member.
func (s *State) Self() string { return s.self }

// Table returns the ring table that the roles are based on. It is never nil.
func (s *State) Table() *ring.Table { return s.table }

// Fenced reports whether a newer boot has the name of this member.
func (s *State) Fenced() bool { return s.fenced }

// Role returns the role of this member for a partition.
func (s *State) Role(partition int) Role {
	return s.chunks[partition/chunkSize].roles[partition%chunkSize]
}

// Term returns the highest term of a partition that this member knows, which is
// its own if it is active. 0 means that it knows none.
func (s *State) Term(partition int) uint64 {
	return s.chunks[partition/chunkSize].terms[partition%chunkSize]
}

// Count returns the number of partitions for which this member has role r.
func (s *State) Count(r Role) int { return s.counts[r] }

// Admission says what to do with a call that another process sent here.
type Admission struct {
	// Decide means that this member decides. Otherwise the call is to be redirected
	// to the owner in [State.Table]. If this member is fenced, that may be its own
	// name, which then belongs to the newer boot at another address.
	Decide bool
	// Learn means that the sender knows a higher term. If the sender is a member,
	// step with [TermReports] before answering, and answer with the term of the new
	// state. That step changes no role, so Decide stays valid.
	Learn bool
}

// Admit says what to do with a call for a partition whose sender knows term. A
// sender with a lower term is served as usual and learns the higher term from
// the answer.
func (s *State) Admit(partition int, term uint64) Admission {
	c, i := s.chunks[partition/chunkSize], partition%chunkSize
	return Admission{Decide: c.roles[i] == Active, Learn: term > c.terms[i] && adoptable(term)}
}
