// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/internal/snapshotfile"
)

// lockName is the file that is locked by the process that uses the directory.
const lockName = "lock"

// State is the memory that a journal keeps on disk. Its methods are safe for concurrent
// use with everything else that changes it. Open calls the last three only.
type State interface {
	// Seq returns the number of the last change of a partition.
	Seq(partition int) uint64
	// Changes appends one message to buf with what changed in these partitions, in
	// order, until it has limit bytes or more. It sets Through and Listed of the first done
	// of them, and returns the wall time of the message in Unix nanoseconds.
	Changes(of []Cursor, buf []byte, limit int) (message []byte, done int, wall int64)
	// Snapshot appends all of a partition to buf. It returns the wall time and the
	// number of the last change that are in it.
	Snapshot(partition int, buf []byte) (data []byte, seq uint64, wall int64)
	// Forget says that all changes of a partition up to seq are on disk.
	Forget(partition int, seq uint64)

	// Restore replaces a partition by a snapshot of it, whose last change was seq.
	Restore(partition int, data []byte, seq uint64, wall int64) error
	// Apply applies those parts of a message that wanted returns true for.
	Apply(message []byte, wall int64, wanted func(partition int) bool) error
	// Clear drops a partition.
	Clear(partition int)
}

// Cursor says which changes of a partition are asked for, and which were found.
type Cursor struct {
	Partition int
	After     uint64 // all changes with higher numbers are wanted
	Through   uint64 // the last of them
	Listed    bool   // false: they are not known any more, and a snapshot is needed
}

// Copy describes the copy of a partition.
type Copy struct {
	Origin   uint64 // the host's name for the history that Seq counts
	Seq      uint64 // number of the last change
	Complete bool   // it has all records
}

// Options configure a [Journal].
type Options struct {
	Dir        string // created if necessary
	Partitions int
	State      State
	// Copy describes the copy of a partition, except for Seq, or says that there is none.
	// It is called before the partition is read. nil: all are complete.
	Copy func(partition int) (c Copy, ok bool)
	// CollectEvery is the time between two times when changes are written. Default: 250 ms.
	CollectEvery time.Duration
	// SyncEvery is the time between the begins of two fsyncs. Default: 750 ms, so that a
	// change is on disk within 1 s if writing and fsync take 250 ms or less.
	SyncEvery time.Duration
	// SnapshotEvery is the least time between the begins of two snapshots.
	SnapshotEvery time.Duration
	// MaxSize is how large journals become before a snapshot replaces them, in bytes, if
	// the last snapshot is smaller. Default: 64 MiB.
	MaxSize  int64
	FS       FS // nil: the files in Dir
	Logger   *slog.Logger
	Registry prometheus.Registerer // nil: no metrics
}

func (o Options) withDefaults() Options {
	if o.CollectEvery <= 0 {
		o.CollectEvery = 250 * time.Millisecond
	}
	if o.SyncEvery <= 0 {
		o.SyncEvery = 750 * time.Millisecond
	}
	if o.MaxSize <= 0 {
		o.MaxSize = 64 << 20
	}
	if o.FS == nil {
		o.FS = directory(o.Dir)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Copy == nil {
		o.Copy = func(int) (Copy, bool) { return Copy{Complete: true}, true }
	}
	return o
}

// Journal keeps a [State] on disk. Its methods are safe for concurrent use, except that
// Run is called once, and Flush and Close after it has returned.
type Journal struct {
	o       Options
	fs      FS
	log     *slog.Logger
	metrics *metrics
	lock    io.Closer

	restored []Copy // by partition; see Restored
	found    []bool

	snapshotDue notify.Signal // wakes the goroutine that writes snapshots

	// mu orders blocks and the partitions of a snapshot: none is read while a block is
	// collected. It is held while a block is written, but never during an fsync.
	mu      sync.Mutex
	current // the journal that is written

	applied appliedMessages // has a lock of its own

	// Of the goroutine of Run that writes blocks.
	lastGeneration uint64    // the highest that was ever used
	lastSync       time.Time // when the last fsync began
	collected      time.Time // all changes before are written
	retryAt        time.Time // of a new generation after a failure
	retryAfter     time.Duration
	behind         bool // the last collect did not write all
	deferred       bool // see unlisted
	block, data    []byte
	cursors        []Cursor
	full, cleared  []int
	hot            []int         // partitions that change most
	undo           []overwritten // by blocks that are not written yet
	syncing        []written
	forgotten      []uint64 // see State.Forget
	// unlisted is After+1 of a cursor whose changes were not listed. Either they come as
	// a message of Applied before the next collect, or the partition is written as a whole.
	unlisted []uint64
}

// current is what the goroutines share; locked by mu.
type current struct {
	file       File
	generation uint64
	salt       uint64
	size       int64 // the offset of the next block
	synced     int64 // all before is on disk
	// failed: the journal is not written any more. pending: it continues a snapshot that
	// is not complete yet, so nothing in it is durable.
	failed, pending bool
	err             error // of the last block, fsync or new generation; nil: it succeeded
	written         []written
	durable         []uint64 // number of the last change on disk, by partition

	journals        int   // that continue the last snapshot
	older           int64 // bytes in those before this one
	snapshot        int64 // size of the last snapshot
	snapshotBegan   time.Time
	snapshotRetryAt time.Time
	snapshotRetry   time.Duration // how long the last one was waited for
	writing         bool          // a snapshot is due or being written
	snapshotErr     error         // of the last snapshot; nil: it succeeded
	lastSynced      time.Time     // all changes before are on disk
}

// written is what the journal has of a partition, with its snapshot.
type written struct {
	held bool
	Copy
}

// Open locks the directory and reads all that is in it into the state. If a file is
// damaged it returns a [*DamageError] and keeps the file aside; the next Open does
// without. The caller must call Run, or Close.
func Open(o Options) (*Journal, error) {
	o = o.withDefaults()
	j := &Journal{
		o: o, fs: o.FS, log: o.Logger, metrics: newMetrics(o.Registry), snapshotDue: notify.New(),
		restored: make([]Copy, o.Partitions), found: make([]bool, o.Partitions),
	}
	j.written, j.durable = make([]written, o.Partitions), make([]uint64, o.Partitions)
	j.forgotten, j.unlisted = make([]uint64, o.Partitions), make([]uint64, o.Partitions)
	if o.Dir != "" {
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("create data directory: %w", err)
		}
		lock, err := snapshotfile.Lock(filepath.Join(o.Dir, lockName))
		if err != nil {
			return nil, fmt.Errorf("data directory %s: %w", o.Dir, err)
		}
		j.lock = lock
	}
	if err := j.recover(); err != nil {
		return nil, errors.Join(fmt.Errorf("data directory %s: %w", o.Dir, err), j.unlock())
	}
	return j, nil
}

// Restored returns what Open has read of a partition, or false if there was nothing.
func (j *Journal) Restored(partition int) (c Copy, ok bool) {
	return j.restored[partition], j.found[partition]
}

// Durable returns the number of the last change of a partition that is known to be on
// disk.
func (j *Journal) Durable(partition int) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.durable[partition]
}

// Flush writes and syncs all changes, and marks the end of the journal. If the journal has
// failed, it tries to write a snapshot once more.
func (j *Journal) Flush() error {
	if j.isFailed() {
		j.restart()
	}
	if j.isPending() {
		j.snapshotAll(context.Background())
	}
	if j.collect(); j.deferred {
		j.collect()
	}
	if j.sync(); !j.isFailed() { // the end is written only after the rest is on disk
		j.mu.Lock()
		j.write(append(beginBlock(j.block[:0]), kindEnd), 0)
		j.mu.Unlock()
		j.sync()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pending && j.err == nil {
		return errors.Join(errPending, j.snapshotErr)
	}
	return j.err
}

func (j *Journal) isPending() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.pending && !j.failed
}

// Close closes the files and unlocks the directory. It does not flush.
func (j *Journal) Close() error {
	var err error
	if j.file != nil {
		err = j.file.Close()
		j.file = nil
	}
	return errors.Join(err, j.unlock())
}

func (j *Journal) unlock() error {
	if j.lock == nil {
		return nil
	}
	lock := j.lock
	j.lock = nil
	return lock.Close()
}

// Status is the status of a [Journal].
type Status struct {
	Generation    uint64     `json:"generation"`
	JournalBytes  int64      `json:"journal_bytes"`              // in all journals
	SnapshotBytes int64      `json:"snapshot_bytes"`             // in the last snapshot
	LastSync      *time.Time `json:"last_sync,omitempty"`        // all changes before are on disk
	Failing       string     `json:"failing,omitempty"`          // why changes are not on disk
	SnapshotError string     `json:"snapshot_failing,omitempty"` // why journals are not replaced by a snapshot
}

// Status returns the current status.
func (j *Journal) Status() Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := Status{Generation: j.generation, JournalBytes: j.older + j.size, SnapshotBytes: j.snapshot}
	if t := j.lastSynced; !t.IsZero() {
		s.LastSync = &t
	}
	if j.err != nil {
		s.Failing = j.err.Error()
	}
	if j.snapshotErr != nil {
		s.SnapshotError = j.snapshotErr.Error()
	}
	return s
}
