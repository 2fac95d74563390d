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

// TestDirectoryIsMap inserts, removes, grows and splits, with hashes so few that
// runs wrap around and collide, and compares with a map.
func TestDirectoryIsMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d directory
		hashes, next := map[int64]uint64{}, int64(0) // record.last -> hash
		numbers := map[int64]uint32{}
		hashOf := func(rec *record) uint64 { return hashes[rec.last] }
		moved := func(rec *record, no uint32) { numbers[rec.last] = no }
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
				if !d.reserve(h, hashOf, moved) {
					t.Fatalf("no room for record %d", next)
				}
				no, rec := d.insert(h)
				rec.last, hashes[next], numbers[next] = next, h, no
			}
			for k := range numbers {
				if rapid.Bool().Draw(t, "stop") {
					break
				}
				d.remove(numbers[k])
				delete(numbers, k)
			}
			seen := 0
			for no := d.next(0); no != 0; no = d.next(no) {
				k := d.at(no).last
				if numbers[k] != no || !reachable(&d, hashes[k], no) {
					t.Fatalf("record %d is at %d, want %d, or no search finds it", k, no, numbers[k])
				}
				seen++
			}
			if seen != len(numbers) || int(d.n) != len(numbers) {
				t.Fatalf("a walk found %d of %d, want %d", seen, d.n, len(numbers))
			}
		}
	})
}

// reachable says whether a search for hash h passes number no.
func reachable(d *directory, h uint64, no uint32) bool {
	n, t := d.table(h)
	pos, tag := t.home(h)
	for ; t.tags[pos] != tagFree; pos = (pos + 1) % len(t.tags) {
		if number(n, pos) == no {
			return t.tags[pos] == tag
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
