// SPDX-License-Identifier: Apache-2.0

package hotkeys

import (
	"math/bits"
	"time"
)

const (
	// unit is what a hit adds to a count. More than 1 makes room for halves.
	unit = 16
	// ways is how many keys a set has.
	ways    = 8
	maxSets = 64
	// ratePerSet is the rate of hits for which a sketch has a set.
	ratePerSet = 200
	// totalUnit is what the total has for each unit of a count, so that many sketches with few
	// hits add up.
	totalUnit = 1 << 12
	// maxTotal bounds all counts. Hits above it, 67 million per second, are not counted.
	maxTotal = totalUnit << 31
	// MaxWeight is the most hits that can be counted as one.
	MaxWeight = 1 << 12
	// namedAfter is how many hits a key must have had to be named, if it took the place of
	// another. So a flood of new keys does not copy their names.
	namedAfter = 4 * unit
	maxAskers  = 8
	period     = int64(time.Second)
)

// Sketch counts hits. The zero value is an empty sketch. It is not safe for concurrent use.
// It takes 40 bytes until the first hit.
type Sketch struct {
	sets  []set // a power of two of them
	epoch int64 // number of the second of the counts
	total uint64
}

// set counts the keys with some bits of the hash in common. A count of 0 is a free place.
type set struct {
	hashes [ways]uint64
	counts [ways]uint32
	errors [ways]uint32 // the most by which the count is too high
	floor  uint32       // a key without a place had at most that, or the lowest count
	named  uint8        // a bit for each key whose details are of this second
	known  uint8        // a bit for each key that has a name
	detail [ways]*detail
}

// detail is what is not read for each new key.
type detail struct {
	askers           [maxAskers]uint32
	counts           [maxAskers]uint32
	key, tier, model []byte
}

// Hit is one hit of a key, or a sample of many.
type Hit struct {
	// Hash is that of Key, the same each time and not known to those who choose keys.
	Hash             uint64
	Key, Tier, Model string
	Asker            uint32 // who asks
	Weight           uint32 // how many hits it stands for, from 1 to MaxWeight
}

// Add counts a hit at time now, in nanoseconds of a monotonic clock, and returns the rates
// of its key, that hit included. It keeps no reference to the texts. It allocates memory
// only for a place that is used for the first time, and while a sketch grows.
func (s *Sketch) Add(now int64, h *Hit) Rates {
	if epoch := now / period; epoch > s.epoch || len(s.sets) == 0 {
		s.advance(epoch)
	}
	if s.total >= maxTotal {
		return s.Rates(now, h)
	}
	n := h.Weight * unit
	s.total += uint64(n) * totalUnit
	b := &s.sets[h.Hash&uint64(len(s.sets)-1)]
	i := b.find(h.Hash)
	if i >= 0 {
		b.counts[i] += n
	} else {
		i = b.replace(h.Hash, n)
	}
	if b.named>>i&1 == 0 {
		b.name(i, h)
	}
	if b.known>>i&1 != 0 {
		b.detail[i].ask(h.Asker, n)
	}
	return b.rates(i, now, h.Asker)
}

// find returns the place of a key, or -1.
func (b *set) find(hash uint64) int {
	for i := range b.hashes {
		if b.hashes[i] == hash && b.counts[i] > 0 {
			return i
		}
	}
	return -1
}

// replace gives a new key with n hits a free place, or that of the key with the lowest
// count, and returns it.
func (b *set) replace(hash uint64, n uint32) int {
	least := 0
	for i, n := range b.counts {
		if n < b.counts[least] {
			least = i
		}
	}
	missed := max(b.counts[least], b.floor)
	b.hashes[least], b.counts[least], b.errors[least] = hash, missed+n, missed
	b.named &^= 1 << least
	b.known &^= 1 << least
	return least
}

// name copies the texts of a key that is worth it, once per second.
func (b *set) name(i int, h *Hit) {
	if b.errors[i] > 0 && b.counts[i]-b.errors[i] < namedAfter {
		return
	}
	d := b.detail[i]
	if d == nil {
		d = new(detail)
		b.detail[i] = d
	}
	if b.known>>i&1 == 0 {
		d.askers, d.counts = [maxAskers]uint32{}, [maxAskers]uint32{}
		d.key = append(d.key[:0], h.Key...)
	}
	d.tier, d.model = append(d.tier[:0], h.Tier...), append(d.model[:0], h.Model...)
	b.named |= 1 << i
	b.known |= 1 << i
}

// ask counts hits of an asker. It is a SpaceSaving summary, too.
func (d *detail) ask(asker, n uint32) {
	least := 0
	for i := range d.askers {
		if d.askers[i] == asker && d.counts[i] > 0 {
			d.counts[i] += n
			return
		}
		if d.counts[i] < d.counts[least] {
			least = i
		}
	}
	d.askers[least] = asker
	d.counts[least] += n
}

// advance halves all counts for each second that has passed, and adapts the number of sets.
func (s *Sketch) advance(epoch int64) {
	if len(s.sets) == 0 {
		s.sets, s.epoch = make([]set, 1), epoch
		return
	}
	steps := uint(min(epoch-s.epoch, 32))
	s.epoch = epoch
	s.total >>= steps
	if steps == 32 { // nothing is left
		s.sets = make([]set, 1)
		return
	}
	for i := range s.sets {
		s.sets[i].halve(steps)
	}
	if n := wantedSets(s.total); n > len(s.sets) {
		s.grow(n)
	}
}

// Trim frees all memory of a sketch if there was no hit for 32 seconds, since then nothing
// is left of its counts.
func (s *Sketch) Trim(now int64) {
	if len(s.sets) > 0 && now/period-s.epoch >= 32 {
		*s = Sketch{}
	}
}

// wantedSets returns how many sets a sketch is to have for a total at the beginning of a
// second, which is that of the hits of one second if their rate is constant.
func wantedSets(total uint64) int {
	n := total / (totalUnit * unit * ratePerSet)
	return 1 << min(bits.Len64(n), bits.Len(maxSets)-1)
}

// halve divides all counts by 2 to the power of steps. Errors are rounded up.
func (b *set) halve(steps uint) {
	up := uint64(1)<<steps - 1
	for i := range b.counts {
		b.counts[i] >>= steps
		b.errors[i] = min(uint32((uint64(b.errors[i])+up)>>steps), b.counts[i])
		if b.counts[i] == 0 {
			b.known &^= 1 << i
		}
		if b.known>>i&1 != 0 {
			d := b.detail[i]
			for j := range d.counts {
				d.counts[j] >>= steps
			}
		}
	}
	b.floor = uint32((uint64(b.floor) + up) >> steps)
	if b.floor == 1 { // it would stay 1 for ever
		b.floor = 0
	}
	b.named = 0
}

// grow divides each set into several, by more bits of the hash. Keys that had no place
// keep their bound, which is the floor of the new sets.
func (s *Sketch) grow(n int) {
	sets := make([]set, n)
	for i := range sets {
		from := &s.sets[i&(len(s.sets)-1)]
		to := &sets[i]
		to.floor = from.missed()
		next := 0
		for j, hash := range from.hashes {
			if from.counts[j] == 0 || hash&uint64(n-1) != uint64(i) {
				continue
			}
			to.hashes[next], to.counts[next], to.errors[next], to.detail[next] = hash, from.counts[j], from.errors[j], from.detail[j]
			to.known |= from.known >> j & 1 << next
			next++
		}
	}
	s.sets = sets
}

// missed is the most that a key without a place has.
func (b *set) missed() uint32 {
	least := b.counts[0]
	for _, n := range b.counts {
		least = min(least, n)
	}
	return max(least, b.floor)
}
