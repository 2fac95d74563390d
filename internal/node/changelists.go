// SPDX-License-Identifier: Apache-2.0

package node

import (
	"math"
	"sync"
	"time"

	"github.com/bucketring/bucketring/internal/journal"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/replication"
)

// changeLists is the engine for its two readers of changes: replication and the journal.
// A partition lists its changes as long as one of them needs that, and forgets those that
// both have.
type changeLists struct {
	*limiter.Engine
	mu       sync.Mutex
	to       *journal.Journal              // nil: none
	needed   [limiter.Partitions]positions // guarded by mu
	tracking [limiter.Partitions]bool      // by replication; guarded by mu
}

// positions are up to where each reader has the changes of a partition.
type positions struct{ replicated, journaled uint64 }

// everything is the position of a reader that needs nothing.
const everything = math.MaxUint64

func newChangeLists(e *limiter.Engine) *changeLists {
	l := &changeLists{Engine: e}
	for p := range l.needed {
		l.needed[p] = positions{everything, everything}
	}
	return l
}

// journal makes j a reader of all changes from now on.
func (l *changeLists) journal(j *journal.Journal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.to = j
	for p := range l.needed {
		l.needed[p].journaled = 0
		l.Engine.Track(p, true)
	}
}

// Track says whether replication needs the changes of a partition.
func (l *changeLists) Track(partition int, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tracking[partition] = on
	l.needed[partition].replicated = everything
	if on {
		l.needed[partition].replicated = 0
	}
	l.Engine.Track(partition, on || l.to != nil)
}

// ForgetChanges says that replication does not need the changes of a partition up to seq.
func (l *changeLists) ForgetChanges(partition int, seq uint64) {
	l.forget(partition, func(p *positions) { p.replicated = seq })
}

// journaled says that the journal does not need the changes of a partition up to seq.
func (l *changeLists) journaled(partition int, seq uint64) {
	l.forget(partition, func(p *positions) { p.journaled = seq })
}

func (l *changeLists) forget(partition int, advance func(*positions)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := &l.needed[partition]
	before := min(p.replicated, p.journaled)
	advance(p)
	if seq := min(p.replicated, p.journaled); seq != before && seq > 0 && seq != everything {
		l.Engine.ForgetChanges(partition, seq)
	}
}

// replicated is the engine for replication. The journal gets what is applied to copies,
// because copies list no changes, and what is sent to heirs, so that it is not read twice.
type replicated struct {
	replication.Engine // of lists
	lists              *changeLists
	now                func() limiter.Time
	copyOf             func(partition int) (journal.Copy, bool)
}

func (n *Node) replicatedEngine() replication.Engine {
	return replicated{replication.LimiterEngine(n.engine, time.LoadLocation), n.lists, n.now, n.copyOf}
}

// Track implements replication.Engine.
func (r replicated) Track(partition int, on bool) { r.lists.Track(partition, on) }

// ForgetChanges implements replication.Engine.
func (r replicated) ForgetChanges(partition int, seq uint64) { r.lists.ForgetChanges(partition, seq) }

// ReadChanges implements replication.Engine.
func (r replicated) ReadChanges(message []byte) (replication.ChangeReader, error) {
	reader, err := r.Engine.ReadChanges(message)
	if err != nil || r.lists.to == nil {
		return reader, err
	}
	return &journaledReader{reader, r, message, nil}, nil
}

// NewChanges implements replication.Engine.
func (r replicated) NewChanges() replication.Changes {
	if r.lists.to == nil {
		return r.Engine.NewChanges()
	}
	return &journaledChanges{Changes: r.Engine.NewChanges(), engine: r}
}

// journaledChanges gives the journal each message.
type journaledChanges struct {
	replication.Changes
	engine   replicated
	wall     int64 // as of which the changes were read
	sections []journal.Section
}

// Append implements replication.Changes.
func (c *journaledChanges) Append(now limiter.Time, partition int, after uint64) (through uint64, ok bool) {
	// As in the journal, a copy is described before it is read, so that its changes are
	// never taken for part of a newer history.
	of, held := c.engine.copyOf(partition)
	through, ok = c.Changes.Append(now, partition, after)
	if ok && held && through > after {
		c.wall = now.Wall
		c.sections = append(c.sections, journal.Section{Partition: partition, After: after, Through: through, Origin: of.Origin, Complete: of.Complete})
	}
	return through, ok
}

// Message implements replication.Changes.
func (c *journaledChanges) Message() []byte {
	message := c.Changes.Message()
	if len(c.sections) > 0 {
		c.engine.lists.to.Applied(message, c.wall, c.sections)
		c.sections = c.sections[:0]
	}
	return message
}

// Reset implements replication.Changes.
func (c *journaledChanges) Reset() {
	c.Changes.Reset()
	c.sections = c.sections[:0]
}

// journaledReader gives the journal the sections that were applied.
type journaledReader struct {
	replication.ChangeReader
	engine  replicated
	message []byte
	applied []journal.Section
}

// Apply implements replication.ChangeReader.
func (r *journaledReader) Apply(now limiter.Time) error {
	partition, after, through := r.Section()
	before := r.engine.Seq(partition)
	if err := r.ChangeReader.Apply(now); err != nil {
		return err
	}
	if through > before {
		c, _ := r.engine.copyOf(partition)
		r.applied = append(r.applied, journal.Section{Partition: partition, After: after, Through: through, Origin: c.Origin, Complete: c.Complete})
	}
	return nil
}

// Close implements replication.ChangeReader.
func (r *journaledReader) Close() {
	if len(r.applied) > 0 {
		r.engine.lists.to.Applied(r.message, r.engine.now().Wall, r.applied)
	}
	r.ChangeReader.Close()
}
