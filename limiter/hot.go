// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"cmp"
	"hash/maphash"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/limiter/hotkeys"
)

// maxSamples is for how many calls per second all are counted. While there are more, one of
// every 2, 4, 8... is counted for all of them. To count a call takes 10 ns, or 100 if nothing
// of its key is in the CPU's cache, and to skip one about 1 ns.
const maxSamples = 8 << 10

// sampler counts checks, reserves and hits on counters by their key, in a sketch for each
// partition, which is locked with it.
type sampler struct {
	seed   maphash.Seed
	weight atomic.Uint32 // how many calls a sample stands for
	// Of adapt, which is not called twice at once.
	adapted  int64
	_        [64]byte // the fields below are written by all calls that are counted
	counted  atomic.Int64
	sketches [Partitions]partitionHits
}

// partitionHits are those of one partition, with which they are locked. They fill a cache
// line, so that no two partitions share one.
type partitionHits struct {
	hotkeys.Sketch
	random uint64
	_      [16]byte
}

func newSampler(seed maphash.Seed) *sampler {
	s := &sampler{seed: seed}
	s.weight.Store(1)
	for i := range s.sketches {
		s.sketches[i].random = maphash.String(seed, "sample") + uint64(i)
	}
	return s
}

// HotRate is from how many checks per second on a key is hot, so that slices of its limits
// may be lent, see [Decision].Rate.
const HotRate = 1000

// sample counts a call of a partition, unless it is to be skipped, and returns the rates of its
// key if that is hot: of calls that are counted, and of those that take a slice.
func (p *partition) sample(now Time, root uint64, r *Request) (rate, askerShare int64) {
	s := p.engine.sampler
	if skip := &p.records.first.skip; *skip > 1 {
		if *skip--; r.TakesSlice {
			return s.look(now, root, r)
		}
		return 0, 0
	}
	if s == nil {
		return 0, 0
	}
	return s.hit(p, now, root, r)
}

// hit counts a call of a partition, and returns the rates of its key if that is hot. While a
// sample is counted, it chooses the next one at random, so that no pattern of the calls has a
// part in it.
func (s *sampler) hit(p *partition, now Time, root uint64, r *Request) (rate, askerShare int64) {
	weight := s.weight.Load()
	if weight > 1 {
		skip := &p.records.first.skip
		sampled := *skip == 1                                       // or it is the first call
		*skip = 1 + s.sketches[root%Partitions].next()%(2*weight-1) // weight on average
		if !sampled {
			if r.TakesSlice {
				return s.look(now, root, r)
			}
			return 0, 0
		}
	}
	s.counted.Add(int64(weight))
	h := &s.sketches[root%Partitions]
	return hotRates(h.Add(now.Mono, &hotkeys.Hit{
		Hash: s.hash(r), Key: r.Key, Tier: r.Tier, Model: r.Model, Asker: r.Asker, Weight: weight,
	}))
}

// look is hit for a call that is not counted.
func (s *sampler) look(now Time, root uint64, r *Request) (rate, askerShare int64) {
	return hotRates(s.sketches[root%Partitions].Rates(now.Mono, &hotkeys.Hit{Hash: s.hash(r), Asker: r.Asker}))
}

// hash returns that of the key of a call. A counter is not the key of the policy with its name.
func (s *sampler) hash(r *Request) uint64 {
	h := maphash.String(s.seed, r.Key)
	if r.Model == counterMark {
		h = ^h
	}
	return h
}

// hotRates returns the rate of a key and the part of the asker in thousandths, or 0 unless the
// key is hot.
func hotRates(r hotkeys.Rates) (rate, askerShare int64) {
	if r.Key < HotRate {
		return 0, 0
	}
	return r.Key, r.Asker * 1000 / r.Key
}

// next returns a random number (splitmix64).
func (h *partitionHits) next() uint32 {
	h.random += 0x9e3779b97f4a7c15
	z := h.random
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return uint32(z >> 32)
}

// adapt chooses the weight of samples by the calls of the last second.
func (s *sampler) adapt(now Time) {
	elapsed := now.Mono - s.adapted
	if elapsed < int64(time.Second) {
		return
	}
	s.adapted = now.Mono
	rate := s.counted.Swap(0) * 1000 / (elapsed / int64(time.Millisecond))
	s.weight.Store(1 << min(bits.Len64(uint64(rate/maxSamples)), bits.Len(hotkeys.MaxWeight)-1))
}

// sweep makes a partition skip no more calls than the present weight allows, after more
// calls per second, and frees the memory of its sketch if it is not used any more.
func (s *sampler) sweep(p *partition, number int, now Time) {
	p.records.first.skip = min(p.records.first.skip, 2*s.weight.Load()-1)
	s.sketches[number].Trim(now.Mono)
}

// HotKeys are the keys for which an engine decides most often.
type HotKeys struct {
	// Keys are sorted by rate, the highest first.
	Keys []hotkeys.Key
	// Rate is that of all calls, per second, with hits on counters, which are not listed.
	Rate float64
	// Weight is how many calls there are for each that is counted. The rate of a key of
	// which n calls were counted in the last two seconds has a standard error of 1/sqrt(n).
	Weight int
}

// HotKeys returns up to n keys with the most checks and reserves in open partitions, whatever
// their outcome. Calls with [Request].Force are not counted. It locks one partition at a
// time. Without [Options].HotKeys there are none.
func (e *Engine) HotKeys(now Time, n int) HotKeys {
	s := e.sampler
	if s == nil || n <= 0 {
		return HotKeys{Weight: 1}
	}
	top := HotKeys{Weight: int(s.weight.Load())}
	atLeast := 0.0
	cut := func() {
		slices.SortFunc(top.Keys, func(a, b hotkeys.Key) int { return cmp.Or(cmp.Compare(b.Rate, a.Rate), cmp.Compare(a.Key, b.Key)) })
		if len(top.Keys) >= n {
			clear(top.Keys[n:])
			top.Keys = top.Keys[:n]
			atLeast = top.Keys[n-1].Rate
		}
	}
	for i := range e.shards {
		shard := &e.shards[i]
		shard.Lock()
		if !shard.records.closed {
			top.Rate += s.sketches[i].Rate(now.Mono)
			known := len(top.Keys)
			top.Keys = s.sketches[i].Append(top.Keys, now.Mono, atLeast)
			listed := slices.DeleteFunc(top.Keys[known:], func(k hotkeys.Key) bool { return k.Model == counterMark })
			top.Keys = top.Keys[:known+len(listed)]
		}
		shard.Unlock()
		if len(top.Keys) > 4*n {
			cut()
		}
	}
	cut()
	return top
}
