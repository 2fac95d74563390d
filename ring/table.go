// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Table maps each partition to its owner and its heir. It is immutable and safe
// for concurrent use; lookups take no lock and allocate nothing. A caller that
// follows a cluster should keep the current table behind an atomic pointer,
// together with what changes with it (addresses, terms), and load it once per
// request.
//
// The zero Table has no members and no owners. Methods that take a partition
// panic unless it is from 0 to [Partitions]-1.
type Table struct {
	members []string           // sorted, without duplicates
	owners  [Partitions]uint16 // ordinals: index in members plus 1; 0 is none
	heirs   [Partitions]uint16 // ordinals; all 0 with fewer than two members
	digest  uint64
}

// Owner returns the member that owns a partition, or "" if there are no members.
func (t *Table) Owner(partition int) string { return t.name(t.owners[partition]) }

// Heir returns the member that owns a partition in the table without its owner,
// or "" if there is no second member.
func (t *Table) Heir(partition int) string { return t.name(t.heirs[partition]) }

// OwnerIndex returns the owner's index in [Table.Members], or -1 if there are
// no members. It is for callers that keep a slice parallel to the members, such
// as connections.
func (t *Table) OwnerIndex(partition int) int { return int(t.owners[partition]) - 1 }

// Members returns the members, sorted and without duplicates. The caller must
// not modify the slice.
func (t *Table) Members() []string { return t.members }

// Owned returns the partitions of a member in ascending order, or none if it is
// not in the table.
func (t *Table) Owned(member string) []int {
	i, ok := slices.BinarySearch(t.members, member)
	if !ok {
		return nil
	}
	owned := make([]int, 0, capacity(len(t.members)))
	for p, owner := range t.owners {
		if int(owner) == i+1 {
			owned = append(owned, p)
		}
	}
	return owned
}

// Digest identifies the table: its members, owners, heirs and [Layout]. Two
// members with the same digest send every key to the same owner. The digest is 0
// if there are no members, and otherwise only with probability 2^-64. It is part
// of the wire format.
func (t *Table) Digest() uint64 { return t.digest }

func (t *Table) name(ordinal uint16) string {
	if ordinal == 0 {
		return ""
	}
	return t.members[ordinal-1]
}

// computeDigest returns the digest of a table that has members.
func (t *Table) computeDigest() uint64 {
	b := binary.LittleEndian.AppendUint64(nil, Layout())
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t.members)))
	for _, m := range t.members {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(m)))
		b = append(b, m...)
	}
	for _, ordinals := range [][Partitions]uint16{t.owners, t.heirs} {
		for _, ordinal := range ordinals {
			b = binary.LittleEndian.AppendUint16(b, ordinal)
		}
	}
	return xxhash.Sum64(b)
}

// Move is a change of a partition's owner. From is "" if it had no owner, and To
// is "" if it has none any more.
type Move struct {
	Partition int
	From, To  string
}

// Diff returns the partitions whose owner differs between two tables, in
// ascending order. A nil table counts as one without members. Partitions that
// only change their heir are not listed.
func Diff(from, to *Table) []Move {
	if from == nil {
		from = &Table{}
	}
	if to == nil {
		to = &Table{}
	}
	var moves []Move
	for p := range Partitions {
		if a, b := from.Owner(p), to.Owner(p); a != b {
			moves = append(moves, Move{Partition: p, From: a, To: b})
		}
	}
	return moves
}
