// SPDX-License-Identifier: Apache-2.0

package continuity

// simStore is the state of a partition: one key, its level, and the ids that were
// charged. Each record has the number of its last change.
type simStore struct {
	seq      uint64
	level    int64
	levelSeq uint64
	charges  []simCharge
	index    map[uint64]int
	total    int64 // of the charges
}

type simCharge struct {
	id      uint64
	cost    int64
	seq     uint64
	settled bool // cost is what the call came to
}

// simRecords are records on their way.
type simRecords struct {
	level    int64
	levelSeq uint64
	charges  []simCharge
}

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
	if i, ok := st.index[c.id]; ok {
		if st.charges[i].seq < c.seq {
			st.total += c.cost - st.charges[i].cost
			st.charges[i] = c
		}
		return
	}
	st.total += c.cost
	st.index[c.id] = len(st.charges)
	st.charges = append(st.charges, c)
}

// since returns the records that changed after a number.
func (st *simStore) since(after uint64, full bool) *simRecords {
	r := &simRecords{level: st.level, levelSeq: st.levelSeq}
	for _, c := range st.charges {
		if full || c.seq > after {
			r.charges = append(r.charges, c)
		}
	}
	return r
}

// apply stores records, and reports whether the level is that of the charges: it has
// fallen by corrections only.
func (st *simStore) apply(r *simRecords, full bool) bool {
	if full {
		*st = *newSimStore()
	}
	if full || r.levelSeq > st.levelSeq {
		st.level, st.levelSeq = r.level, r.levelSeq
	}
	st.seq = max(st.seq, r.levelSeq)
	for _, c := range r.charges {
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
