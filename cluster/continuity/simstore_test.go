// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"slices"
	"time"
)

// simStore is the state of a partition: one key, its level, and the ids that were
// charged, those of slices among them. Each record has the number of its last change.
type simStore struct {
	seq      uint64
	level    int64
	levelSeq uint64
	charges  []simCharge
	index    map[uint64]int
	total    int64    // of the charges
	lent     []uint64 // slices that have not ended, in the order in which the store got them
}

type simCharge struct {
	id      uint64
	cost    int64
	seq     uint64
	settled bool // cost is what the call came to, or what was spent of the slice
	slice   bool
	// due is when a slice ends that is not returned: on the clock of the member that has the
	// store, and from now on in records that are on their way.
	due time.Duration
}

// simRecords are records on their way.
type simRecords struct {
	level    int64
	levelSeq uint64
	charges  []simCharge
}

// simContent is what copies of the same changes have in common.
type simContent struct {
	level   int64
	n, lent int
}

func content(st *simStore) simContent { return simContent{st.level, len(st.charges), len(st.lent)} }

func newSimStore() *simStore { return &simStore{index: map[uint64]int{}} }

func (st *simStore) has(id uint64) bool {
	_, ok := st.index[id]
	return ok
}

// charge records a charge. The caller has set seq.
func (st *simStore) charge(c simCharge) {
	st.level += c.cost
	st.levelSeq, c.seq = st.seq, st.seq
	st.put(c)
}

// correct settles a charge and returns by how much the level falls. The caller has set seq.
func (st *simStore) correct(i int, final int64) int64 {
	c := st.charges[i]
	refund := c.cost - final
	c.cost, c.settled, c.seq = final, true, st.seq
	st.level -= refund
	st.levelSeq = st.seq
	st.put(c)
	return refund
}

func (st *simStore) put(c simCharge) {
	i, ok := st.index[c.id]
	switch {
	case !ok:
		st.total += c.cost
		st.index[c.id] = len(st.charges)
		st.charges = append(st.charges, c)
	case st.charges[i].seq < c.seq:
		st.total += c.cost - st.charges[i].cost
		st.charges[i] = c
	}
	if c.slice {
		st.list(c.id)
	}
}

// list lists a slice while it has not ended.
func (st *simStore) list(id uint64) {
	c := &st.charges[st.index[id]]
	i := slices.Index(st.lent, id)
	switch live := c.slice && !c.settled; {
	case live && i < 0:
		st.lent = append(st.lent, id)
	case !live && i >= 0:
		st.lent = slices.Delete(st.lent, i, i+1)
	}
}

// since returns the records that changed after a number.
func (st *simStore) since(after uint64, full bool, now time.Duration) *simRecords {
	r := &simRecords{level: st.level, levelSeq: st.levelSeq}
	for _, c := range st.charges {
		if full || c.seq > after {
			if c.slice {
				c.due -= now
			}
			r.charges = append(r.charges, c)
		}
	}
	return r
}

// apply stores records, and reports whether the level is that of the charges: it has
// fallen by corrections only.
func (st *simStore) apply(r *simRecords, full bool, now time.Duration) bool {
	if full {
		*st = *newSimStore()
	}
	if full || r.levelSeq > st.levelSeq {
		st.level, st.levelSeq = r.level, r.levelSeq
	}
	st.seq = max(st.seq, r.levelSeq)
	for _, c := range r.charges {
		if c.slice {
			c.due += now
		}
		st.put(c)
		st.seq = max(st.seq, c.seq)
	}
	return st.level == st.total
}

// sum returns what the level must be if each id was charged once.
func (st *simStore) sum() (total int64) {
	for _, c := range st.charges {
		total += c.cost
	}
	return total
}
