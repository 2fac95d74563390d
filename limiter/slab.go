// SPDX-License-Identifier: Apache-2.0

package limiter

import "math/bits"

const chunkSize = 64

// slab allocates values of one type, identified by ids that start at 1, so that 0 can
// mean "none". Values never move: growing copies only pointers to chunks. The lowest
// free id is used first.
type slab[T any] struct {
	chunks []*[chunkSize]T
	used   []uint64 // a bit per value
	hint   uint32   // no chunk below it has room
	n      uint32   // values in use
}

func (s *slab[T]) at(id uint32) *T {
	id--
	return &s.chunks[id/chunkSize][id%chunkSize]
}

// has reports whether id is in use.
func (s *slab[T]) has(id uint32) bool {
	id--
	c := int(id / chunkSize)
	return c < len(s.used) && s.used[c]>>(id%chunkSize)&1 != 0
}

// alloc returns a new zero value and its id.
func (s *slab[T]) alloc() (uint32, *T) {
	for int(s.hint) < len(s.used) && s.used[s.hint] == ^uint64(0) {
		s.hint++
	}
	c := int(s.hint)
	if c == len(s.chunks) {
		s.chunks = append(s.chunks, nil)
		s.used = append(s.used, 0)
	}
	if s.chunks[c] == nil {
		s.chunks[c] = new([chunkSize]T)
	}
	bit := bits.TrailingZeros64(^s.used[c])
	s.used[c] |= 1 << bit
	s.n++
	return uint32(c*chunkSize+bit) + 1, &s.chunks[c][bit]
}

func (s *slab[T]) free(id uint32) {
	id--
	c, bit := int(id/chunkSize), id%chunkSize
	var zero T
	s.chunks[c][bit] = zero
	s.used[c] &^= 1 << bit
	s.hint = min(s.hint, uint32(c))
	s.n--
}

// trim frees empty chunks from one position to another, except the first. It returns
// whether there are more. Only the sweep calls it, so that short-lived values do not
// allocate and free chunks all the time.
func (s *slab[T]) trim(from, to int) (more bool) {
	for c := max(from, 1); c < min(to, len(s.chunks)); c++ {
		if s.used[c] == 0 {
			s.chunks[c] = nil
		}
	}
	return to < len(s.chunks)
}

// end returns an id above all that were ever used.
func (s *slab[T]) end() uint32 { return uint32(len(s.chunks)*chunkSize) + 1 }

// next returns the next id in use after id, or 0. An iteration from 0 visits every
// value that is not freed meanwhile.
func (s *slab[T]) next(id uint32) uint32 {
	c, bit := int(id/chunkSize), id%chunkSize
	for ; c < len(s.used); c, bit = c+1, 0 {
		if rest := s.used[c] >> bit << bit; rest != 0 {
			return uint32(c*chunkSize+bits.TrailingZeros64(rest)) + 1
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
		x.cells = make([]uint64, max(8, 2*len(old)))
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
