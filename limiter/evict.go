// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"bytes"
	"cmp"
	"math"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// EvictionReason says why a record was evicted to make room for another.
type EvictionReason int

// The reasons for evictions. The first is preferred.
const (
	EvictLossless     EvictionReason = iota // it had no usage
	EvictSmallest                           // it had the smallest share used among the records examined
	EvictAlmostUnused                       // less than 1 % was used of each of its budgets, and there was no better record
	evictionReasons
)

// String returns the label value used in metrics.
func (r EvictionReason) String() string {
	return [...]string{"lossless", "smallest_use", "almost_unused"}[r]
}

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

// Shares of a root. A root that has its share must make room among its own keys.
const (
	// defaultRootShare is the part of MaxKeys that one root may hold by default, and
	// minRootShare the least that this is.
	defaultRootShare = 4
	minRootShare     = 1000
	// freeShare bounds a root to so many times the keys that are free, so that roots
	// which all want more leave room for others: n such roots get 3/(3n+1) of MaxKeys
	// each, and the last 1/(3n+1) stays free for roots with fewer keys.
	freeShare = 3
	// reserve is the part of MaxKeys that the sweep keeps free, if the root with the most
	// keys has more than its share.
	reserve      = 64
	reserveHolds = 8 // most holds of a lock per sweep
	reserveStep  = 8 // most evictions per hold
)

// What a search for a record to evict looks at under one hold of a lock.
const (
	maxEvictionLook  = 128 // records that may be evicted, as far as their root goes
	maxEvictionSteps = 512 // records and tables in all
)

// roomRetry is the retry time if nothing tells when a record can be evicted: those that
// were examined have live reservations, or their partition is in use. In nanoseconds.
const roomRetry = 1e9

// rootSizes are the numbers of records under each root of a partition.
type rootSizes struct {
	of    map[uint64]uint32 // by the hash of the root
	top   uint64            // the root with the most, as far as is known
	count uint32            // of top
	// shared is count for other partitions. It is nil while the partition is closed, or
	// not in use yet.
	shared *atomic.Uint32
}

func (r *rootSizes) add(root uint64) {
	r.of[root]++
	r.note(root, r.of[root])
}

func (r *rootSizes) remove(root uint64) {
	n := r.of[root] - 1
	if r.of[root] = n; n == 0 {
		delete(r.of, root)
	}
	if root == r.top {
		r.setTop(root, n)
	}
}

// note makes root the top if it has more than the one that was.
func (r *rootSizes) note(root uint64, n uint32) {
	if n > r.count || root == r.top {
		r.setTop(root, n)
	}
}

func (r *rootSizes) setTop(root uint64, n uint32) {
	r.top, r.count = root, n
	if r.shared != nil {
		r.shared.Store(n)
	}
}

// largestRoot returns the partition whose largest root has the most records, and their
// number.
func (e *Engine) largestRoot() (partition int, count uint32) {
	for i := range e.largest {
		if n := e.largest[i].Load(); n > count {
			partition, count = i, n
		}
	}
	return partition, count
}

// makeRoom acquires quota for one more record, and evicts others if there is none. If it
// cannot, it returns the nanoseconds until a record can be evicted.
func (p *partition) makeRoom(root, scope, model string, now Time) (wait int64) {
	h := xxhash.Sum64String(root)
	size := p.roots.of[h]
	if len(scope) > len(root) || model != "" {
		free := p.engine.keys.left.Load() + int64(p.keyQuota)
		if int(size) >= p.engine.maxPerRoot || free > 0 && int64(size) >= freeShare*free {
			if wait := p.evict(now, search{root: h}); wait != 0 {
				return wait
			}
		}
	}
	for !p.engine.keys.acquire(&p.keyQuota) {
		if wait := p.reclaim(now, h, max(size, 1)); wait != 0 {
			return wait
		}
	}
	return 0
}

// reclaim evicts a record when the engine is full, for a root with size records: first
// one without usage, then one of the root with the most records, then one of any root
// that has not less.
func (p *partition) reclaim(now Time, root uint64, size uint32) (wait int64) {
	if wait = p.evict(now, search{unusedOnly: true}); wait == 0 {
		return 0
	}
	of, count := p.engine.largestRoot()
	switch s := &p.engine.shards[of]; {
	case count <= size:
		soon := p.evict(now, search{root: root})
		if soon == 0 {
			return 0
		}
		wait = min(wait, soon)
	case &s.partition == p:
		soon := p.evict(now, search{root: p.roots.top})
		if soon == 0 {
			return 0
		}
		wait = min(wait, soon)
	case !s.TryLock(): // waiting with a lock held could be a deadlock
		wait = min(wait, roomRetry)
	case s.records.closed: // meanwhile
		s.Unlock()
		wait = min(wait, roomRetry)
	default:
		soon := s.evict(now, search{root: s.roots.top})
		s.returnQuota()
		s.Unlock()
		if soon == 0 {
			return 0
		}
		wait = min(wait, soon)
	}
	return min(wait, p.evict(now, search{atLeast: size}))
}

// returnQuota gives the partition's unused quota to all partitions.
func (p *partition) returnQuota() {
	p.keyPool().left.Add(int64(p.keyQuota))
	p.keyQuota = 0
}

// Crowded reports whether there is little room for new keys, so that Sweep should be called
// every 10 ms: it makes room before calls have to. It takes no lock.
func (e *Engine) Crowded() bool { return e.keys.left.Load() < 4*e.reserve }

// keepReserve evicts records of the root with the most, until a part of MaxKeys is free or
// that root is within its share, so that calls of other roots need not wait for its lock.
func (e *Engine) keepReserve(now Time) (removed int) {
	for range reserveHolds {
		left := e.keys.left.Load()
		if left >= e.reserve {
			return removed
		}
		of, count := e.largestRoot()
		if int64(count) <= freeShare*left {
			return removed
		}
		s := &e.shards[of]
		s.Lock()
		before := removed
		for range reserveStep {
			if !s.records.closed && s.evict(now, search{root: s.roots.top}) == 0 {
				removed++
			}
		}
		s.returnQuota()
		s.Unlock()
		if removed == before {
			return removed
		}
	}
	return removed
}

// search says which records may be evicted.
type search struct {
	root       uint64 // only records of this root, unless 0
	atLeast    uint32 // only those of roots with at least that many records
	unusedOnly bool
}

// evict removes one record: the first without usage, else the best candidate of those
// that it examines. It never removes a record whose latest request was denied, or with a
// live reservation or 1 % of a budget used, so that a flood of new keys does not reset
// the limits of others. If it removes none, it returns the nanoseconds until one of those
// examined could be removed.
func (p *partition) evict(now Time, which search) (wait int64) {
	var best candidate
	wait = math.MaxInt64
	looks := 0
	for range min(maxEvictionSteps, int(p.records.n)+int(p.records.tableCount())) {
		var found bool
		if p.clockHand, found = p.records.next(p.clockHand); !found {
			continue
		}
		rec := p.records.at(p.clockHand)
		c := candidate{recordID: p.clockHand}
		if which.root != 0 && (!p.countsToward(rec, which.root)) {
			continue
		}
		if looks++; looks > maxEvictionLook {
			break
		}
		if rec.pins > 0 {
			wait = min(wait, roomRetry)
			continue
		}
		c.usage = p.usage(rec, now)
		switch {
		case c.share == 0:
			p.remove(p.clockHand)
			p.stats.evicted[EvictLossless]++
			return 0
		case rec.flags&recordDenied != 0:
			wait = min(wait, p.unusedIn(rec, now))
			continue
		case c.budget == budgetUsed:
			wait = min(wait, p.budgetsEndIn(rec, now))
			continue
		case which.unusedOnly:
			wait = min(wait, p.unusedIn(rec, now))
			continue
		case which.root == 0:
			c.size = p.sizeOfRoot(rec)
			if c.size < which.atLeast {
				wait = min(wait, p.unusedIn(rec, now))
				continue
			}
		}
		if best.recordID == 0 || c.before(&best) {
			best = c
		}
	}
	if best.recordID == 0 {
		if looks == 0 {
			return math.MaxInt64
		}
		return max(wait, 1)
	}
	p.evictLossy(&best, now)
	return 0
}

// candidate is a record that may be evicted although it is used.
type candidate struct {
	recordID uint32
	size     uint32 // of its root, or 0 if all candidates have the same
	usage
}

// before reports whether c should be evicted rather than other: the root with the most
// records gives first, then budgets go last, and then the smallest share goes first.
func (c *candidate) before(other *candidate) bool {
	return cmp.Or(-cmp.Compare(c.size, other.size), cmp.Compare(c.budget, other.budget), cmp.Compare(c.share, other.share)) < 0
}

// evictLossy removes a record that is used.
func (p *partition) evictLossy(c *candidate, now Time) {
	reason := EvictSmallest
	if c.budget == budgetAlmostUnused {
		reason = EvictAlmostUnused
		rec := p.records.at(c.recordID)
		for i, l := range p.engine.catalog.schema(rec.schema).limits {
			if _, used := p.usedOf(rec, i, l, now); used > 0 && l.isBudget() {
				p.stats.budgetEvicted(l, int64(used))
			}
		}
	}
	p.remove(c.recordID)
	p.stats.evicted[reason]++
}

// sizeOfRoot returns the number of records of the root of a record.
func (p *partition) sizeOfRoot(rec *record) uint32 {
	var buf [maxName]byte
	name, _ := rootOfName(p.appendName(buf[:0], rec))
	h := xxhash.Sum64(name)
	n := p.roots.of[h]
	if n > 0 {
		p.roots.note(h, n)
	}
	return max(n, 1)
}

// countsToward reports whether a record counts towards the maximum of the root with
// that hash.
func (p *partition) countsToward(rec *record, root uint64) bool {
	var buf [maxName]byte
	name, ok := rootOfName(p.appendName(buf[:0], rec))
	return ok && xxhash.Sum64(name) == root
}

// usage says how much of a record is used.
type usage struct {
	share  uint64 // the largest of any limit, in units of 2^-32 of its capacity; 0 only if nothing is used
	budget budgetUse
}

// budgetUse says how much of a record's budgets is used.
type budgetUse uint8

const (
	budgetUnused       budgetUse = iota
	budgetAlmostUnused           // less than 1 % of each
	budgetUsed
)

// isBudget reports whether a limit is a budget: money, a calendar window or a counter.
func (l *limit) isBudget() bool {
	return l.Algorithm == counter || l.Algorithm == FixedWindow && (l.Calendar != NoCalendar || l.dim == dimSpend)
}

// usedOf returns limit i of a record as of now, and how much of it is used. The record is
// not changed.
func (p *partition) usedOf(rec *record, i int, l *limit, now Time) (b bucket, used uint64) {
	b = *p.bucketAt(rec, i)
	if l.Algorithm == SlidingWindow {
		if b.lo != 0 {
			used = uint64(p.rings.at(uint32(b.lo)).usedAt(floorDiv(now.Mono, l.sub)))
		}
		return b, used
	}
	l.advance(&b, nil, max(0, now.Mono-rec.advancedAt), now)
	if l.Algorithm == counter && now.Wall >= b.hi {
		return b, 0
	}
	return b, uint64(l.used(b, nil))
}

// isUnused reports whether nothing of a record is used.
func (p *partition) isUnused(rec *record, now Time) bool {
	for i, l := range p.engine.catalog.schema(rec.schema).limits {
		if _, used := p.usedOf(rec, i, l, now); used != 0 {
			return false
		}
	}
	return true
}

// usage returns how much of a record is used.
func (p *partition) usage(rec *record, now Time) (u usage) {
	for i, l := range p.engine.catalog.schema(rec.schema).limits {
		_, used := p.usedOf(rec, i, l, now)
		if used == 0 {
			continue
		}
		capacity := capacityOf(l, rec)
		u.share = max(u.share, min(used, 1<<30)<<32/capacity+1)
		switch {
		case !l.isBudget():
		case used < (capacity+99)/100:
			u.budget = max(u.budget, budgetAlmostUnused)
		default:
			u.budget = budgetUsed
		}
	}
	return u
}

// capacityOf returns the capacity of a limit of a record, at least 1. That of a counter
// came with its last call.
func capacityOf(l *limit, rec *record) uint64 {
	if l.Algorithm == counter {
		return max(counterLimitOf(rec), 1)
	}
	return uint64(max(l.capacity, 1))
}

// unusedIn returns the nanoseconds until nothing of a record is used.
func (p *partition) unusedIn(rec *record, now Time) int64 {
	wait := int64(1)
	for i, l := range p.engine.catalog.schema(rec.schema).limits {
		b, used := p.usedOf(rec, i, l, now)
		switch {
		case used == 0:
		case l.Algorithm == SlidingWindow:
			wait = max(wait, l.reset(b, p.rings.at(uint32(b.lo)), now)-now.Wall)
		case l.Algorithm == counter:
			wait = max(wait, b.hi-now.Wall)
		default:
			wait = max(wait, l.reset(b, nil, now)-now.Wall)
		}
	}
	return wait
}

// budgetsEndIn returns the nanoseconds until less than 1 % of each budget is used.
func (p *partition) budgetsEndIn(rec *record, now Time) int64 {
	wait := int64(1)
	for i, l := range p.engine.catalog.schema(rec.schema).limits {
		if b, used := p.usedOf(rec, i, l, now); l.isBudget() && used >= (capacityOf(l, rec)+99)/100 {
			wait = max(wait, b.hi-now.Wall)
		}
	}
	return wait
}
