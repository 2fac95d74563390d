// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"encoding/binary"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// A Table says who owns each partition and who inherits it. It never changes,
// so any number of goroutines may read it; a caller that follows a cluster
// keeps the current one behind an atomic pointer, next to what else changes
// with it (addresses, terms), loads that once per call and uses what it got.
// Lookups take no lock and allocate nothing.
//
// The zero Table is the table of no members: nobody owns anything. Methods that
// take a partition panic unless it is from 0 to [Partitions]-1.
type Table struct {
	members []string           // sorted, without duplicates
	owners  [Partitions]uint16 // place in members, from 1; 0 is nobody
	heirs   [Partitions]uint16 // likewise; 0 unless there are two members
	digest  uint64
}

// Owner returns the member that decides for a partition, or "" if there are no
// members.
func (t *Table) Owner(partition int) string { return t.name(t.owners[partition]) }

// Heir returns the member that owns a partition in the table without its owner,
// or "" if there is no second member.
func (t *Table) Heir(partition int) string { return t.name(t.heirs[partition]) }

// OwnerIndex returns the owner's index in [Table.Members], or -1 if there are
// no members. It is for callers that keep a slice of their own beside the
// members, such as connections.
func (t *Table) OwnerIndex(partition int) int { return int(t.owners[partition]) - 1 }

// Members returns the members, sorted and without duplicates. The caller must
// not change the slice.
func (t *Table) Members() []string { return t.members }

// Owned returns the partitions of a member in ascending order, none if it is
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

// Digest identifies the table: its members, its owners, its heirs and the
// [Layout] that led to them. Two members with the same digest send every key to
// the same place. It is 0 if and only if there are no members, short of a
// chance of 2^-64, and is part of the wire format.
func (t *Table) Digest() uint64 { return t.digest }

func (t *Table) name(place uint16) string {
	if place == 0 {
		return ""
	}
	return t.members[place-1]
}

// sum returns the digest of a table with members.
func (t *Table) sum() uint64 {
	b := binary.LittleEndian.AppendUint64(nil, Layout())
	b = binary.LittleEndian.AppendUint32(b, uint32(len(t.members)))
	for _, m := range t.members {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(m)))
		b = append(b, m...)
	}
	for _, places := range [][Partitions]uint16{t.owners, t.heirs} {
		for _, place := range places {
			b = binary.LittleEndian.AppendUint16(b, place)
		}
	}
	return xxhash.Sum64(b)
}

// A Move is a change of a partition's owner. From is "" if nobody owned it, To
// is "" if nobody does.
type Move struct {
	Partition int
	From, To  string
}

// Diff returns what moves when from gives way to to, by ascending partition. A
// nil table is one of no members. Partitions that only change their heir are
// not listed.
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
