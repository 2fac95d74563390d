// SPDX-License-Identifier: Apache-2.0

package hotkeys

// Key is a key and its rates, in hits per second.
type Key struct {
	Key         string
	Tier, Model string // of a recent hit
	Rate        float64
	Error       float64 // the rate is at most that much higher
	// Askers are at most 8, in no order. If there are more than 8, a rate may be too high
	// by at most 1/8 of the key's.
	Askers []Asker
}

// Asker is who hits a key.
type Asker struct {
	ID   uint32
	Rate float64
}

// Rate returns the rate of all hits, at time now. It is too low in the first seconds after
// the first hit.
func (s *Sketch) Rate(now int64) float64 {
	s.until(now)
	return float64(s.total) / totalUnit * perSecond(now)
}

// Rates are those of a key and of one of its askers, in whole hits per second. They are too
// low in the first seconds after the first hit, and never too high by more than those of a
// [Key].
type Rates struct{ Key, Asker int64 }

// Rates returns the rates of the key and the asker of h at time now, without counting a hit.
func (s *Sketch) Rates(now int64, h *Hit) Rates {
	s.until(now)
	if len(s.sets) == 0 {
		return Rates{}
	}
	b := &s.sets[h.Hash&uint64(len(s.sets)-1)]
	if i := b.find(h.Hash); i >= 0 {
		return b.rates(i, now, h.Asker)
	}
	return Rates{}
}

// rates returns the rates of a key of the set.
func (b *set) rates(i int, now int64, asker uint32) (r Rates) {
	scale := func(n uint32) int64 { // as perSecond, but a count is at most 2^31
		return int64(n) * (period / unit) / (period + now%period)
	}
	r.Key = scale(b.counts[i] - b.errors[i])
	if b.known>>i&1 == 0 {
		return r
	}
	d := b.detail[i]
	for j, id := range d.askers {
		if id == asker && d.counts[j] > 0 {
			r.Asker = min(scale(d.counts[j]), r.Key)
		}
	}
	return r
}

// Missing returns the highest rate that a key which Append does not list may have.
func (s *Sketch) Missing(now int64) float64 {
	s.until(now)
	missed := uint32(0)
	for i := range s.sets {
		b := &s.sets[i]
		missed = max(missed, b.missed())
		for j, n := range b.counts {
			if b.known>>j&1 == 0 {
				missed = max(missed, n)
			}
		}
	}
	return float64(missed) * perSecond(now)
}

// Append appends the keys with at least a rate, and returns the extended list. The keys
// have memory of their own.
func (s *Sketch) Append(list []Key, now int64, atLeast float64) []Key {
	s.until(now)
	factor := perSecond(now)
	for i := range s.sets {
		b := &s.sets[i]
		for j, n := range b.counts {
			rate := float64(n-b.errors[j]) * factor
			if b.known>>j&1 == 0 || n == 0 || rate < atLeast {
				continue
			}
			d := b.detail[j]
			key := Key{Key: string(d.key), Tier: string(d.tier), Model: string(d.model), Rate: rate, Error: float64(b.errors[j]) * factor}
			for k, n := range d.counts {
				if n > 0 {
					key.Askers = append(key.Askers, Asker{d.askers[k], float64(n) * factor})
				}
			}
			list = append(list, key)
		}
	}
	return list
}

// until lets the counts decay until now.
func (s *Sketch) until(now int64) {
	if epoch := now / period; epoch > s.epoch && len(s.sets) > 0 {
		s.advance(epoch)
	}
}

// perSecond is what a count is multiplied with to be a rate. At a constant rate, a count is
// that of one second at the beginning of a second, and of two seconds at its end.
func perSecond(now int64) float64 {
	return 1 / (unit * (1 + float64(now%period)/float64(period)))
}
