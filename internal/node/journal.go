// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"time"

	"github.com/bucketring/bucketring/internal/journal"
	"github.com/bucketring/bucketring/limiter"
)

// openJournal reads the data directory into the engine, so that usage survives a restart.
// Levels have refilled and leases have expired in the meantime. The partitions are closed
// then.
func openJournal(o journal.Options, lists *changeLists, now func() limiter.Time) (*journal.Journal, error) {
	for p := range limiter.Partitions {
		lists.Close(p)
	}
	o.Partitions, o.State = limiter.Partitions, &journaledState{engine: lists, now: now}
	j, err := journal.Open(o)
	if err != nil {
		return nil, err
	}
	lists.journal(j)
	return j, nil
}

// newJournal opens the data directory of the node.
func (n *Node) newJournal() (err error) {
	n.journal, err = openJournal(journal.Options{
		Dir: n.config.Data, SnapshotEvery: n.config.SnapshotEvery, Logger: n.log, Registry: n.registry,
		Copy: n.copyOf,
	}, n.lists, n.now)
	if err != nil {
		return err
	}
	n.cleanups.push("release data directory", n.journal.Close)
	return nil
}

// copyOf describes what the engine has of a partition, without the number of the last
// change, or says that it has nothing.
func (n *Node) copyOf(partition int) (journal.Copy, bool) {
	if n.replication == nil { // it is made when the journal has been read
		return journal.Copy{}, false
	}
	c, ok := n.replication.Copy(partition)
	return journal.Copy{Origin: c.Origin, Complete: c.Complete}, ok
}

// journaledState is the engine as the [journal.State].
type journaledState struct {
	engine *changeLists
	now    func() limiter.Time
	writer limiter.StateWriter // of Changes, which is not called concurrently
}

var _ journal.State = (*journaledState)(nil)

func (s *journaledState) Seq(partition int) uint64 { return s.engine.Seq(partition) }

func (s *journaledState) Changes(of []journal.Cursor, buf []byte, limit int) (message []byte, done int, wall int64) {
	s.writer.Reset()
	now := s.now()
	for done < len(of) && s.writer.Len() < limit {
		c := &of[done]
		c.Through, c.Listed = s.engine.AppendChanges(now, c.Partition, c.After, &s.writer)
		done++
	}
	if s.writer.Partitions() > 0 {
		buf = append(buf, s.writer.Message()...)
	}
	return buf, done, now.Wall
}

func (s *journaledState) Snapshot(partition int, buf []byte) (data []byte, seq uint64, wall int64) {
	now := s.now()
	data, seq = s.engine.SnapshotAt(now, partition, buf)
	return data, seq, now.Wall
}

func (s *journaledState) Forget(partition int, seq uint64) { s.engine.journaled(partition, seq) }

// at returns the time of the node's clocks when the wall clock was that. If the wall clock
// was set back since, it returns the current time.
func (s *journaledState) at(wall int64) limiter.Time {
	now := s.now()
	return now.Add(-max(0, time.Duration(now.Wall-wall)))
}

func (s *journaledState) Restore(partition int, data []byte, _ uint64, wall int64) error {
	return s.engine.ApplyFull(s.at(wall), partition, data, time.LoadLocation)
}

func (s *journaledState) Apply(message []byte, wall int64, wanted func(partition int) bool) error {
	r, err := s.engine.ReadChanges(message, time.LoadLocation)
	if err != nil {
		return err
	}
	now := s.at(wall)
	for r.Next() {
		partition, _, _ := r.Section()
		if !wanted(partition) {
			continue
		}
		if err := s.engine.Apply(now, r); err != nil {
			return fmt.Errorf("partition %d: %w", partition, err)
		}
	}
	return r.Err()
}

func (s *journaledState) Clear(partition int) { s.engine.Clear(partition) }

// journalStatus returns the status of the journal, or nil without --data.
func (n *Node) journalStatus() *journal.Status {
	if n.journal == nil {
		return nil
	}
	s := n.journal.Status()
	return &s
}
