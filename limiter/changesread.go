// SPDX-License-Identifier: Apache-2.0

package limiter

import "slices"

// readStep is how many listed references are looked at under one hold of the partition's
// lock.
const readStep = 64

// collectStep is how many listed references and ids are collected under one hold of the
// partition's lock, which takes 3 ns for each.
const collectStep = 4096

// changesRead are the changes of a partition that a [StateWriter] reads in steps. Calls are
// decided between two steps. As with a snapshot, what a call changes is written first, so
// that all values are those of the instant in which the read began.
//
// Its fields are locked by the partition, except out, which only the reader uses.
type changesRead struct {
	of *memory // what was collected of which partition
	at listed  // and how much was listed before it, ever

	refs     []reference // what is listed; of those in seen the values are not written yet
	removed  []removedID
	most     int    // the most references, or ids, that were collected under one hold of the lock
	next     int    // the first of refs that was not looked at
	finished bool   // nothing is left to write
	out      []byte // what was collected before the chunks
	lengthAt int    // of the length of the items in out
	spare    []byte // a chunk to fill next
}

// makeRoom makes room to collect what is listed, before the partition is locked.
func (r *changesRead) makeRoom(n listed) {
	r.of = nil
	r.refs, r.removed = slices.Grow(r.refs[:0], n.refs+collectStep), slices.Grow(r.removed[:0], n.removed+collectStep)
}

// collect goes on collecting what is listed of the changes after a number, before the read
// begins. It returns false when nothing more is listed, or the list was cut off meanwhile.
func (w *StateWriter) collect(s *shard, after uint64) (more bool) {
	r := &w.read
	s.Lock()
	defer s.Unlock()
	if !s.records.tracked || after < s.changes.start {
		return false
	}
	from := s.changes.from(after)
	if at := s.changes.position(from); r.of == nil {
		r.of, r.at = s.memory, at
	} else if r.of != s.memory || r.at != at {
		return false
	}
	w.take(&s.changes, from)
	return !s.changes.fewAfter(r.collected(from), 0)
}

// position returns how much was ever listed before a cut.
func (c *changes) position(from cut) listed {
	return listed{c.dropped.refs + from.refs, c.dropped.removed + from.removed}
}

// fewAfter reports whether at most n references, and as many ids, are listed after a cut.
func (c *changes) fewAfter(from cut, n int) bool {
	return len(c.refs)-from.refs <= n && len(c.removed)-from.removed <= n
}

// collected returns the place in the list until which it was collected from a cut on.
func (r *changesRead) collected(from cut) cut {
	return cut{refs: from.refs + len(r.refs), removed: from.removed + len(r.removed)}
}

// nearlyAll reports whether so much was collected that the rest can be under one hold of the
// lock.
func (r *changesRead) nearlyAll(s *shard, from cut) bool {
	return r.of == s.memory && r.at == s.changes.position(from) && s.changes.fewAfter(r.collected(from), collectStep)
}

// take collects some of what is listed after a cut and not collected.
func (w *StateWriter) take(c *changes, from cut) {
	r := &w.read
	next := r.collected(from)
	refs, removed := c.refs[next.refs:], c.removed[next.removed:]
	refs, removed = refs[:min(len(refs), collectStep)], removed[:min(len(removed), collectStep)]
	for _, ref := range refs {
		seen, word := &w.seen[ref/entryReference], int(ref%entryReference/64)
		for word >= len(*seen) {
			*seen = append(*seen, 0)
		}
		(*seen)[word] |= 1 << (ref % 64)
	}
	r.refs, r.removed = append(r.refs, refs...), append(r.removed, removed...)
	r.most = max(r.most, len(refs), len(removed))
}

// dropCollected gives up what was collected.
func (w *StateWriter) dropCollected() {
	for _, ref := range w.read.refs {
		w.seen[ref/entryReference].unset(uint32(ref % entryReference))
	}
	w.read.refs, w.read.removed = w.read.refs[:0], w.read.removed[:0]
}

// beginRead begins to read what is listed after a cut, and cuts the list. The marks of what
// is listed after the last cut are removed when it is written. Nearly all must have been
// collected.
func (w *StateWriter) beginRead(from cut, lengthAt int) {
	p, r := w.p, &w.read
	w.take(&p.changes, from)
	p.endSegment()
	if r.spare == nil {
		r.spare = newChunk()
	}
	r.next, r.finished, r.lengthAt = 0, false, lengthAt
	r.out, w.buf, w.chunked = w.buf, newChunk(), true
	p.reading, p.records.reading = w, true
}

// step looks at some references. It returns false when all values are written.
func (w *StateWriter) step(s *shard) (more bool) {
	r := &w.read
	s.Lock()
	for end := min(r.next+readStep, len(r.refs)); r.next < end; r.next++ {
		w.writeOnce(r.refs[r.next])
	}
	if more = r.next < len(r.refs); !more && !r.finished {
		w.finishRead()
	}
	full, last := w.full, w.buf
	w.full, w.buf = nil, r.spare
	s.Unlock()
	for _, chunk := range full {
		r.out = append(r.out, chunk...)
	}
	r.out = append(r.out, last...)
	r.spare = last[:0]
	return more
}

// finishRead writes all that is left. The state of the partition may be dropped then.
func (w *StateWriter) finishRead() {
	r, p := &w.read, w.p
	for ; r.next < len(r.refs); r.next++ {
		w.writeOnce(r.refs[r.next])
	}
	r.finished = true
	p.reading, p.records.reading = nil, false
}

// endRead ends the items of the partition, without its lock.
func (w *StateWriter) endRead() {
	r := &w.read
	w.buf, w.chunked, r.out = r.out, false, nil
	// What was removed and added again is in the message too, which removes first.
	for _, id := range r.removed {
		w.removedID(id)
	}
	w.setLength(r.lengthAt)
}

// writeOnce writes what a reference refers to, unless that was done or there is nothing.
func (w *StateWriter) writeOnce(ref reference) {
	if !w.seen[ref/entryReference].unset(uint32(ref % entryReference)) {
		return
	}
	p := w.p
	if rec, entry := p.referenced(ref); rec != nil {
		rec.flags &^= recordListed
		p.advance(rec, w.now)
		w.changedRecord(rec)
	} else if entry != nil {
		entry.owner &^= flagListed
		w.entry(entry)
	}
}

// handleTaken must be called when a record gets a handle, perhaps one that is listed because
// of a record that was removed.
func (p *partition) handleTaken(handle uint32) {
	if p.records.reading {
		p.reading.seen[0].unset(handle)
	}
}
