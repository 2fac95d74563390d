// SPDX-License-Identifier: Apache-2.0

package limiter

import "math"

// bucket is the state of one limit, whatever its algorithm: 16 bytes without
// pointers. The fields depend on the algorithm:
//
//	token_bucket    hi, lo: the used level, a wide in units x window ns, >= 0
//	fixed_window    hi: end of the current window, Unix ns, 0 = none yet; lo: used in it
//	sliding_window  lo: id of its ring, 0 = nothing used
//	concurrency     lo: live leases
//	counter         as fixed_window, but as of the last call
type bucket struct {
	hi int64
	lo uint64
}

func (b bucket) level() wide      { return wide(b) }
func (b *bucket) setLevel(w wide) { *b = bucket(w) }

// advance advances a bucket to now, by elapsed nanoseconds. It applies the refill to
// the bucket's timeline, if there is one. Rings are advanced where they are read.
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
		if now.Wall >= b.hi { // an open window never ends early, so no window opens twice
			b.hi, b.lo = l.windowAt(now.Wall).end, 0
		}
	}
}

// fits reports whether a cost can be charged now and leave the headroom free.
func (l *limit) fits(b bucket, r *ring, cost, headroom int64) bool {
	if l.zero {
		return l.Closed && cost == 0
	}
	if cost == 0 {
		return true
	}
	cost += headroom // what must be left free is room that the cost takes, too
	switch l.Algorithm {
	case TokenBucket:
		return !l.full.less(b.level().add(mulWide(cost, l.window)))
	case SlidingWindow:
		return r.used() <= l.Amount-cost
	default:
		return int64(b.lo) <= l.Amount-cost
	}
}

// charge charges a cost. The ring of a sliding window must have been advanced.
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

// currentPeriod returns the [charge].at of a charge made now: the window or sub-window
// it belongs to. Token buckets use marks instead.
func (l *limit) currentPeriod(b bucket, now Time) int64 {
	switch l.Algorithm {
	case SlidingWindow:
		return floorDiv(now.Mono, l.sub)
	case FixedWindow, counter:
		return b.hi
	default:
		return 0
	}
}

// wait returns the nanoseconds until a cost fits that does not fit now, without other
// charges. The cost includes the headroom, and must not exceed the capacity.
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

// concurrencyRetry is the retry time of a concurrency limit in nanoseconds. Nothing
// tells when a slot will be free.
const concurrencyRetry = 1e9

// unreachableRetry is the retry time if only the owner can decide, in nanoseconds.
const unreachableRetry = 1e9

// denialReason returns why a cost of a class that does not fit is denied.
func (l *limit) denialReason(cost int64, class Priority) Reason {
	room := l.capacity - l.headroom[class]
	switch {
	case l.Closed, cost > room && cost <= l.FullCapacity-l.Headroom.Units(class, l.FullCapacity):
		return OwnerUnreachable
	case cost > room || l.Amount == 0:
		return ExceedsCapacity
	default:
		return LimitExceeded
	}
}

// excessDebt returns how many units to drop of a charge that takes a bucket's level
// from before to after. The debt of a bucket stops at one capacity, or at what it was
// before if that is more. What a reservation of estimated input used counts in full, up
// to MaxAmount: its estimate bounds nothing, so each such call could use any amount.
func (l *limit) excessDebt(charge int64, before, after wide, estimated bool) int64 {
	maxLevel := l.full.add(l.full)
	if estimated {
		maxLevel = l.full.add(mulWide(MaxAmount, l.window))
	}
	if maxLevel.less(before) {
		maxLevel = before
	}
	if !maxLevel.less(after) {
		return 0
	}
	return min(charge, after.sub(maxLevel).divCeil(l.window))
}

// checkRange returns an error if adding more to used could overflow the count of a
// window. The level of a token bucket cannot overflow.
func (l *limit) checkRange(used, more int64) error {
	if l.Algorithm == TokenBucket || more <= 0 || used <= math.MaxInt64/2-more {
		return nil
	}
	return numberError(string(l.Dimension), more, "does not fit the counter of limit "+l.Name)
}

// used returns the usage in units, rounded up.
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

// reset returns the wall time at which the usage would be 0 without further charges,
// or 0 if that is unknown.
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

// idle reports whether nothing is used, so that the bucket may be dropped.
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
