// SPDX-License-Identifier: Apache-2.0

// Package ring says which member owns a key. It maps a set of members to an
// immutable [Table] of 4,096 partitions, and does nothing else: it reads no
// clock, does no I/O, starts no goroutine and takes no lock.
//
// A table is a function of the set of its members. Their order, duplicates,
// earlier joins and leaves, and the process that computes the table make no
// difference. Members that agree on the set of members therefore agree on every
// owner, and can check that by comparing two digests.
//
// Each partition has an owner, which decides, and an heir: the owner of the same
// partition in the table without its current owner. A replica at the heir is
// therefore at the member that takes over if the owner goes away.
//
// No member owns more than 1.1 times the mean, rounded up to a whole partition.
// Because of that bound, a few partitions also move between other members when a
// member joins or leaves. [Diff] lists all moves.
//
// A table only proposes owners. Whether a member may decide for a partition is
// agreed between the old owner and the new one, outside of this package.
//
// The algorithm is consistent hashing with bounded loads, as implemented by
// github.com/buraksezer/consistent.
package ring
