// SPDX-License-Identifier: Apache-2.0

// Package journal keeps the state of a node on disk. Every change is there within
// about [Options].SyncEvery, or a metric, the log and [Journal.Status] say that it is not.
//
// The directory has generations. The file snapshot-N has all partitions, and the file
// journal-N what changed since snapshot N was begun. A journal is a list of blocks with
// checksums. A block has the changes of many partitions, as absolute values; so a block
// that is applied to a newer state of a partition, and then the next ones, end in the
// right state.
//
// A new generation is begun when the journals are larger than the snapshot: journal N+1
// is created, then snapshot N+1 is written while calls are decided and changes are
// appended, and then the files of generation N are deleted. Each partition of the snapshot
// says from which byte of journal N+1 on changes are missing in it. A crash at any instant
// leaves a snapshot and all journals that continue it.
//
// # What a start reads
//
// The newest snapshot, and the journals that continue it, each up to the end that the
// next one names. A journal is written by one process only: each start creates a new one.
//
// The end of the last journal may be torn by a crash: it is cut off. Each block says how
// much of the file was on disk before it. So if an intact block follows a bad one which
// it says was on disk, the file is damaged, not torn. [Open] then fails, and keeps the
// file aside. It keeps what is before the damage, which is what the next start reads.
//
// # Errors
//
// If a block cannot be written, for example because the disk is full, it is cut off and
// written again later. If an fsync fails, the system may have dropped what it could not
// write, and would not say so again. The journal is then not written any more: a new
// generation begins which does not continue it, and nothing is taken for durable before its
// snapshot is on disk. What was on disk stays there until then.
package journal
