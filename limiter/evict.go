// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"bytes"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// EvictionReason says why a record was evicted to make room for another.
type EvictionReason int

// The reasons for evictions. The first is preferred.
const (
	EvictLossless EvictionReason = iota // it had no usage
	EvictSmallest                       // it had the smallest share used among the records examined
	evictionReasons
)

// String returns the label value used in metrics.
func (r EvictionReason) String() string { return [...]string{"lossless", "smallest_use"}[r] }

// quota enforces a bound that all partitions share. Each partition acquires several
// units at once, so that they rarely contend.
type quota struct {
	left  atomic.Int64
	chunk int64
}

func newQuota(limit int) *quota {
	q := &quota{chunk: int64(min(max(limit/(8*Partitions), 1), 16))}
	q.left.Store(int64(limit))
	return q
}

// acquire takes one unit of the partition's local ones, after getting more if it has
// none. It returns false if none is left.
func (q *quota) acquire(local *int) bool {
	for *local == 0 {
		left := q.left.Load()
		n := min(q.chunk, left)
		if n <= 0 {
			return false
		}
		if q.left.CompareAndSwap(left, left-n) {
			*local = int(n)
		}
	}
	*local--
	return true
}

// release returns one unit.
func (q *quota) release(local *int) {
	if *local++; *local >= int(2*q.chunk) {
		*local -= int(q.chunk)
		q.left.Add(q.chunk)
	}
}

// rootOfName returns the root of a record's name, and whether the record counts towards
// the maximum per root. All do except the record of the root itself.
func rootOfName(name []byte) (root []byte, ok bool) {
	i := bytes.IndexAny(name, "/\x00")
	if i < 0 {
		return name, false
	}
	return name[:i], true
}

// splitName returns the scope and the model of a record's name.
func splitName(name []byte) (scope, model string) {
	scope = string(name)
	if i := bytes.IndexByte(name, 0); i >= 0 {
		return scope[:i], scope[i+1:]
	}
	return scope, ""
}

// makeRoom acquires quota for one more record, and evicts another if there is none.
func (p *partition) makeRoom(root, scope, model string, now Time) bool {
	if len(scope) > len(root) || model != "" {
		if h := xxhash.Sum64String(root); int(p.roots[h]) >= p.engine.maxPerRoot && !p.evict(now, h) {
			return false
		}
	}
	for !p.engine.keys.acquire(&p.keyQuota) {
		if !p.evict(now, 0) {
			return false
		}
	}
	return true
}

// maxEvictionLook is the most records that one eviction examines.
const maxEvictionLook = 128

// evict removes one record of a root, or of any root if root is 0: the first without
// usage, else the one with the smallest share used. It never removes a record whose
// latest request was denied, or with a live reservation or a budget in use, so that a
// flood of new keys does not reset the limits of others.
func (p *partition) evict(now Time, root uint64) bool {
	var best uint32
	bestShare := uint64(1<<63 - 1)
	for range min(maxEvictionLook, int(p.records.n)) {
		if p.clockHand = p.records.next(p.clockHand); p.clockHand == 0 {
			if p.clockHand = p.records.next(0); p.clockHand == 0 {
				return false
			}
		}
		rec := p.records.at(p.clockHand)
		if rec.pins > 0 || root != 0 && !p.countsToward(rec, root) {
			continue
		}
		share, budget := p.usedShare(rec, now)
		if share == 0 {
			p.remove(p.clockHand)
			p.stats.evicted[EvictLossless]++
			return true
		}
		if !budget && !rec.denied && share < bestShare {
			best, bestShare = p.clockHand, share
		}
	}
	if best == 0 {
		return false
	}
	p.remove(best)
	p.stats.evicted[EvictSmallest]++
	return true
}

// countsToward reports whether a record counts towards the maximum of the root with
// that hash.
func (p *partition) countsToward(rec *record, root uint64) bool {
	var buf [maxName]byte
	name, ok := rootOfName(p.appendName(buf[:0], rec))
	return ok && xxhash.Sum64(name) == root
}

// usedShare returns the largest share used of any limit, in units of 2^-32 of its
// capacity and 0 only if nothing is used. budget reports whether a budget is in use:
// money, a calendar window or a counter. The record is not changed.
func (p *partition) usedShare(rec *record, now Time) (share uint64, budget bool) {
	elapsed := max(0, now.Mono-rec.advancedAt)
	for i, l := range p.engine.catalog.schema(rec.schema).limits {
		b := *p.bucketAt(rec, i)
		l.advance(&b, nil, elapsed, now)
		used := uint64(l.used(b, p.ringOf(l, b, now)))
		if used == 0 || l.Algorithm == counter && now.Wall >= b.hi {
			continue
		}
		used32 := min(used, 1<<30)<<32/uint64(max(l.capacity, 1)) + 1
		share = max(share, used32)
		budget = budget || l.Algorithm == counter || l.Algorithm == FixedWindow && (l.Calendar != NoCalendar || l.dim == dimSpend)
	}
	return share, budget
}
