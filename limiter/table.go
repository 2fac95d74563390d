// SPDX-License-Identifier: Apache-2.0

package limiter

// table keeps records in one array, where their hash puts them: open addressing
// with linear probing. A byte of hash per place says where a record may be, so
// that looking one up reads a few neighbouring bytes and then the one record.
type table struct {
	records []record
	tags    []uint8 // free, gone, or a byte of hash
	n       int32   // records
	deleted int32   // places that a search must pass
	depth   uint8   // bits of the directory that lead here
}

const (
	tagFree    = 0
	tagDeleted = 1
	tagFirst   = 2
)

// newTable returns a table with a quarter of room beyond n records.
func newTable(n int, depth uint8) table {
	places := n*5/4 + 8
	return table{records: make([]record, places), tags: make([]uint8, places), depth: depth}
}

// home returns where a search for a hash begins, and its tag.
func (t *table) home(h uint64) (pos int, tag uint8) {
	return int(uint64(uint32(h)) * uint64(len(t.tags)) >> 32), uint8(max(h>>56, tagFirst))
}

// hasRoom says whether another record leaves searches short.
func (t *table) hasRoom() bool {
	return int(t.n+t.deleted) < len(t.tags)-len(t.tags)/8
}

// next returns the first position in use from pos on, or -1.
func (t *table) next(pos int) int {
	for ; pos < len(t.tags); pos++ {
		if t.tags[pos] >= tagFirst {
			return pos
		}
	}
	return -1
}

// insert takes a place for a hash; there is room.
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

// remove gives a place back. Where the next one is free no search needs to pass
// it, nor those before it that are gone.
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
