// SPDX-License-Identifier: Apache-2.0

package limiter

// sharedRates are the prices and weights of reservations. All reservations of a
// partition that were made for the same model share them.
type sharedRates struct {
	all   []countedRates // by id-1
	last  uint32         // the ones used last, or 0
	index index
	free  []uint32
}

type countedRates struct {
	Rates
	uses uint32
}

func (r *Rates) hash() uint32 {
	h := uint64(boolInt(r.Priced))
	for _, n := range r.numbers() {
		h = mix(h, uint64(*n))
	}
	return uint32(h)
}

func (s *sharedRates) at(id uint32) *Rates { return &s.all[id-1].Rates }

// share returns the id of rates equal to r and counts one more use of them.
func (s *sharedRates) share(r *Rates) uint32 {
	if s.last == 0 || s.all[s.last-1].Rates != *r {
		s.last = s.find(r)
	}
	s.all[s.last-1].uses++
	return s.last
}

func (s *sharedRates) find(r *Rates) uint32 {
	h := r.hash()
	if s.index.n > 0 {
		mask := uint32(len(s.index.cells) - 1)
		for pos := h & mask; s.index.cells[pos] != 0; pos = (pos + 1) & mask {
			if id := uint32(s.index.cells[pos]); s.all[id-1].Rates == *r {
				return id
			}
		}
	}
	var id uint32
	if n := len(s.free); n > 0 {
		id, s.free = s.free[n-1], s.free[:n-1]
	} else {
		s.all = append(s.all, countedRates{})
		id = uint32(len(s.all))
	}
	s.all[id-1] = countedRates{Rates: *r}
	s.index.insert(h, id)
	return id
}

// release counts one use less.
func (s *sharedRates) release(id uint32) {
	c := &s.all[id-1]
	if c.uses--; c.uses > 0 {
		return
	}
	s.index.remove(c.hash(), id)
	s.free = append(s.free, id)
	if s.last == id {
		s.last = 0
	}
}
