// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// TestRecordIsTwoCacheLines: ten million of them are why.
func TestRecordIsTwoCacheLines(t *testing.T) {
	if n := unsafe.Sizeof(record{}); n != 128 {
		t.Errorf("a record has %d bytes, want 128", n)
	}
	if n := unsafe.Sizeof(cell{}); n > 128 {
		t.Errorf("a cell has %d bytes, want at most 128", n)
	}
}

// TestTableIsMap inserts, removes and grows, with hashes so few that runs wrap
// around and collide, and compares with a map.
func TestTableIsMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x table
		hashOf := func(rec *record) uint64 { return uint64(rec.schema) }
		model := map[int64]uint32{} // last -> number
		for i := int64(1); i < 200; i++ {
			if len(model) > 0 && rapid.Bool().Draw(t, "remove") {
				for k, no := range model {
					x.remove(no)
					delete(model, k)
					break
				}
			}
			h := rapid.Uint64Range(0, 9).Draw(t, "hash") << 29
			if moved := x.reserve(1, hashOf); moved != nil {
				for k, no := range model {
					model[k] = moved[no]
				}
			}
			no, rec := x.insert(h)
			rec.schema, rec.last = uint32(h), i
			model[i] = no
			free := 0
			for _, tag := range x.tags {
				if tag == tagFree {
					free++
				}
			}
			if int(x.n) != len(model) || free == 0 || int(x.n+x.gone)+free != len(x.tags) {
				t.Fatalf("%d records, %d gone, %d free of %d, want %d records", x.n, x.gone, free, len(x.tags), len(model))
			}
			for want, no := range model {
				if !x.has(no) || x.at(no).last != want || !reachable(&x, uint64(x.at(no).schema), no) {
					t.Fatalf("record %d is not at %d, or no search finds it", want, no)
				}
			}
		}
	})
}

// reachable says whether a search for hash h passes number no.
func reachable(x *table, h uint64, no uint32) bool {
	pos, tag := x.place(h)
	for ; x.tags[pos] != tagFree; pos = (pos + 1) % len(x.tags) {
		if uint32(pos)+1 == no {
			return x.tags[pos] == tag
		}
	}
	return false
}

// TestIndexIsMap inserts and removes numbers under few hashes, so that runs
// wrap around and collide, and compares with a map.
func TestIndexIsMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x index
		model := map[uint32]uint32{} // number -> hash
		for no := uint32(1); no < 200; no++ {
			if len(model) > 0 && rapid.Bool().Draw(t, "remove") {
				for victim, h := range model {
					x.remove(h, victim)
					delete(model, victim)
					break
				}
			}
			h := rapid.Uint32Range(0, 40).Draw(t, "hash")
			x.insert(h, no)
			model[no] = h
			if x.n != len(model) {
				t.Fatalf("index has %d, want %d", x.n, len(model))
			}
			for want, h := range model {
				if !indexHas(&x, h, want) {
					t.Fatalf("number %d is not found under hash %d", want, h)
				}
			}
		}
	})
}

func indexHas(x *index, h, no uint32) bool {
	mask := uint32(len(x.cells) - 1)
	for pos := h & mask; x.cells[pos] != 0; pos = (pos + 1) & mask {
		if x.cells[pos] == uint64(h)<<32|uint64(no) {
			return true
		}
	}
	return false
}

// TestSlabReusesAndWalks: numbers in use stay, freed ones come back lowest
// first and zero, and a walk sees exactly those in use.
func TestSlabReusesAndWalks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s slab[uint64]
		model := map[uint32]uint64{}
		for i := uint64(1); i < 400; i++ {
			if len(model) > 0 && rapid.IntRange(0, 2).Draw(t, "free") == 0 {
				for no := range model {
					s.free(no)
					delete(model, no)
					break
				}
				if rapid.IntRange(0, 9).Draw(t, "trim") == 0 {
					s.trim()
				}
				continue
			}
			no, v := s.alloc()
			if _, taken := model[no]; taken || no == 0 || *v != 0 {
				t.Fatalf("alloc = %d with %d, want a free number with 0", no, *v)
			}
			*v, model[no] = i, i
		}
		seen := 0
		for no := s.next(0); no != 0; no = s.next(no) {
			if want, ok := model[no]; !ok || *s.at(no) != want || !s.has(no) {
				t.Fatalf("walk found %d = %d, want %d", no, *s.at(no), want)
			}
			seen++
		}
		if seen != len(model) || int(s.n) != len(model) {
			t.Fatalf("walk found %d of %d, want %d", seen, s.n, len(model))
		}
	})
}
