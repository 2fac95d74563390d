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
	zone           func(string) (*time.Location, error)
	after, through uint64
	section        decoder
	set            changeSet
	known          map[string]*definitions // by their bytes in messages
}

// maxKnown is how many blocks of definitions a reader remembers. Usually all messages of an
// engine have the same few.
const maxKnown = 16

// NewReader returns a reader for one message after another, see [StateReader.Reset]. zone loads
// the time zones that limits name.
func (e *Engine) NewReader(zone func(string) (*time.Location, error)) *StateReader {
	return &StateReader{restorer: restorer{definitions: newDefinitions(e.catalog)}, zone: zone, known: map[string]*definitions{}}
}

// ReadChanges returns a reader of a message, see [Engine.NewReader] and [StateReader.Reset].
func (e *Engine) ReadChanges(data []byte, zone func(string) (*time.Location, error)) (*StateReader, error) {
	r := e.NewReader(zone)
	if err := r.Reset(data); err != nil {
		return nil, err
	}
	return r, nil
}

// Reset begins to read another message. It must not be changed while it is read. An error
// means that it is corrupt, of another version, or names a zone that cannot be loaded.
func (r *StateReader) Reset(data []byte) error {
	r.section, r.after, r.through = decoder{}, 0, 0
	body, err := checkFrame(data, changesMagic, "message of changes")
	if err != nil {
		r.decoder = decoder{err: err}
		return err
	}
	r.decoder = decoder{buf: body, size: len(changesMagic) + len(body), what: "message of changes"}
	n := r.count("definitions")
	if n > len(r.buf) {
		r.fail("%w", errTruncated)
	}
	if r.err != nil {
		return r.err
	}
	sections := r.decoder
	sections.buf = r.buf[n:]
	text := r.buf[:n]
	if known := r.known[string(text)]; known != nil {
		r.definitions = known
	} else if r.buf = text; r.define() == nil {
		if len(r.known) >= maxKnown {
			clear(r.known)
		}
		r.known[string(text)] = r.definitions
	}
	sections.err = r.err
	r.decoder = sections
	return r.err
}

// define reads new definitions.
func (r *StateReader) define() error {
	r.definitions = newDefinitions(r.catalog)
	for len(r.buf) > 0 && r.err == nil {
		switch r.upTo(tagTier, "definition") {
		case tagLimit:
			r.limit(r.zone)
		case tagSchema:
			r.schema()
		case tagTier:
			id := r.uint()
			r.tiers[id] = r.string("tier")
		default:
			r.fail("a definition is of no kind")
		}
	}
	return r.err
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
	s.dropCopies(now) // reservations that have ended were let in without room
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
