// SPDX-License-Identifier: Apache-2.0

package limiter

import "github.com/cespare/xxhash/v2"

// terms are what a policy says about a reservation, and what stays the same for it when
// the policy changes.
type terms struct {
	Rates
	basis
	tier    string
	version uint64 // of the policy
}

// sharedTerms are the terms of the reservations of a partition. Those that were made under
// the same policy for the same tier and model share them.
type sharedTerms struct {
	all   []countedTerms // by id-1
	last  uint32         // the ones used last, or 0
	index index
	free  []uint32
}

type countedTerms struct {
	terms
	uses uint32
}

func (t *terms) hash() uint32 {
	h := mix(xxhash.Sum64String(t.tier), t.version^uint64(boolInt(t.Priced)))
	for _, n := range t.numbers() {
		h = mix(h, uint64(*n))
	}
	for _, n := range t.extraNumbers() {
		h = mix(h, uint64(*n))
	}
	h = mixString(mixString(h, t.ServiceTiers.table), t.Name)
	return uint32(h)
}

// numbers lists the prices and weights that every model has.
func (r *Rates) numbers() [6]*int64 {
	return [...]*int64{&r.InputPrice, &r.CachedInputPrice, &r.OutputPrice, &r.Weights.Input, &r.Weights.CachedInput, &r.Weights.Output}
}

// extraNumbers lists the other numbers of the terms.
func (t *terms) extraNumbers() [7]*int64 {
	return [...]*int64{&t.CacheWritePrice, &t.CacheWrite1hPrice, &t.RequestFee, &t.ImageFee, &t.SearchFee, &t.requests, &t.factor}
}

// setUsualExtras sets what terms have unless their policy or their reserve says otherwise.
func (t *terms) setUsualExtras() {
	t.CacheWritePrice, t.CacheWrite1hPrice = t.InputPrice, t.InputPrice
	t.RequestFee, t.ImageFee, t.SearchFee, t.ServiceTiers = 0, 0, 0, ServiceTiers{}
	t.basis = usualBasis
}

// hasUsualExtras reports whether setUsualExtras would change nothing.
func (t *terms) hasUsualExtras() bool {
	usual := *t
	usual.setUsualExtras()
	return *t == usual
}

// usualBasis is that of one request at the normal price.
var usualBasis = basis{requests: 1, factor: normalFactor}

func (s *sharedTerms) at(id uint32) *terms { return &s.all[id-1].terms }

// share returns the id of terms and counts one more use of them.
func (s *sharedTerms) share(rates *Rates, b basis, tier string, version uint64) uint32 {
	if rates.RequestFee == 0 {
		b.requests = usualBasis.requests // any number is as good, and the same one is shared
	}
	if s.last == 0 || !s.at(s.last).equal(rates, b, tier, version) {
		s.last = s.find(terms{*rates, b, tier, version})
	}
	s.all[s.last-1].uses++
	return s.last
}

func (t *terms) equal(rates *Rates, b basis, tier string, version uint64) bool {
	return t.version == version && t.basis == b && t.tier == tier && t.Rates == *rates
}

func (s *sharedTerms) find(t terms) uint32 {
	h := t.hash()
	if s.index.n > 0 {
		mask := uint32(len(s.index.cells) - 1)
		for pos := h & mask; s.index.cells[pos] != 0; pos = (pos + 1) & mask {
			if id := uint32(s.index.cells[pos]); *s.at(id) == t {
				return id
			}
		}
	}
	var id uint32
	if n := len(s.free); n > 0 {
		id, s.free = s.free[n-1], s.free[:n-1]
	} else {
		s.all = append(s.all, countedTerms{})
		id = uint32(len(s.all))
	}
	s.all[id-1] = countedTerms{terms: t}
	s.index.insert(h, id)
	return id
}

// release counts one use less.
func (s *sharedTerms) release(id uint32) {
	c := &s.all[id-1]
	if c.uses--; c.uses > 0 {
		return
	}
	s.index.remove(c.hash(), id)
	c.tier, c.Name = "", ""
	s.free = append(s.free, id)
	if s.last == id {
		s.last = 0
	}
}
