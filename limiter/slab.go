// SPDX-License-Identifier: Apache-2.0

package limiter

import "math/bits"

const chunkSize = 64

// slab allocates values of one type, identified by ids that start at 1, so that 0 can
// mean "none". Values never move: growing copies only pointers to chunks. The lowest
// free id is used first.
type slab[T any] struct {
	first     []T    // chunk 0; most partitions need no other
	firstUsed uint64 // a bit per value
	hint      uint32 // no chunk below it has room
	n         uint32 // values in use
	more      []moreValues[T]
}

type moreValues[T any] struct {
	values *[chunkSize]T // nil if all are free
	used   uint64
}

// used returns the bits of chunk c.
func (s *slab[T]) used(c uint32) *uint64 {
	if c == 0 {
		return &s.firstUsed
	}
	return &s.more[c-1].used
}

func (s *slab[T]) at(id uint32) *T {
	if id--; id < chunkSize {
		return &s.first[id]
	}
	chunk := s.more[id/chunkSize-1].values
	if chunk == nil { // saves the compiler's check, which reads the first bytes of the chunk
		return nil
	}
	return &chunk[id%chunkSize]
}

// has reports whether id is in use.
func (s *slab[T]) has(id uint32) bool {
	id--
	c := id / chunkSize
	return int(c) <= len(s.more) && *s.used(c)>>(id%chunkSize)&1 != 0
}

// alloc returns a new zero value and its id.
func (s *slab[T]) alloc() (uint32, *T) {
	for int(s.hint) <= len(s.more) && *s.used(s.hint) == ^uint64(0) {
		s.hint++
	}
	if s.hint == 0 {
		if s.first == nil {
			s.first = make([]T, chunkSize)
		}
	} else {
		if n := len(s.more); int(s.hint) > n {
			if n == cap(s.more) {
				s.more = append(make([]moreValues[T], 0, n+n/4+1), s.more...)
			}
			s.more = append(s.more, moreValues[T]{})
		}
		if chunk := &s.more[s.hint-1]; chunk.values == nil {
			chunk.values = new([chunkSize]T)
		}
	}
	used := s.used(s.hint)
	bit := bits.TrailingZeros64(^*used)
	*used |= 1 << bit
	s.n++
	id := s.hint*chunkSize + uint32(bit) + 1
	v := s.at(id)
	var zero T
	*v = zero
	return id, v
}

// allocAt takes a value that must be free.
func (s *slab[T]) allocAt(id uint32) *T {
	id--
	c := id / chunkSize
	if c == 0 {
		if s.first == nil {
			s.first = make([]T, chunkSize)
		}
	} else {
		if missing := int(c) - len(s.more); missing > 0 {
			s.more = append(s.more, make([]moreValues[T], missing)...)
		}
		if chunk := &s.more[c-1]; chunk.values == nil {
			chunk.values = new([chunkSize]T)
		}
	}
	*s.used(c) |= 1 << (id % chunkSize)
	s.n++
	v := s.at(id + 1)
	var zero T
	*v = zero
	return v
}

// free frees a value. It does not touch it, since it may not be in the cache. What it
// points to stays reachable until the value is used again.
func (s *slab[T]) free(id uint32) {
	id--
	*s.used(id / chunkSize) &^= 1 << (id % chunkSize)
	s.hint = min(s.hint, id/chunkSize)
	s.n--
}

// trim frees empty chunks from one position to another, except the first. It returns
// whether there are more. Only the sweep calls it, so that short-lived values do not
// allocate and free chunks all the time.
func (s *slab[T]) trim(from, to int) (more bool) {
	for c := max(from, 1); c < min(to, len(s.more)+1); c++ {
		if chunk := &s.more[c-1]; chunk.used == 0 {
			chunk.values = nil
		}
	}
	return to < len(s.more)+1
}

// end returns an id above all that were ever used.
func (s *slab[T]) end() uint32 { return uint32(len(s.more)+1)*chunkSize + 1 }

// next returns the next id in use after id, or 0. An iteration from 0 visits every
// value that is not freed meanwhile.
func (s *slab[T]) next(id uint32) uint32 {
	for c, bit := id/chunkSize, id%chunkSize; int(c) <= len(s.more); c, bit = c+1, 0 {
		if rest := *s.used(c) >> bit << bit; rest != 0 {
			return c*chunkSize + uint32(bits.TrailingZeros64(rest)) + 1
		}
	}
	return 0
}

// index finds slab ids by hash, with open addressing and linear probing. A cell holds
// 32 bits of the hash, so that growing and removing do not read the values.
type index struct {
	cells []uint64 // hash<<32 | id; 0 = empty; len is a power of two
	n     int
}

func (x *index) insert(h, id uint32) {
	if x.n >= len(x.cells)*3/4 {
		old := x.cells
		x.cells = make([]uint64, max(2, 2*len(old)))
		for _, v := range old {
			if v != 0 {
				x.place(v)
			}
		}
	}
	x.place(uint64(h)<<32 | uint64(id))
	x.n++
}

func (x *index) place(v uint64) {
	mask := uint32(len(x.cells) - 1)
	pos := uint32(v>>32) & mask
	for x.cells[pos] != 0 {
		pos = (pos + 1) & mask
	}
	x.cells[pos] = v
}

// remove deletes a cell and moves later ones back, so that it leaves no tombstone.
func (x *index) remove(h, id uint32) {
	mask := uint32(len(x.cells) - 1)
	pos := h & mask
	for v := uint64(h)<<32 | uint64(id); x.cells[pos] != v; {
		pos = (pos + 1) & mask
	}
	for next := (pos + 1) & mask; x.cells[next] != 0; next = (next + 1) & mask {
		home := uint32(x.cells[next]>>32) & mask
		if (next-home)&mask >= (next-pos)&mask { // may move back to pos
			x.cells[pos] = x.cells[next]
			pos = next
		}
	}
	x.cells[pos] = 0
	x.n--
}
