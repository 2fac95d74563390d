// SPDX-License-Identifier: Apache-2.0

package limiter

// directory keeps the records of a partition in tables of bounded size. It uses
// extendible hashing (Fagin, Nievergelt, Pippenger, Strong, 1979): bits of the hash
// choose a table, and a full table splits in two by the next bit. Growing therefore
// moves the records of one table only, however many keys a root has.
//
// The id of a record encodes its table and position. It starts at 1, so that 0 can
// mean "none", and changes only when ensureRoom moves the record.
type directory struct {
	first  table // table 0; most partitions need no other
	others *tables
	n      int32 // records
	epoch  uint8 // changes with every snapshot; a record that lags is not written yet

	// The state of the partition, kept here because there is room in its cache lines.
	closed  bool // it makes no decisions, see Engine.Close
	tracked bool // it lists its changes
	reading bool // a message of its changes is in progress
}

// tables are used once the first table has split.
type tables struct {
	all      []*table // by index; all[0] is nil and stands for directory.first
	prefixes []uint16 // bits of the hash -> index of the table; len is a power of two
}

const (
	tableBits  = 9 // bits of a record id that are the position in a table
	tablePlace = 1<<tableBits - 1
	maxDepth   = 14
)

// prefixOf returns the bits of a hash that choose its table. They differ from those
// that choose the position and the tag.
func prefixOf(h uint64) uint32 { return uint32(h>>32) & (1<<maxDepth - 1) }

// table returns the table of a hash and its index.
func (d *directory) table(h uint64) (index uint32, t *table) {
	if d.others == nil {
		return 0, &d.first
	}
	i := uint32(d.others.prefixes[prefixOf(h)&uint32(len(d.others.prefixes)-1)])
	return i, d.tableAt(i)
}

func (d *directory) tableAt(i uint32) *table {
	if i == 0 {
		return &d.first
	}
	return d.others.all[i]
}

// recordID returns the id of the record at position pos of a table.
func recordID(tableIndex uint32, pos int) uint32 { return tableIndex<<tableBits + uint32(pos) + 1 }

func (d *directory) at(id uint32) *record {
	return &d.tableAt((id - 1) >> tableBits).records[(id-1)&tablePlace]
}

// next returns the next id in use after id, and true. If the rest of the table of id has
// no record, it returns false and the id from which to go on, or 0 at the end. An
// iteration from 0 to 0 visits every record that is not moved meanwhile.
func (d *directory) next(id uint32) (next uint32, found bool) {
	t := id >> tableBits
	if t < d.tableCount() {
		if pos := d.tableAt(t).next(int(id & tablePlace)); pos >= 0 {
			return recordID(t, pos), true
		}
	}
	if t++; t >= d.tableCount() {
		return 0, false
	}
	return t << tableBits, false
}

func (d *directory) tableCount() uint32 {
	if d.others == nil {
		return 1
	}
	return uint32(len(d.others.all))
}

func (d *directory) insert(h uint64) (uint32, *record) {
	i, t := d.table(h)
	pos, rec := t.insert(h)
	d.n++
	return recordID(i, pos), rec
}

func (d *directory) remove(id uint32) {
	d.tableAt((id - 1) >> tableBits).remove(int(id-1) & tablePlace)
	d.n--
}

// ensureRoom makes room for a record with hash h. It calls hash for the records that
// it moves, and moved with their new ids. It returns false if too many records have
// the same prefix, which does not happen with hashes of a secret seed.
func (d *directory) ensureRoom(h uint64, hash func(*record) uint64, moved func(*record, uint32)) bool {
	for {
		tableIndex, t := d.table(h)
		if t.hasRoom() {
			return true
		}
		old, credited := *t, d.first.credited
		if grown := newTable(int(old.n), old.depth); len(grown.tags) <= tablePlace+1 {
			*t = grown
		} else if !d.split(tableIndex, t) {
			return false
		}
		d.first.credited = credited
		d.move(&old, hash, moved)
	}
}

// move inserts the records of an old table.
func (d *directory) move(old *table, hash func(*record) uint64, moved func(*record, uint32)) {
	for pos := old.next(0); pos >= 0; pos = old.next(pos + 1) {
		h := hash(&old.records[pos])
		tableIndex, t := d.table(h)
		to, rec := t.insert(h)
		*rec = old.records[pos]
		moved(rec, recordID(tableIndex, to))
	}
}

// minPlaces is the size of a table that is not worth shrinking, except to nothing.
const minPlaces = 32

// shrink gives up memory of the table of id if less than a quarter of it is in use. It
// may move the records of that table.
func (d *directory) shrink(id uint32, hash func(*record) uint64, moved func(*record, uint32)) {
	if d.n == 0 {
		*d = directory{epoch: d.epoch, closed: d.closed, tracked: d.tracked}
		return
	}
	t, credited := d.tableAt(id>>tableBits), d.first.credited
	switch old := *t; {
	case old.n == 0:
		*t = table{tags: noTags[:], depth: old.depth}
	case len(old.records) > minPlaces && int(old.n) < len(old.records)/4:
		*t = newTable(int(old.n), old.depth)
		d.move(&old, hash, moved)
	}
	d.first.credited = credited
}

// noTags are the tags of a table without records. It is never written.
var noTags = [...]uint8{tagFree}

// split empties table t and adds a second table for the hashes whose next bit is set.
func (d *directory) split(tableIndex uint32, t *table) bool {
	if t.depth == maxDepth {
		return false
	}
	if d.others == nil {
		d.others = &tables{all: make([]*table, 1), prefixes: []uint16{0}}
	}
	o := d.others
	if len(o.prefixes) == 1<<t.depth {
		o.prefixes = append(o.prefixes, o.prefixes...)
	}
	half := newTable(int(t.n)*5/8, t.depth+1) // room if the halves are uneven
	twin := newTable(int(t.n)*5/8, t.depth+1)
	bit := 1 << t.depth
	*t = half
	o.all = append(o.all, &twin)
	for i := range o.prefixes {
		if o.prefixes[i] == uint16(tableIndex) && i&bit != 0 {
			o.prefixes[i] = uint16(len(o.all) - 1)
		}
	}
	return true
}
