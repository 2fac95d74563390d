// SPDX-License-Identifier: Apache-2.0

package limiter

// table keeps the records of a partition in one array, where their hash puts
// them: open addressing with linear probing. A byte of hash per place says
// where a record may be, so that looking one up reads a few neighbouring bytes
// and then the one record. Growing moves records, and so changes their numbers;
// nothing else does. Numbers start at 1, so that 0 can mean "none".
type table struct {
	records []record
	tags    []uint8 // free, gone, or a byte of hash
	n       int32   // records
	gone    int32   // places that a search must pass
}

const (
	tagFree  = 0
	tagGone  = 1
	tagFirst = 2
)

// place returns the home of a hash, and its tag.
func (t *table) place(h uint64) (home int, tag uint8) {
	return int(uint64(uint32(h)) * uint64(len(t.tags)) >> 32), uint8(max(h>>56, tagFirst))
}

func (t *table) at(no uint32) *record { return &t.records[no-1] }

func (t *table) has(no uint32) bool { return int(no) <= len(t.tags) && t.tags[no-1] >= tagFirst }

// next returns the first number in use after no, or 0. A walk from 0 visits
// every record that stays.
func (t *table) next(no uint32) uint32 {
	for ; int(no) < len(t.tags); no++ {
		if t.tags[no] >= tagFirst {
			return no + 1
		}
	}
	return 0
}

// fits says whether n more records fit at a load that keeps searches short.
func (t *table) fits(n int) bool {
	return int(t.n+t.gone)+n <= len(t.tags)-len(t.tags)/8
}

// reserve makes room for n more records. If that moves records it tells where
// each went: to number moved[no].
func (t *table) reserve(n int, hash func(*record) uint64) (moved []uint32) {
	if t.fits(n) {
		return nil
	}
	old := *t
	capacity := (int(t.n)+n)*5/4 + 8
	*t = table{records: make([]record, capacity), tags: make([]uint8, capacity)}
	moved = make([]uint32, len(old.tags)+1)
	for no := old.next(0); no != 0; no = old.next(no) {
		to, rec := t.insert(hash(old.at(no)))
		*rec = *old.at(no)
		moved[no] = to
	}
	return moved
}

// insert takes a place for a hash; there is room.
func (t *table) insert(h uint64) (uint32, *record) {
	pos, tag := t.place(h)
	for t.tags[pos] >= tagFirst {
		if pos++; pos == len(t.tags) {
			pos = 0
		}
	}
	if t.tags[pos] == tagGone {
		t.gone--
	}
	t.tags[pos] = tag
	t.n++
	return uint32(pos) + 1, &t.records[pos]
}

// remove gives a place back. Where the next one is free no search needs to pass
// it, nor those before it that are gone.
func (t *table) remove(no uint32) {
	pos := int(no) - 1
	t.records[pos] = record{}
	t.tags[pos] = tagGone
	t.n--
	t.gone++
	if t.tags[(pos+1)%len(t.tags)] != tagFree {
		return
	}
	for t.tags[pos] == tagGone {
		t.tags[pos] = tagFree
		t.gone--
		if pos--; pos < 0 {
			pos = len(t.tags) - 1
		}
	}
}
