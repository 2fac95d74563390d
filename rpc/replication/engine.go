// SPDX-License-Identifier: Apache-2.0

package replication

import "github.com/bucketring/bucketring/limiter"

// Engine is where the records of partitions are. Its methods are safe for concurrent
// use. A partition is open, and decides, or closed, and may hold a copy. Changes of a
// partition are numbered without gaps.
type Engine interface {
	// Close makes a partition refuse calls. When it returns, none is in progress. It
	// returns the number of the last change. It may be called again.
	Close(partition int) (seq uint64)
	// Open lets a partition decide. The number of its next change is above seq and above
	// that of its last one.
	Open(partition int, seq uint64)
	// Seq returns the number of the last change.
	Seq(partition int) uint64
	// Track starts or stops listing what changes. The list begins with the next change.
	Track(partition int, on bool)
	// ForgetChanges drops from the list what nobody needs who has all changes until seq.
	ForgetChanges(partition int, seq uint64)
	// SnapshotAt appends all records of a partition to buf. They are its state after the
	// change with the number seq.
	SnapshotAt(now limiter.Time, partition int, buf []byte) (extended []byte, seq uint64)
	// Restore replaces all records of a closed partition by those of a snapshot. After an
	// error the partition is as before.
	Restore(now limiter.Time, partition int, records []byte) error
	// Clear drops all records of a closed partition.
	Clear(partition int)
	// NewChanges returns a writer for the changes of one message after another.
	NewChanges() Changes
	// ReadChanges reads what [Changes.Bytes] returned elsewhere.
	ReadChanges(data []byte) (ChangeReader, error)
}

// Changes collects the changes of some partitions.
type Changes interface {
	// Append adds all records of a partition that changed after a number, as they are at
	// one instant, and returns the number of the last change that they include. If not
	// ok, the list does not reach back so far: nothing is added, and a snapshot is needed.
	Append(now limiter.Time, partition int, after uint64) (through uint64, ok bool)
	// Bytes returns what was added since the last Reset. It is valid until the next call.
	Bytes() []byte
	// Len returns about how long Bytes is.
	Len() int
	// Reset forgets what was added.
	Reset()
}

// ChangeReader reads the changes of the partitions of one message.
type ChangeReader interface {
	// Apply changes a closed partition to which changes in the message belong: those
	// through the one with that number. Calls are in the order in which the changes were
	// appended; some may be left out. After an error the partition is as before, or empty.
	Apply(now limiter.Time, partition int, through uint64) error
}
