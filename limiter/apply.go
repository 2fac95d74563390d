// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"errors"
	"fmt"
	"time"
)

// Errors of applying state to a copy. They change nothing.
var (
	// ErrOpen means that the partition is open, so it holds no copy.
	ErrOpen = errors.New("partition is open")
	// ErrGap means that the copy lacks changes before those of the message.
	ErrGap = errors.New("copy lacks earlier changes")
)

// A StateReader reads a message of a [StateWriter], partition by partition:
//
//	for r.Next() {
//		partition, _, _ := r.Section()
//		err := engine.Apply(now, r)
//	}
//
// It is not safe for concurrent use.
type StateReader struct {
	restorer
	after, through uint64
	section        decoder
	set            changeSet
}

// ReadChanges returns a reader of a message. zone loads the time zones that limits name.
// The message must not be changed while it is read. An error means that it is corrupt, of
// another version, or names a zone that cannot be loaded.
func (e *Engine) ReadChanges(data []byte, zone func(string) (*time.Location, error)) (*StateReader, error) {
	body, err := checkFrame(data, changesMagic, "message of changes")
	if err != nil {
		return nil, err
	}
	r := &StateReader{restorer: restorer{definitions: newDefinitions(e.catalog)}}
	r.decoder = decoder{buf: body, size: len(changesMagic) + len(body), what: "message of changes"}
	n := r.count("definitions")
	if n > len(r.buf) {
		r.fail("%w", errTruncated)
		return nil, r.err
	}
	sections := r.decoder
	sections.buf = r.buf[n:]
	r.buf = r.buf[:n]
	for len(r.buf) > 0 && r.err == nil {
		switch r.upTo(tagTier, "definition") {
		case tagLimit:
			r.limit(zone)
		case tagSchema:
			r.schema()
		case tagTier:
			id := r.uint()
			r.tiers[id] = r.string("tier")
		default:
			r.fail("a definition is of no kind")
		}
	}
	sections.err = r.err
	if r.decoder = sections; r.err != nil {
		return nil, r.err
	}
	return r, nil
}

// Next goes to the changes of the next partition. It returns false after the last one and
// if the rest of the message cannot be read, see Err.
func (r *StateReader) Next() bool {
	if r.err != nil || r.section.err != nil || r.upTo(tagPartition, "item") != tagPartition {
		return false
	}
	r.partition = int(r.upTo(Partitions-1, "partition"))
	r.after, r.through = r.uint(), r.uint()
	if r.section = r.part(); r.err == nil && r.through <= r.after {
		r.fail("changes after %d end at %d", r.after, r.through)
	}
	return r.err == nil
}

// Section returns the current partition, and that its changes are those after one number
// through another.
func (r *StateReader) Section() (partition int, after, through uint64) {
	return r.partition, r.after, r.through
}

// Err returns the error that ended the message early, or nil.
func (r *StateReader) Err() error { return r.err }

// Apply applies the changes of the current partition of r, which must be closed, as if they
// had been read at now. Times that they have are shifted by the difference. It does nothing
// if the copy has all of them, and may be called again. The error is [ErrOpen], [ErrGap],
// or says that the message cannot be read, and the copy is unchanged. Any other error means
// that the changes do not match the copy. Then the copy is cleared, see [Engine.Clear].
//
// Records and ids for which [Options].MaxKeys and MaxIDs leave no room displace unused or
// older ones or are dropped, except live reservations and what they charge.
func (e *Engine) Apply(now Time, r *StateReader) error {
	if e.catalog != r.catalog {
		return errors.New("message of changes: it was read for another engine")
	}
	s := &e.shards[r.partition]
	s.Lock()
	defer s.Unlock()
	switch {
	case !s.records.closed:
		return fmt.Errorf("apply changes to partition %d: %w", r.partition, ErrOpen)
	case s.seq < r.after:
		return fmt.Errorf("apply changes after %d to partition %d, which has %d: %w", r.after, r.partition, s.seq, ErrGap)
	case s.seq >= r.through:
		return nil
	}
	now = s.tick(now)
	d := &r.restorer
	whole := d.decoder
	defer func() { d.decoder, d.p, d.changes = whole, nil, nil }()
	d.p, d.now, d.changes = &s.partition, now, &r.set
	r.set.begin()
	d.decoder = r.section
	if d.collect(); d.err != nil {
		return d.err
	}
	d.makeRoom()
	d.applyChanges()
	d.returnRoom()
	if d.err != nil {
		s.clear(e, r.partition)
		return d.err
	}
	s.seq = r.through
	s.forgetAllChanges()
	return nil
}

// ApplyFull replaces a closed partition by a snapshot, as [Engine.Restore] does, and the
// number of its last change by that of the snapshot. The error is [ErrOpen] or says what
// is invalid, and the copy is unchanged.
func (e *Engine) ApplyFull(now Time, partition int, data []byte, zone func(string) (*time.Location, error)) error {
	c, err := e.ReadFull(now, partition, data, zone)
	if err != nil {
		return err
	}
	return c.Apply(now)
}

// FullCopy is the state of a partition that was read from a snapshot. It belongs to no
// partition until it is applied.
type FullCopy struct {
	partition int
	fresh     *partition // nil: applied
}

// ReadFull reads a snapshot, as if it had been taken at now, for [FullCopy.Apply]. It takes
// about 5 us a record, and no lock of a partition. An error says what is invalid.
func (e *Engine) ReadFull(now Time, partition int, data []byte, zone func(string) (*time.Location, error)) (*FullCopy, error) {
	fresh, err := e.decode(now, partition, data, zone)
	if err != nil {
		return nil, err
	}
	return &FullCopy{partition, fresh}, nil
}

// Apply is the rest of [Engine.ApplyFull]: it replaces the partition in a time that does not
// depend on the number of records, unless a snapshot of what is replaced is in progress. It
// may be called until it has succeeded once.
func (c *FullCopy) Apply(now Time) error {
	if c.fresh == nil {
		return fmt.Errorf("apply a snapshot to partition %d: it has been applied", c.partition)
	}
	e := c.fresh.engine
	s := &e.shards[c.partition]
	s.Lock()
	defer s.Unlock()
	if !s.records.closed {
		return fmt.Errorf("apply a snapshot to partition %d: %w", c.partition, ErrOpen)
	}
	s.mono = max(now.Mono, s.mono)
	seq := c.fresh.seq
	s.replace(c.fresh, c.partition)
	c.fresh = nil
	s.seq = seq
	s.forgetAllChanges()
	s.dropCopies(now)
	return nil
}
