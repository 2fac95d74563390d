// SPDX-License-Identifier: Apache-2.0

package limiter

// table is a hash table of records with open addressing and linear probing. A byte of
// each record's hash, its tag, is kept beside the records, so that a look-up reads a
// few neighbouring tags and then one record.
type table struct {
	records []record
	tags    []uint8 // free, deleted, or a byte of the hash
	n       int32   // records
	deleted int32   // positions with tagDeleted
	depth   uint8   // bits of the prefix that choose this table

	// credited is a state of the partition: there are records of credits, see
	// memory.credits. It is kept in the first table, as is skip.
	credited bool
	// skip is a state of the partition: in how many calls the next one is counted for hot
	// keys. It is kept in the first table because there is room in its cache lines.
	skip uint32
}

const (
	tagFree    = 0
	tagDeleted = 1
	tagFirst   = 2
)

// newTable returns a table with room for a quarter more than n records.
func newTable(n int, depth uint8) table {
	places := n*5/4 + 8
	return table{records: make([]record, places), tags: make([]uint8, places), depth: depth}
}

// home returns the position where the search for a hash begins, and its tag.
func (t *table) home(h uint64) (pos int, tag uint8) {
	return int(uint64(uint32(h)) * uint64(len(t.tags)) >> 32), uint8(max(h>>56, tagFirst))
}

// hasRoom reports whether a record can be added with searches still short.
func (t *table) hasRoom() bool {
	return int(t.n+t.deleted) < len(t.records)-len(t.records)/8
}

// next returns the first used position from pos on, or -1.
func (t *table) next(pos int) int {
	for ; pos < len(t.tags); pos++ {
		if t.tags[pos] >= tagFirst {
			return pos
		}
	}
	return -1
}

// insert uses a position for a hash. The table must have room.
func (t *table) insert(h uint64) (int, *record) {
	pos, tag := t.home(h)
	for t.tags[pos] >= tagFirst {
		if pos++; pos == len(t.tags) {
			pos = 0
		}
	}
	if t.tags[pos] == tagDeleted {
		t.deleted--
	}
	t.tags[pos] = tag
	t.n++
	return pos, &t.records[pos]
}

// remove frees a position. If the next position is free, searches need not pass this
// one or the deleted ones before it, so all of them become free.
func (t *table) remove(pos int) {
	t.records[pos] = record{}
	t.tags[pos] = tagDeleted
	t.n--
	t.deleted++
	if t.tags[(pos+1)%len(t.tags)] != tagFree {
		return
	}
	for t.tags[pos] == tagDeleted {
		t.tags[pos] = tagFree
		t.deleted--
		if pos--; pos < 0 {
			pos = len(t.tags) - 1
		}
	}
}
