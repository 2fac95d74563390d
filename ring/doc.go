// SPDX-License-Identifier: Apache-2.0

// Package ring says which member owns a key. It maps a set of members to an
// immutable [Table] of 4,096 partitions, and does nothing else: no clock, no
// I/O, no goroutine, no lock.
//
// A table is a function of the set of its members. Their order, their
// duplicates, the joins and leaves that led there and the process that computes
// it make no difference, so members that agree on who is there agree on every
// owner, and compare two digests to know that they do.
//
// Two names matter per partition. The owner decides. The heir is the owner of
// the same partition in the table without its owner: who holds the replica is
// therefore who will be asked for it.
//
// No member owns more than 1.1 times the mean, rounded up to a whole partition.
// That bound has a price: when a member joins or leaves, a few partitions also
// move between the others. [Diff] lists all moves.
//
// A table only names targets. That a member may decide for a partition is
// settled elsewhere, between the old owner and the new one.
//
// The ring itself is that of github.com/buraksezer/consistent: consistent
// hashing with bounded loads.
package ring
