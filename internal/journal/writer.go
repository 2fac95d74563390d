// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// messageSize is about how many bytes of changes are collected under one hold of mu
	// and written as one block.
	messageSize = 1 << 20
	// Partitions with so many changes since they were collected last are collected that
	// many times more often.
	hotChanges, hotTicks = 256, 10
	// maxJournals is how many journals may continue a snapshot. Each start adds one.
	maxJournals = 16
	// Bounds of the time between attempts after a failure.
	minRetry, maxRetry = time.Second, time.Minute
)

// Run writes changes until ctx is done. Call Flush then. It returns nil: failures are
// logged, counted and in [Journal.Status], and it goes on trying.
func (j *Journal) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		due := time.Now().Add(j.o.CollectEvery) // the next step
		timer := time.NewTimer(j.o.CollectEvery)
		defer timer.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-timer.C:
			}
			now := time.Now()
			if now.Before(due) {
				j.collectHot()
			} else {
				j.step(now)
				for due = due.Add(j.o.CollectEvery); !now.Before(due); due = due.Add(j.o.CollectEvery) {
					continue // the steps that were missed
				}
			}
			wait := time.Until(due)
			if len(j.hot) > 0 {
				wait = min(wait, j.o.CollectEvery/hotTicks)
			}
			timer.Reset(max(0, wait))
		}
	})
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-j.snapshotDue.C():
				j.snapshotAll(ctx)
			}
		}
	})
	return group.Wait()
}

// step does what is due.
func (j *Journal) step(now time.Time) {
	if j.isFailed() {
		if now.Before(j.retryAt) {
			return
		}
		j.restart()
	}
	j.collect()
	if now.Sub(j.lastSync) < j.o.SyncEvery-j.o.CollectEvery/2 { // ticks are not exact
		return
	}
	j.lastSync = now
	j.sync()
	j.compact(now)
}

func (j *Journal) isFailed() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failed
}

// use makes f the journal that is written.
func (j *Journal) use(f File, h header) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.file, j.generation, j.salt = f, h.generation, h.salt
	j.size, j.synced = int64(headerSize), int64(headerSize)
	j.failed, j.pending = false, h.previous == 0
	j.journals++
	j.metrics.size.Set(float64(j.older + j.size))
}

// fail stops writing to the journal for good, until a new generation begins.
func (j *Journal) fail(err error) {
	j.mu.Lock()
	j.failed = true
	if f := j.file; f != nil {
		j.file = nil
		defer f.Close() // it has failed already
	}
	j.mu.Unlock()
	j.retryAfter = min(max(2*j.retryAfter, minRetry), maxRetry)
	j.retryAt = time.Now().Add(j.retryAfter)
	j.report(err)
}

// report remembers the outcome of a write, fsync or new generation, and logs changes.
func (j *Journal) report(err error) {
	j.mu.Lock()
	before := j.err
	j.err = err
	j.mu.Unlock()
	if err != nil {
		j.metrics.failures.Inc()
	}
	switch {
	case err != nil && before == nil:
		j.metrics.failing.Set(1)
		j.log.Error("journal failed, retrying: a crash would lose the usage from now on", "dir", j.o.Dir, "error", err)
	case err == nil && before != nil:
		j.metrics.failing.Set(0)
		j.log.Info("journal is written again", "dir", j.o.Dir)
	}
}

// restart begins a generation that does not continue the journal before it.
func (j *Journal) restart() {
	f, h, _, err := j.newJournal(0, 0)
	if err != nil {
		j.fail(err)
		return
	}
	j.use(f, h)
	j.mu.Lock()
	for p := range j.written { // the snapshot will have what is before
		c, held := j.o.Copy(p)
		if held {
			c.Seq = j.o.State.Seq(p)
			j.o.State.Forget(p, c.Seq)
		}
		j.written[p] = written{held, c}
	}
	j.mu.Unlock()
	j.requestSnapshot()
}

// collect writes what has changed since it was called last.
func (j *Journal) collect() {
	began := time.Now()
	if j.behind, j.deferred = true, false; j.isFailed() || !j.writeApplied() {
		return
	}
	j.mu.Lock()
	j.cursors, j.full, j.cleared, j.hot = j.cursors[:0], j.full[:0], j.cleared[:0], j.hot[:0]
	for p := range j.written {
		j.findChanges(p)
	}
	j.mu.Unlock()
	if j.writeFound() {
		j.behind, j.collected = j.deferred, began
	}
}

// collectHot writes what has changed in the partitions that changed most before the last
// collect, so that they are not locked for long when it comes to them again.
func (j *Journal) collectHot() {
	if len(j.hot) == 0 || j.isFailed() || !j.writeApplied() {
		return
	}
	j.mu.Lock()
	j.cursors, j.full, j.cleared = j.cursors[:0], j.full[:0], j.cleared[:0]
	hot := j.hot
	for _, p := range hot {
		j.findChanges(p)
	}
	j.hot = hot // without those that findChanges has added again
	j.mu.Unlock()
	j.writeFound()
}

// writeFound writes cursors, full and cleared. It returns false if that failed.
func (j *Journal) writeFound() bool {
	for len(j.cursors) > 0 {
		if !j.writeChanges() {
			return false
		}
	}
	for _, p := range j.full {
		if !j.writeFull(p) {
			return false
		}
	}
	return len(j.cleared) == 0 || j.writeCleared()
}

// findChanges adds a partition to cursors, full or cleared if it has changed. It needs mu.
func (j *Journal) findChanges(p int) {
	w := &j.written[p]
	c, held := j.o.Copy(p)
	if !held {
		if w.held {
			j.cleared = append(j.cleared, p)
		}
		return
	}
	switch c.Seq = j.o.State.Seq(p); {
	case !w.held && c == (Copy{Complete: true}): // nothing yet
	case !w.held || c.Seq < w.Seq:
		j.full = append(j.full, p)
	case c != w.Copy:
		j.cursors = append(j.cursors, Cursor{Partition: p, After: w.Seq})
		if c.Seq-w.Seq >= hotChanges {
			j.hot = append(j.hot, p)
		}
	}
}

// writeChanges writes a block with changes of the first cursors, and drops these. It
// returns false if that failed.
func (j *Journal) writeChanges() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed {
		return false
	}
	// The copies are described before they are read, so that changes are never taken for
	// part of a newer history. The list of sections comes first in the block, so the
	// message is collected behind the room that the list takes at most.
	copies := make([]Copy, 0, len(j.cursors))
	for _, c := range j.cursors {
		of, _ := j.o.Copy(c.Partition)
		copies = append(copies, of)
	}
	room := blockHead + 1 + binary.MaxVarintLen64 + len(j.cursors)*4*binary.MaxVarintLen64
	if cap(j.block) < room {
		j.block = make([]byte, room, room+2*messageSize)
	}
	var done int
	var wall int64
	j.block, done, wall = j.o.State.Changes(j.cursors, j.block[:room], messageSize)

	head := append(beginBlock(make([]byte, 0, room)), kindChanges)
	listed := 0
	for _, c := range j.cursors[:done] {
		listed += intOf(c.Listed)
	}
	head = binary.AppendUvarint(head, uint64(listed))
	for i, c := range j.cursors[:done] {
		if !c.Listed {
			if j.unlisted[c.Partition] == c.After+1 {
				j.full = append(j.full, c.Partition)
			} else {
				j.deferred = true
			}
			j.unlisted[c.Partition] = c.After + 1
			continue
		}
		s := section{partition: c.Partition, origin: copies[i].Origin, seq: c.Through}
		if copies[i].Complete {
			s.flags |= flagComplete
		}
		if c.Through != c.After {
			s.flags |= flagMessage
		}
		head = s.append(head)
	}
	begin := room - len(head)
	copy(j.block[begin:], head)
	if listed > 0 && !j.write(j.block[begin:], wall) {
		return false
	}
	for i, c := range j.cursors[:done] {
		if c.Listed {
			copies[i].Seq = c.Through
			j.written[c.Partition] = written{true, copies[i]}
		}
	}
	j.cursors = j.cursors[:copy(j.cursors, j.cursors[done:])]
	return true
}

func intOf(b bool) int {
	if b {
		return 1
	}
	return 0
}

// writeFull writes all of a partition.
func (j *Journal) writeFull(partition int) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	c, held := j.o.Copy(partition)
	if j.failed || !held {
		return !j.failed
	}
	// The section has the number of the snapshot, so it is read before the block is begun.
	data, seq, wall := j.o.State.Snapshot(partition, j.data[:0])
	j.data, c.Seq = data, seq
	s := section{partition: partition, origin: c.Origin, seq: seq}
	if c.Complete {
		s.flags = flagComplete
	}
	j.block = append(s.append(append(beginBlock(j.block[:0]), kindFull)), data...)
	if !j.write(j.block, wall) {
		return false
	}
	j.written[partition], j.unlisted[partition] = written{true, c}, 0
	return true
}

// writeCleared writes which partitions have no copy any more.
func (j *Journal) writeCleared() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.block = binary.AppendUvarint(append(beginBlock(j.block[:0]), kindCleared), uint64(len(j.cleared)))
	for _, p := range j.cleared {
		j.block = binary.AppendUvarint(j.block, uint64(p))
	}
	if !j.write(j.block, 0) {
		return false
	}
	for _, p := range j.cleared {
		j.written[p] = written{}
	}
	return true
}

// write appends a block. If that fails, it cuts off what was written of it, and the block
// may be written again later. It needs mu, and unlocks it while it reports a failure.
func (j *Journal) write(b []byte, wall int64) bool {
	if j.failed {
		return false
	}
	endBlock(b, j.salt, j.size, j.synced, wall)
	n, err := j.file.WriteAt(b, j.size)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err == nil {
		j.size += int64(n)
		j.metrics.bytes.Add(float64(n))
		j.metrics.size.Set(float64(j.older + j.size))
		return true
	}
	err = fmt.Errorf("write %s: %w", journalName(j.generation), err)
	cut := j.file.Truncate(j.size)
	j.mu.Unlock()
	defer j.mu.Lock()
	if cut != nil {
		j.fail(errors.Join(err, cut))
	} else {
		j.report(err)
	}
	return false
}

// sync waits until all that was written is on disk.
func (j *Journal) sync() {
	j.mu.Lock()
	if j.failed {
		j.mu.Unlock()
		return
	}
	f, size := j.file, j.size
	unsynced := size != j.synced
	j.syncing = append(j.syncing[:0], j.written...)
	j.mu.Unlock()

	if unsynced {
		began := time.Now()
		err := f.Sync()
		j.metrics.syncs.Observe(time.Since(began).Seconds())
		if err != nil {
			// Drop from the memory of the system what may not be on disk, so that no start
			// takes it for durable.
			err = errors.Join(err, f.Truncate(j.synced))
			j.fail(fmt.Errorf("sync %s: %w", journalName(j.generation), err))
			return
		}
	}
	j.mu.Lock()
	j.synced = size
	pending := j.pending
	if !pending {
		for p := range j.syncing {
			j.durable[p] = j.syncing[p].Seq
		}
	}
	j.mu.Unlock()
	for p := range j.syncing {
		if seq := j.syncing[p].Seq; seq != j.forgotten[p] {
			j.forgotten[p] = seq
			j.o.State.Forget(p, seq)
		}
	}
	if pending || j.behind {
		return
	}
	j.metrics.lastSync.Set(float64(j.collected.UnixNano()) / 1e9)
	j.mu.Lock()
	j.lastSynced = j.collected
	j.mu.Unlock()
	j.retryAfter = 0
	j.report(nil)
}
