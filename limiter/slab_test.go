// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// TestRecordIsTwoCacheLines keeps ten million records small.
func TestRecordIsTwoCacheLines(t *testing.T) {
	if n := unsafe.Sizeof(record{}); n != 128 {
		t.Errorf("a record has %d bytes, want 128", n)
	}
	if n := unsafe.Sizeof(shard{}); n > 128 {
		t.Errorf("a shard has %d bytes, want at most 128", n)
	}
}

// TestMemoryIsInCacheLines keeps the fields of memory in as few lines as possible.
func TestMemoryIsInCacheLines(t *testing.T) {
	const line = 64
	var m memory
	if n := unsafe.Sizeof(slab[idEntry]{}); n != line {
		t.Errorf("a slab has %d bytes, want %d", n, line)
	}
	for _, f := range []struct {
		name   string
		offset uintptr
	}{
		{"entries", unsafe.Offsetof(m.entries)},
		{"reservations", unsafe.Offsetof(m.reservations)},
		{"handles", unsafe.Offsetof(m.handles)},
		{"timelines", unsafe.Offsetof(m.timelines)},
		{"ids", unsafe.Offsetof(m.ids)},
		{"leaseHeap", unsafe.Offsetof(m.leaseHeap)},
		{"terms", unsafe.Offsetof(m.terms)},
	} {
		if f.offset%line != 0 {
			t.Errorf("%s has offset %d, want the begin of a line of %d", f.name, f.offset, line)
		}
	}
}

// TestDirectoryIsMap compares a directory with a map while it grows and splits. There are
// so few hashes that runs collide and wrap around.
func TestDirectoryIsMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d directory
		hashes, next := map[int64]uint64{}, int64(0) // record.last -> hash
		ids := map[int64]uint32{}
		hashOf := func(rec *record) uint64 { return hashes[rec.advancedAt] }
		moved := func(rec *record, id uint32) { ids[rec.advancedAt] = id }
		// Either few hashes in one table, or so many that tables split.
		spread := rapid.SampledFrom([]uint64{1 << 29, 0x9e3779b97f4a7c15}).Draw(t, "spread")
		kinds := map[uint64]uint64{1 << 29: 9, 0x9e3779b97f4a7c15: 1 << 40}[spread]
		rounds := map[uint64]int{1 << 29: 200, 0x9e3779b97f4a7c15: 6}[spread]
		for range rounds {
			adds := 1
			if spread != 1<<29 {
				adds = rapid.IntRange(1, 1500).Draw(t, "adds")
			}
			x := rapid.Uint64Range(0, kinds).Draw(t, "hash")
			for i := range adds {
				next++
				h := (x + uint64(i)) * spread
				if !d.ensureRoom(h, hashOf, moved) {
					t.Fatalf("no room for record %d", next)
				}
				id, rec := d.insert(h)
				rec.advancedAt, hashes[next], ids[next] = next, h, id
			}
			for k := range ids {
				if rapid.Bool().Draw(t, "stop") {
					break
				}
				d.remove(ids[k])
				delete(ids, k)
			}
			for id := uint32(0); rapid.Bool().Draw(t, "shrink"); { // as the sweep does
				next, found := d.next(id)
				if !found {
					d.shrink(id, hashOf, moved)
				}
				if id = next; id == 0 {
					break
				}
			}
			seen := 0
			for id := nextRecord(&d, 0); id != 0; id = nextRecord(&d, id) {
				k := d.at(id).advancedAt
				if ids[k] != id || !reachable(&d, hashes[k], id) {
					t.Fatalf("record %d has id %d, want %d that a search finds", k, id, ids[k])
				}
				seen++
			}
			if seen != len(ids) || int(d.n) != len(ids) {
				t.Fatalf("an iteration found %d of %d, want %d", seen, d.n, len(ids))
			}
		}
	})
}

// nextRecord returns the id of the next record, or 0.
func nextRecord(d *directory, id uint32) uint32 {
	for {
		next, found := d.next(id)
		if found || next == 0 {
			return next
		}
		id = next
	}
}

// reachable reports whether a search for hash h finds id.
func reachable(d *directory, h uint64, id uint32) bool {
	n, t := d.table(h)
	pos, tag := t.home(h)
	for ; t.tags[pos] != tagFree; pos = (pos + 1) % len(t.tags) {
		if recordID(n, pos) == id {
			return t.tags[pos] == tag
		}
	}
	return false
}

// TestIndexIsMap compares an index with a map. There are so few hashes that runs collide
// and wrap around.
func TestIndexIsMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x index
		model := map[uint32]uint32{} // id -> hash
		for id := uint32(1); id < 200; id++ {
			if len(model) > 0 && rapid.Bool().Draw(t, "remove") {
				for victim, h := range model {
					x.remove(h, victim)
					delete(model, victim)
					break
				}
			}
			h := rapid.Uint32Range(0, 40).Draw(t, "hash")
			x.insert(h, id)
			model[id] = h
			if x.n != len(model) {
				t.Fatalf("index has %d, want %d", x.n, len(model))
			}
			for want, h := range model {
				if !indexHas(&x, h, want) {
					t.Fatalf("id %d is not found under hash %d", want, h)
				}
			}
		}
	})
}

func indexHas(x *index, h, id uint32) bool {
	mask := uint32(len(x.cells) - 1)
	for pos := h & mask; x.cells[pos] != 0; pos = (pos + 1) & mask {
		if x.cells[pos] == uint64(h)<<32|uint64(id) {
			return true
		}
	}
	return false
}

// TestSlabReusesAndWalks checks that freed values are reused as zero values, the lowest
// id first, and that an iteration visits exactly the values in use.
func TestSlabReusesAndWalks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s slab[uint64]
		model := map[uint32]uint64{}
		for i := uint64(1); i < 400; i++ {
			if len(model) > 0 && rapid.IntRange(0, 2).Draw(t, "free") == 0 {
				for id := range model {
					s.free(id)
					delete(model, id)
					break
				}
				if rapid.IntRange(0, 9).Draw(t, "trim") == 0 {
					for from := 0; s.trim(from, from+2); from += 2 {
					}
				}
				continue
			}
			id, v := s.alloc()
			if _, taken := model[id]; taken || id == 0 || *v != 0 {
				t.Fatalf("alloc = %d with %d, want a free number with 0", id, *v)
			}
			*v, model[id] = i, i
		}
		seen := 0
		for id := s.next(0); id != 0; id = s.next(id) {
			if want, ok := model[id]; !ok || *s.at(id) != want || !s.has(id) {
				t.Fatalf("walk found %d = %d, want %d", id, *s.at(id), want)
			}
			seen++
		}
		if seen != len(model) || int(s.n) != len(model) {
			t.Fatalf("walk found %d of %d, want %d", seen, s.n, len(model))
		}
	})
}
