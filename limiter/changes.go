// SPDX-License-Identifier: Apache-2.0

package limiter

// Every call that changes the state of a partition takes the next number of its changes.
// So do a lease that expires, a record that is adapted to another policy, and a request
// id that is forgotten before its retention is over. No changes are: advancing a record
// in time, denials, removing records that are not used, and forgetting ids on time. A
// copy does the last two itself.
//
// A tracked partition lists what changed: references to records and id entries, not
// their values, so that a record which changes often is listed once. The list is cut
// whenever it is read. Between two cuts a reference is listed once, and what changed
// after any number is in the segments that end after it.

// maxListed is the most references and removed ids that a partition lists.
const maxListed = 1 << 16

// maxCuts is the most segments of a list. The oldest two are joined if there are more.
const maxCuts = 64

// changes are the list of what changed in a partition.
type changes struct {
	start   uint64 // all changes with higher numbers are listed
	refs    []reference
	removed []removedID
	cuts    []cut
	uncut   int // the first of refs after the last cut
	dropped listed
}

// listed are numbers of references and removed ids.
type listed struct{ refs, removed int }

// reference is the handle of a record, or the id of an entry with the bit entryReference.
type reference uint32

const entryReference = 1 << 31

// removedID is an id that is not remembered any more.
type removedID struct {
	root uint64
	idKey
}

// cut ends a segment of the list.
type cut struct {
	through       uint64 // the last change before it
	refs, removed int    // the lengths of the lists
}

// Track starts or stops listing what changes in a partition, for [Engine.AppendChanges].
// The list begins with the next change.
func (e *Engine) Track(partition int, on bool) {
	s := &e.shards[partition]
	s.Lock()
	defer s.Unlock()
	if s.records.tracked == on {
		return
	}
	s.forgetAllChanges()
	if s.records.tracked = on; !on {
		s.changes = changes{dropped: s.changes.dropped}
	}
}

// Seq returns the number of the last change of a partition. It waits for the partition's
// lock.
func (e *Engine) Seq(partition int) uint64 {
	s := &e.shards[partition]
	s.Lock()
	defer s.Unlock()
	return s.seq
}

// listed returns the lengths of the list.
func (s *shard) listed() listed {
	s.Lock()
	defer s.Unlock()
	return listed{len(s.changes.refs), len(s.changes.removed)}
}

// ForgetChanges drops from the list what nobody needs who has all changes up to seq.
func (e *Engine) ForgetChanges(partition int, seq uint64) {
	s := &e.shards[partition]
	s.Lock()
	defer s.Unlock()
	n := 0
	for n < len(s.changes.cuts) && s.changes.cuts[n].through <= seq {
		n++
	}
	s.changes.forget(n)
}

// forget drops the first n segments.
func (c *changes) forget(n int) {
	if n == 0 {
		return
	}
	last := c.cuts[n-1]
	c.start = last.through
	c.dropped.refs += last.refs
	c.dropped.removed += last.removed
	c.refs = dropFirst(c.refs, last.refs)
	c.removed = dropFirst(c.removed, last.removed)
	c.cuts = c.cuts[:copy(c.cuts, c.cuts[n:])]
	for i := range c.cuts {
		c.cuts[i].refs -= last.refs
		c.cuts[i].removed -= last.removed
	}
	c.uncut -= last.refs
}

// keptChanges is the capacity of a list that is kept when it is emptied.
const keptChanges = 1024

// dropFirst removes the first n values of a list.
func dropFirst[T any](list []T, n int) []T {
	if n == len(list) && cap(list) > keptChanges {
		return nil
	}
	return list[:copy(list, list[n:])]
}

// recordChanged must be called after a change of a record that other nodes must know.
func (p *partition) recordChanged(rec *record, recordID uint32) {
	if p.records.tracked {
		p.listRecord(rec, recordID)
	}
}

func (p *partition) listRecord(rec *record, recordID uint32) {
	if rec.flags&recordListed == 0 {
		rec.flags |= recordListed
		p.list(reference(p.handleOf(rec, recordID)))
	}
}

// entryChanged must be called before a change of an id entry, its charges or its
// reservation, except its removal.
func (p *partition) entryChanged(entryID uint32) {
	p.beforeIDChanges(entryID)
	if p.records.tracked {
		p.listEntry(entryID)
	}
}

func (p *partition) listEntry(entryID uint32) {
	if entry := p.entries.at(entryID); !entry.is(flagListed) {
		entry.set(flagListed)
		p.list(entryReference | reference(entryID))
	}
}

func (p *partition) list(ref reference) {
	p.changes.refs = append(p.changes.refs, ref)
	if len(p.changes.refs)+len(p.changes.removed) > maxListed {
		p.forgetOldChanges()
	}
}

// mustTellRemoval reports whether an id that is removed now must be removed from copies.
// They remove ids whose retention is over themselves, but not a reservation of which they
// may not know yet that it has ended.
func (p *partition) mustTellRemoval(entry *idEntry) bool {
	switch {
	case entry.due > p.mono, entry.state() == idExpired:
		return true
	case entry.isReservation():
		return len(p.changes.refs)+len(p.changes.removed) > 0
	}
	return false
}

// idRemoved lists an id that is removed. In a closed partition that is no change.
func (p *partition) idRemoved(entry *idEntry) {
	if !p.records.closed {
		p.seq++
	}
	if !p.records.tracked {
		return
	}
	p.changes.removed = append(p.changes.removed, removedID{p.accounts.at(entry.account()).root, entry.key()})
	if len(p.changes.refs)+len(p.changes.removed) > maxListed {
		p.forgetOldChanges()
	}
}

// forgetOldChanges drops the older half of a list that is too long, or all of it if it was
// not read for so long.
func (p *partition) forgetOldChanges() {
	c := &p.changes
	for n := range c.cuts {
		if c.cuts[n].refs+c.cuts[n].removed >= maxListed/2 {
			c.forget(n + 1)
			return
		}
	}
	p.forgetAllChanges()
}

// forgetAllChanges empties the list. Whoever lacks a change needs a full copy.
func (p *partition) forgetAllChanges() {
	p.cutChanges()
	p.changes.forget(len(p.changes.cuts))
	p.changes.start = p.seq
}

// cutChanges ends a segment of the list, so that what changes next is listed again.
func (p *partition) cutChanges() {
	c := &p.changes
	for _, ref := range c.refs[c.uncut:] {
		if rec, entry := p.referenced(ref); rec != nil {
			rec.flags &^= recordListed
		} else if entry != nil {
			entry.owner &^= flagListed
		}
	}
	p.endSegment()
}

// from returns the cut after which all is listed that changed after a number.
func (c *changes) from(after uint64) (from cut) {
	for i := range c.cuts {
		if c.cuts[i].through > after {
			break
		}
		from = c.cuts[i]
	}
	return from
}

// endSegment ends a segment of the list, whose references must lose their marks.
func (p *partition) endSegment() {
	c := &p.changes
	c.uncut = len(c.refs)
	next := cut{p.seq, len(c.refs), len(c.removed)}
	switch n := len(c.cuts); {
	case n > 0 && c.cuts[n-1].refs == next.refs && c.cuts[n-1].removed == next.removed:
		c.cuts[n-1].through = next.through // nothing is listed between them
	case n == 0 && next.refs == 0 && next.removed == 0:
	case n == maxCuts:
		copy(c.cuts, c.cuts[1:])
		c.cuts[n-1] = next
	default:
		c.cuts = append(c.cuts, next)
	}
}

// referenced returns what a reference refers to now. Both are nil if it was removed.
func (p *partition) referenced(ref reference) (*record, *idEntry) {
	id := uint32(ref &^ entryReference)
	if ref&entryReference == 0 {
		return p.byHandle(id), nil
	}
	if p.entries.has(id) && p.entries.at(id).state() != idForgotten {
		return nil, p.entries.at(id)
	}
	return nil, nil
}
