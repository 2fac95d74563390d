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
	// ReadFull reads a snapshot, which may take long. What it returns replaces all records of
	// the partition, which must be closed, by those of the snapshot, and takes little time.
	// After an error the partition is as before.
	ReadFull(now limiter.Time, partition int, snapshot []byte) (apply func(now limiter.Time) error, err error)
	// Clear drops all records of a closed partition. The number of its last change is 0
	// then.
	Clear(partition int)
	// NewChanges returns a writer for the changes of one message after another.
	NewChanges() Changes
	// ReadChanges reads what [Changes.Message] returned elsewhere.
	ReadChanges(message []byte) (ChangeReader, error)
}

// Changes collects the changes of some partitions for a message.
type Changes interface {
	// Append adds all records of a partition that changed after a number, as they are at
	// one instant, and returns the number of the last change. If that is not above after,
	// it adds nothing. If not ok, it adds nothing because the list does not reach back so far:
	// a snapshot is needed.
	Append(now limiter.Time, partition int, after uint64) (through uint64, ok bool)
	// Len returns about how many bytes the message has.
	Len() int
	// Message returns the message. It is valid until the next call.
	Message() []byte
	// Reset begins another message.
	Reset()
}

// ChangeReader reads a message partition by partition, in the order in which they were
// appended.
type ChangeReader interface {
	// Next goes to the next partition. It returns false if there is none, or if it cannot be
	// read.
	Next() bool
	// Section returns the current one, and that its changes are those after one number
	// through another.
	Section() (partition int, after, through uint64)
	// Apply applies the changes of the current partition, which must be closed. After an
	// error the partition is as before, or empty as after Clear.
	Apply(now limiter.Time) error
	// Close ends the use of the message, of which not all may have been read.
	Close()
}
