// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math"
	"time"

	"github.com/bucketring/bucketring/internal/keypath"
)

// A throttle is a token bucket whose size and rate come with each call, for programs that keep
// their limits themselves. As a counter it is a record of its own, which shares no state with
// the limits of a policy, and its limit takes no memory.
//
// The record is that of a counter whose window ends when the bucket is full again. That is a
// time with a fraction of 1/count nanoseconds, so that no part of a refill is lost: the end of
// the window is the time rounded up, the limit of the counter is count, and its usage is count
// and by how many of these fractions the time was rounded. So a throttle is journaled, copied,
// moved and kept from eviction as a counter that is used up, by members of earlier versions
// too, and a call with another count finds the same bucket.

// throttleName is in place of the window in the name of a throttle's record.
const throttleName = counterMark + "t"

// Throttle is the size and the rate of a bucket. The zero Throttle is none.
type Throttle struct {
	// Capacity is what a full bucket has, from 0 to [MaxAmount].
	Capacity int64
	// Count is refilled in each Period, continuously. Count is from 1 to [MaxAmount].
	Count  int64
	Period time.Duration
}

// maxRefill is the longest time that an empty bucket may take to be full. It keeps the time
// when a bucket is full within the range of Unix nanoseconds.
const maxRefill = maxCounterWindow

// IsSet reports whether there is a throttle.
func (t Throttle) IsSet() bool { return t.Count != 0 }

// Validate returns a [*FieldError] if the throttle is set and invalid.
func (t Throttle) Validate() error {
	switch {
	case t.Capacity < 0 || t.Capacity > MaxAmount:
		return numberError("capacity", t.Capacity, "must be between 0 and 2^53")
	case t.Count < 1 || t.Count > MaxAmount:
		return numberError("count", t.Count, "must be between 1 and 2^53")
	case t.Period < 1:
		return numberError("period", int64(t.Period), "must be more than 0")
	case mulWide(t.Count, int64(maxRefill)).less(t.full()):
		return numberError("capacity", t.Capacity, "an empty bucket must be full again within 100 years")
	}
	return nil
}

// Amounts of a bucket are in units of 1/count nanoseconds of refill: a token is a period.

func (t Throttle) full() wide { return mulWide(t.Capacity, int64(t.Period)) }

// missing returns what is missing of a bucket at now. of is the count of the call that left it.
func (t Throttle) missing(b bucket, of uint64, now Time) wide {
	if now.Wall >= b.hi {
		return wide{}
	}
	rounded := int64(b.lo - min(b.lo, of))
	if count := int64(of); count != t.Count && count > 0 {
		rounded, _ = mulWide(rounded, t.Count).divFloor(count)
	}
	return mulWide(b.hi-now.Wall, t.Count).sub(mulWide(rounded, 1))
}

// bucket returns the bucket of which so much is missing at now.
func (t Throttle) bucket(missing wide, now Time) bucket {
	wait := missing.divCeil(t.Count)
	rounded := mulWide(wait, t.Count).sub(missing)
	return bucket{hi: now.Wall + wait, lo: uint64(t.Count) + rounded.lo}
}

// throttle is count for a throttle. A call that finds too little takes nothing.
func (p *partition) throttle(now Time, root uint64, q *CountRequest, d *CountResult, id idKey, body uint32) error {
	t := q.Throttle
	recordID, rec := p.find(q.Key, throttleName)
	missing, cost := wide{}, mulWide(q.Hits, int64(t.Period))
	if rec != nil {
		p.advance(rec, now)
		missing = t.missing(rec.buckets[0], counterLimitOf(rec), now)
	}
	if q.Force && q.WindowEnd != 0 && q.WindowEnd <= now.Wall {
		cost = wide{} // refilled since
	}
	if !q.Force && t.full().less(missing.add(cost)) {
		d.setThrottle(t, missing, now)
		d.Over, d.RetryAfter = true, -1
		if !t.full().less(cost) {
			d.RetryAfter = missing.add(cost).sub(t.full()).divCeil(t.Count)
		}
		return nil
	}
	if cost.isZero() {
		d.setThrottle(t, missing, now)
		return nil
	}
	if rec == nil {
		var wait int64
		if recordID, rec, wait = p.create(keypath.Root(q.Key), q.Key, throttleName, p.engine.catalog.counter, now); rec == nil {
			p.stats.tableFull++
			d.setThrottle(t, missing, now)
			d.Over, d.Full, d.RetryAfter = true, true, wait
			return nil
		}
	}
	after := missing.add(cost)
	if most := t.full().add(t.full()); q.Force && most.less(after) { // as the debt of other buckets
		after = most
		if most.less(missing) {
			after = missing
		}
	}
	b := t.bucket(after, now)
	p.seq++
	p.recordChanged(rec, recordID)
	rec.buckets[0], rec.buckets[1].lo = b, uint64(t.Count)
	d.setThrottle(t, after, now)
	if q.ID != "" {
		p.rememberCount(now, root, q, id, body, b)
	}
	d.Change, d.Large = p.seq, q.Hits >= (t.Capacity+99)/100
	return nil
}

// setThrottle fills in the result for a bucket of which so much is missing.
func (d *CountResult) setThrottle(t Throttle, missing wide, now Time) {
	*d = CountResult{Rate: d.Rate, AskerShare: d.AskerShare, Reset: missing.divCeil(t.Count)}
	d.End = now.Wall + min(d.Reset, math.MaxInt64-max(now.Wall, 0))
	if missing.less(t.full()) {
		d.Remaining, _ = t.full().sub(missing).divFloor(int64(t.Period))
	}
}
