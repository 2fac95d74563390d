// SPDX-License-Identifier: Apache-2.0

package limiter

import "slices"

// idIndex finds entries by a hash of their id. Like a directory of records it uses
// extendible hashing: it consists of tables of bounded size, so that growing moves the
// cells of one table only, however many ids a root has.
type idIndex struct {
	first  idTable // table 0; most partitions need no other
	others *idTables
	n      int
}

// idTables are used once the first table has split.
type idTables struct {
	all      []*idTable // by number; all[0] is nil and stands for idIndex.first
	prefixes []uint16   // low bits of the hash -> number of the table; len is a power of two
}

// idTable is a hash table with linear probing. A cell holds the whole hash, so that
// growing and removing do not read the entries.
type idTable struct {
	cells []uint64 // hash<<32 | entry; 0 = empty
	n     int32
	depth uint8 // bits of the hash that choose this table
}

const (
	maxIDCells = 512 // of a table
	maxIDDepth = 16
)

// home returns the position where the search for a hash begins in a table of so many cells.
// It depends on the high bits of the hash.
func home(h uint32, cells int) int { return int(uint64(h) * uint64(cells) >> 32) }

// find returns the position of the first cell with a hash from pos on, or -1.
func (t *idTable) find(h uint32, pos int) int {
	for cells := t.cells; len(cells) > 0; pos++ {
		if pos == len(cells) {
			pos = 0
		}
		switch cell := cells[pos]; {
		case cell == 0:
			return -1
		case uint32(cell>>32) == h:
			return pos
		}
	}
	return -1
}

// place stores a cell. The table must have an empty one.
func (t *idTable) place(cell uint64) {
	cells := t.cells
	pos := home(uint32(cell>>32), len(cells))
	for cells[pos] != 0 {
		if pos++; pos == len(cells) {
			pos = 0
		}
	}
	cells[pos] = cell
	t.n++
}

// table returns the table of a hash.
func (x *idIndex) table(h uint32) *idTable {
	if x.others == nil {
		return &x.first
	}
	return x.at(x.others.prefixes[h&uint32(len(x.others.prefixes)-1)])
}

func (x *idIndex) at(number uint16) *idTable {
	if number == 0 {
		return &x.first
	}
	return x.others.all[number]
}

// insert adds a cell for a hash. At most 5 of 6 cells of a table are used.
func (x *idIndex) insert(h, entryID uint32) {
	t := x.table(h)
	for int(t.n) >= len(t.cells)*5/6 {
		if len(t.cells) < maxIDCells || !x.split(h, t) {
			t.grow()
		}
		t = x.table(h)
	}
	t.place(uint64(h)<<32 | uint64(entryID))
	x.n++
}

// newCells returns at least n empty cells, as many as the memory has room for that the
// allocator gives for n.
func newCells(n int) []uint64 {
	cells := slices.Grow([]uint64(nil), n)
	return cells[:cap(cells)]
}

// grow makes a small table a quarter larger, for short searches, and a large one an eighth,
// or as much as the allocator rounds that up to.
func (t *idTable) grow() {
	old, step := t.cells, len(t.cells)/4
	if len(old) > maxIDCells/2 {
		step = len(old) / 8
	}
	t.cells, t.n = newCells(len(old)+step+4), 0
	for _, cell := range old {
		if cell != 0 {
			t.place(cell)
		}
	}
}

// split divides table t, that of hash h, by the next bit. It returns false if no bit is
// left, which takes millions of ids.
func (x *idIndex) split(h uint32, t *idTable) bool {
	if t.depth == maxIDDepth {
		return false
	}
	if x.others == nil {
		x.others = &idTables{all: make([]*idTable, 1), prefixes: []uint16{0}}
	}
	o := x.others
	number := o.prefixes[h&uint32(len(o.prefixes)-1)]
	if len(o.prefixes) == 1<<t.depth {
		o.prefixes = append(o.prefixes, o.prefixes...)
	}
	old, bit := t.cells, uint32(1)<<t.depth
	cells := int(t.n) * 21 / 32 // room if the halves are uneven
	*t = idTable{cells: newCells(cells), depth: t.depth + 1}
	twin := &idTable{cells: newCells(cells), depth: t.depth} // already one deeper
	o.all = append(o.all, twin)
	for i := range o.prefixes {
		if o.prefixes[i] == number && uint32(i)&bit != 0 {
			o.prefixes[i] = uint16(len(o.all) - 1)
		}
	}
	for _, cell := range old {
		if cell == 0 {
			continue
		}
		half := t
		if uint32(cell>>32)&bit != 0 {
			half = twin
		}
		if int(half.n) >= len(half.cells)*5/6 {
			half.grow()
		}
		half.place(cell)
	}
	return true
}

// remove deletes a cell and moves later ones back, so that it leaves no gap.
func (x *idIndex) remove(h, entryID uint32) {
	t := x.table(h)
	cells := t.cells
	pos := home(h, len(cells))
	for cell := uint64(h)<<32 | uint64(entryID); cells[pos] != cell; {
		if pos++; pos == len(cells) {
			pos = 0
		}
	}
	steps := 0 // from pos to next
	for next := pos; ; {
		steps++
		if next++; next == len(cells) {
			next = 0
		}
		cell := cells[next]
		if cell == 0 {
			break
		}
		fromHome := next - home(uint32(cell>>32), len(cells))
		if fromHome < 0 {
			fromHome += len(cells)
		}
		if fromHome >= steps { // a search for it passes pos
			cells[pos] = cell
			pos, steps = next, 0
		}
	}
	cells[pos] = 0
	t.n--
	x.n--
}

// trim frees the tables of an index without cells.
func (x *idIndex) trim() {
	if x.n == 0 {
		*x = idIndex{}
	}
}
