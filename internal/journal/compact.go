// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/bucketring/bucketring/internal/snapshotfile"
)

var (
	errStale   = errors.New("another generation has begun")
	errPending = errors.New("the first snapshot of a new generation is not complete")
)

// compactionDue reports whether the journals are to be replaced by a snapshot. It needs
// mu, or no other goroutine.
func (j *Journal) compactionDue() bool {
	return j.older+j.size > max(j.o.MaxSize, j.snapshot) || j.journals > maxJournals
}

// requestSnapshot wakes the goroutine that writes snapshots. The snapshot will be that of
// the current generation.
func (j *Journal) requestSnapshot() {
	j.mu.Lock()
	j.writing, j.snapshotBegan = true, time.Now()
	j.mu.Unlock()
	j.snapshotDue.Set()
}

// compact begins a new generation if it is due. All changes must have been synced.
func (j *Journal) compact(now time.Time) {
	j.mu.Lock()
	busy := j.failed || j.writing || now.Before(j.snapshotRetryAt)
	again := j.pending || j.snapshotErr != nil
	due := j.compactionDue() && now.Sub(j.snapshotBegan) >= j.o.SnapshotEvery && j.size == j.synced
	f, generation, size := j.file, j.generation, j.size
	j.mu.Unlock()
	switch {
	case busy:
		return
	case again:
		j.requestSnapshot()
		return
	case !due:
		return
	}
	next, h, named, err := j.newJournal(generation, size)
	switch {
	case err != nil && named:
		// The new journal may be found after a crash, and would end this one.
		j.fail(err)
		return
	case err != nil:
		j.reportSnapshot(0, err)
		return
	}
	j.mu.Lock()
	j.older += size
	j.mu.Unlock()
	j.use(next, h)
	if err := f.Close(); err != nil {
		j.log.Warn("cannot close a journal", "file", journalName(generation), "error", err)
	}
	j.requestSnapshot()
}

// snapshotAll writes the snapshot of the current generation and deletes the files that it
// replaces.
func (j *Journal) snapshotAll(ctx context.Context) {
	j.mu.Lock()
	generation := j.generation
	j.mu.Unlock()
	size, err := j.writeSnapshot(ctx, generation)
	cancelled := ctx.Err() != nil
	if errors.Is(err, errStale) || cancelled {
		j.mu.Lock()
		j.writing = j.generation != generation && !cancelled // the newer one has requested its own
		j.mu.Unlock()
		return
	}
	if err == nil {
		j.mu.Lock()
		if j.generation == generation {
			j.older, j.journals, j.snapshot = 0, 1, size
			j.pending = false
		}
		j.mu.Unlock()
		err = j.removeBefore(generation)
	}
	j.reportSnapshot(size, err)
}

// reportSnapshot remembers the outcome of a snapshot, and logs changes.
func (j *Journal) reportSnapshot(size int64, err error) {
	now := time.Now()
	j.mu.Lock()
	before, pending := j.snapshotErr, j.pending
	j.snapshotErr, j.writing = err, false
	if err != nil {
		j.snapshotRetryAt = now.Add(min(max(2*j.snapshotRetry, minRetry), maxRetry))
		j.snapshotRetry = j.snapshotRetryAt.Sub(now)
	} else {
		j.snapshotRetry = 0
	}
	j.mu.Unlock()
	if err != nil {
		j.metrics.snapshotFailures.Inc()
		if pending {
			j.report(err) // nothing is durable without the snapshot
		}
	} else {
		j.metrics.snapshotSize.Set(float64(size))
		j.metrics.lastSnapshot.Set(float64(now.UnixNano()) / 1e9)
	}
	switch {
	case err != nil && before == nil:
		j.log.Error("snapshot failed, retrying", "dir", j.o.Dir, "error", err)
	case err == nil && before != nil:
		j.log.Info("snapshots succeed again", "dir", j.o.Dir)
	}
}

// writeSnapshot writes the snapshot of a generation and returns its size. It may run at
// the same time as step.
func (j *Journal) writeSnapshot(ctx context.Context, generation uint64) (size int64, err error) {
	name := snapshotName(generation)
	f, err := j.fs.Create(name + newSuffix)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, err)
			_ = j.fs.Remove(name + newSuffix) // the next start removes it, too
		}
	}()
	size, err = j.encodeSnapshot(ctx, f, generation)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	if err := j.fs.Rename(name+newSuffix, name); err != nil {
		return 0, err
	}
	return size, j.fs.Sync()
}

func (j *Journal) encodeSnapshot(ctx context.Context, f File, generation uint64) (int64, error) {
	out := snapshotfile.NewWriter(io.NewOffsetWriter(f, 0), generation)
	var s snapshotfile.Section
	for p := range j.o.Partitions {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		ok, err := j.snapshotPartition(p, generation, &s)
		if err != nil {
			return 0, err
		}
		if ok {
			if err := out.Add(&s); err != nil {
				return 0, err
			}
		}
	}
	return out.Finish()
}

// snapshotPartition sets s to a partition between two blocks. It returns false if there
// is nothing.
func (j *Journal) snapshotPartition(partition int, generation uint64, s *snapshotfile.Section) (bool, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed || j.generation != generation {
		return false, errStale
	}
	c, held := j.o.Copy(partition)
	if !held || c == (Copy{Complete: true}) && j.o.State.Seq(partition) == 0 {
		return false, nil
	}
	data, seq, wall := j.o.State.Snapshot(partition, s.Data[:0])
	if c.Seq = seq; j.pending { // the journal is worth nothing without this snapshot
		j.written[partition] = written{true, c}
	}
	*s = snapshotfile.Section{Partition: partition, Wall: wall, Position: uint64(j.size), Origin: c.Origin, Seq: seq, Complete: c.Complete, Data: data}
	return true, nil
}
