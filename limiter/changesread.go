// SPDX-License-Identifier: Apache-2.0

package limiter

import "slices"

// readStep is how many listed references are looked at under one hold of the partition's
// lock.
const readStep = 64

// changesRead are the changes of a partition that a [StateWriter] reads in steps. Calls are
// decided between two steps. As with a snapshot, what a call changes is written first, so
// that all values are those of the instant in which the read began.
//
// Its fields are locked by the partition, except out, which only the reader uses.
type changesRead struct {
	refs     []reference // what is listed; of those in seen the values are not written yet
	removed  []removedID
	next     int    // the first of refs that was not looked at
	finished bool   // nothing is left to write
	out      []byte // what was collected before the chunks
	lengthAt int    // of the length of the items in out
	spare    []byte // a chunk to fill next
}

// makeRoom makes room for a read of that many references and ids, before the partition is
// locked.
func (r *changesRead) makeRoom(refs, removed int) {
	r.refs, r.removed = slices.Grow(r.refs[:0], refs), slices.Grow(r.removed[:0], removed)
}

// beginRead begins to read what is listed after a cut, and cuts the list. The marks of what
// is listed after the last cut are removed when it is written.
func (w *StateWriter) beginRead(from cut, lengthAt int) {
	p, r := w.p, &w.read
	r.refs = append(r.refs[:0], p.changes.refs[from.refs:]...)
	r.removed = append(r.removed[:0], p.changes.removed[from.removed:]...)
	for _, ref := range r.refs {
		seen, word := &w.seen[ref/entryReference], int(ref%entryReference/64)
		for word >= len(*seen) {
			*seen = append(*seen, 0)
		}
		(*seen)[word] |= 1 << (ref % 64)
	}
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
