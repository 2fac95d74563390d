// SPDX-License-Identifier: Apache-2.0

package limiter

import "github.com/cespare/xxhash/v2"

// changesMagic begins every message of changes. Its last byte is the version.
const changesMagic = "brd\x01"

// A StateWriter makes a message of the changes of several partitions of one engine, see
// [Engine.AppendChanges]. The message defines what it refers to, so each can be read alone.
// The zero value is ready for use, and is reused after Reset. It is not safe for concurrent
// use.
type StateWriter struct {
	stateEncoder
	engine  *Engine
	count   int
	message []byte
	seen    [2]bitset // references written of the current partition: records, entries
	read    changesRead
}

// Reset begins a new message.
func (w *StateWriter) Reset() {
	w.buf, w.definitions.buf, w.count = w.buf[:0], w.definitions.buf[:0], 0
	clear(w.limits)
	clear(w.schemas)
	clear(w.tiers)
}

// Partitions returns how many partitions the message has changes of.
func (w *StateWriter) Partitions() int { return w.count }

// Len returns about how many bytes the message has.
func (w *StateWriter) Len() int { return len(w.buf) + len(w.definitions.buf) }

// Message returns the message. It is valid until the next call of Message.
func (w *StateWriter) Message() []byte {
	m := encoder{append(w.message[:0], changesMagic...)}
	m.uint(uint64(len(w.definitions.buf)))
	m.buf = append(m.buf, w.definitions.buf...)
	m.buf = append(m.buf, w.buf...)
	m.uint(tagEnd)
	m.fixed(xxhash.Sum64(m.buf))
	w.message = m.buf
	return m.buf
}

// AppendChanges appends to w what changed in a partition after the change numbered after, as
// values as of now, and returns the number of the last change. All values are those of one
// instant. It appends nothing if there was no later change. The partition may be open or
// closed.
//
// It holds the partition's lock for 64 records and ids at a time, for some 15 us, and calls
// are decided in between. If there are more, it first collects what is listed, 4,096
// references at a time.
//
// It returns false, and appends nothing, if the list of changes does not reach back to
// after: the receiver needs a full copy, as of [Engine.SnapshotAt]. The list begins when
// the partition is tracked and when it is restored, cleared or changed by Apply, and is
// begun anew if it grows too long.
//
// That a record was denied its latest request is sent with the next change of the record.
func (e *Engine) AppendChanges(now Time, partition int, after uint64, w *StateWriter) (through uint64, ok bool) {
	if w.engine != e {
		w.begin(e)
	}
	s := &e.shards[partition]
	through, result := w.beginChanges(s, now, partition, after, false)
	if result == tooMany {
		e.reads[partition].Lock()
		defer e.reads[partition].Unlock()
		for result == tooMany {
			w.read.makeRoom(s.listed())
			for w.collect(s, after) {
			}
			through, result = w.beginChanges(s, now, partition, after, true)
			if result == begun {
				for w.step(s) {
				}
				w.endRead()
			} else {
				w.dropCollected()
			}
		}
	}
	return through, result != notListed
}

// The results of beginChanges.
const (
	complete = iota // all changes are written, or there are none
	notListed
	tooMany // changes for one hold of the lock
	begun   // they are to be read in steps
)

// beginChanges writes changes if they are few. If there are too many, it begins to read
// them, provided that nearly all of them are collected.
func (w *StateWriter) beginChanges(s *shard, now Time, partition int, after uint64, collected bool) (through uint64, result int) {
	s.Lock()
	defer s.Unlock()
	now = s.tick(now)
	switch {
	case !s.records.tracked || after < s.changes.start:
		return s.seq, notListed
	case after >= s.seq:
		return s.seq, complete
	}
	from := s.changes.from(after)
	if collected && !w.read.nearlyAll(s, from) || !collected && !s.changes.fewAfter(from, readStep) {
		return s.seq, tooMany
	}
	w.p, w.now = &s.partition, now
	w.count++
	w.uint(tagPartition)
	w.uint(uint64(partition))
	w.uint(after)
	w.uint(s.seq)
	lengthAt := len(w.buf)
	w.buf = append(w.buf, 0, 0, 0, 0)
	if collected {
		w.beginRead(from, lengthAt)
		return s.seq, begun
	}
	w.changesFrom(from)
	w.setLength(lengthAt)
	return s.seq, complete
}

func (w *StateWriter) begin(e *Engine) {
	if w.engine != nil && w.Len() > 0 {
		panic("limiter: a message of changes of two engines")
	}
	w.engine, w.separate, w.tiers = e, true, map[string]uint64{}
	w.Reset()
}

// changesFrom writes what is listed after a cut, and cuts the list.
func (w *StateWriter) changesFrom(from cut) {
	p, c := w.p, &w.p.changes
	p.cutChanges()
	for _, ref := range c.refs[from.refs:] {
		if w.seen[ref/entryReference].set(uint32(ref % entryReference)) {
			continue
		}
		if rec, entry := p.referenced(ref); rec != nil {
			p.advance(rec, w.now)
			w.changedRecord(rec)
		} else if entry != nil {
			w.entry(entry)
		}
	}
	for _, ref := range c.refs[from.refs:] {
		w.seen[ref/entryReference][ref%entryReference/64] = 0
	}
	for _, id := range c.removed[from.removed:] {
		if _, entry := p.lookUp(p.accounts.find(id.root), id.idKey); entry != nil {
			continue // added again, so it is listed
		}
		w.removedID(id)
	}
}

func (w *StateWriter) removedID(id removedID) {
	w.uint(tagRemoved)
	w.fixed(id.root)
	w.fixed(id.hash)
	w.uint(uint64(id.more))
}

// changedRecord writes a record with its pins, by which the receiver knows that it has the
// reservations that charged it.
func (w *StateWriter) changedRecord(rec *record) {
	w.useSchema(w.p.engine.catalog.schema(rec.schema))
	w.item(tagRecord)
	lengthAt := len(w.buf)
	w.buf = append(w.buf, 0, 0, 0, 0)
	w.uint(uint64(rec.pins))
	w.record(rec)
	w.setLength(lengthAt)
}
