// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math"
	"strconv"
)

// slot is the state of one limit, 16 bytes without pointers. What it means
// depends on the algorithm:
//
//	token_bucket    hi, lo: used, a wide in units x window ns; >= 0
//	fixed_window    hi: end of the current window, Unix ns, 0 = none yet; lo: used in it
//	sliding_window  lo: number of its ring, 0 = nothing used
//	concurrency     lo: live leases
//	counter         as a fixed window's, but as of the last call
type bucket struct {
	hi int64
	lo uint64
}

func (b bucket) level() wide      { return wide(b) }
func (b *bucket) setLevel(w wide) { *b = bucket(w) }

// advance brings the slot of limit l from the record's last touch to now. A
// timeline, if the bucket has one, sees the refill; a sliding window's ring
// is advanced where it is read.
func (l *limit) advance(b *bucket, t *timeline, elapsed int64, now Time) {
	switch l.Algorithm {
	case TokenBucket:
		used := b.level()
		if t != nil {
			b.setLevel(t.drain(used, mulWide(l.Amount, elapsed)))
		} else if !used.isZero() {
			if refill := mulWide(l.Amount, elapsed); used.less(refill) {
				*b = bucket{}
			} else {
				b.setLevel(used.sub(refill))
			}
		}
	case FixedWindow:
		if now.Wall >= b.hi { // a stored window never ends early, so none opens twice
			b.hi, b.lo = l.windowAt(now.Wall).end, 0
		}
	}
}

// fits says whether a cost can be taken now.
func (l *limit) fits(b bucket, r *ring, cost int64) bool {
	if l.zero {
		return l.Closed && cost == 0
	}
	if cost == 0 {
		return true
	}
	switch l.Algorithm {
	case TokenBucket:
		return !l.full.less(b.level().add(mulWide(cost, l.window)))
	case SlidingWindow:
		return r.used() <= l.Amount-cost
	default:
		return int64(b.lo) <= l.Amount-cost
	}
}

// charge takes a cost. The ring of a sliding window has been advanced.
func (l *limit) charge(b *bucket, r *ring, cost int64) {
	switch l.Algorithm {
	case TokenBucket:
		b.setLevel(b.level().add(mulWide(cost, l.window)))
	case SlidingWindow:
		r.add(r.head, cost)
	default:
		b.lo += uint64(cost)
	}
}

// when returns where in time a charge that comes now belongs: to which window
// or sub-window. A bucket's charges are found by marks.
func (l *limit) currentPeriod(b bucket, now Time) int64 {
	switch l.Algorithm {
	case SlidingWindow:
		return floorDiv(now.Mono, l.sub)
	case FixedWindow:
		return b.hi
	default:
		return 0
	}
}

// wait returns how long until a cost that does not fit would, if nothing else
// came; the cost is at most the capacity.
func (l *limit) wait(b bucket, r *ring, cost int64, now Time) int64 {
	switch l.Algorithm {
	case TokenBucket:
		return b.level().add(mulWide(cost, l.window)).sub(l.full).divCeil(l.Amount)
	case SlidingWindow:
		return r.fitsAt(cost, l.Amount)*l.sub - now.Mono
	case FixedWindow:
		return b.hi - now.Wall
	default:
		return concurrencyRetry
	}
}

// concurrencyRetry is the retry time of a concurrency refusal: a slot has no
// clock, and leases are renewed.
const concurrencyRetry = 1e9

// unreachableRetry is the retry time of a call that only the owner could take:
// by then it may be back.
const unreachableRetry = 1e9

// refusal is why a cost that does not fit is refused.
func (l *limit) denialReason(cost int64) Reason {
	switch {
	case l.Closed, cost > l.capacity && cost <= l.FullCapacity:
		return OwnerUnreachable
	case cost > l.capacity || l.Amount == 0:
		return ExceedsCapacity
	default:
		return LimitExceeded
	}
}

// beyondDebt returns how many units of a charge that takes a bucket from before
// to after are dropped, because it owes at most one capacity, or what it owed
// before if that is more.
func (l *limit) excessDebt(charge int64, before, after wide) int64 {
	maxLevel := l.full.add(l.full)
	if maxLevel.less(before) {
		maxLevel = before
	}
	if !maxLevel.less(after) {
		return 0
	}
	return min(charge, after.sub(maxLevel).divCeil(l.window))
}

// holds says whether the counter of a window can count more on top of used. A
// bucket's level always can.
func (l *limit) checkRange(used, more int64) error {
	if l.Algorithm == TokenBucket || more <= 0 || used <= math.MaxInt64/2-more {
		return nil
	}
	return &FieldError{Field: string(l.Dimension), Value: strconv.FormatInt(more, 10), Problem: "does not fit the counter of limit " + l.Name}
}

// used returns what is used, in units, rounded up.
func (l *limit) used(b bucket, r *ring) int64 {
	switch l.Algorithm {
	case TokenBucket:
		return b.level().divCeil(l.window)
	case SlidingWindow:
		return r.used()
	default:
		return int64(min(b.lo, math.MaxInt64))
	}
}

// reset returns the wall time at which nothing would be used any more, or 0
// for a limit that has none.
func (l *limit) reset(b bucket, r *ring, now Time) int64 {
	switch l.Algorithm {
	case TokenBucket:
		if b.level().isZero() || l.Amount == 0 {
			return now.Wall
		}
		return satAdd(b.level().divCeil(l.Amount), max(now.Wall, 0))
	case SlidingWindow:
		if r.used() == 0 {
			return now.Wall
		}
		return now.Wall + r.emptyAt()*l.sub - now.Mono
	case FixedWindow:
		return b.hi
	default:
		return 0
	}
}

// idle says whether forgetting the slot would lose nothing.
func (l *limit) idle(b bucket, r *ring) bool {
	switch l.Algorithm {
	case TokenBucket:
		return b.level().isZero()
	case SlidingWindow:
		return r.used() == 0
	default:
		return b.lo == 0
	}
}
