// SPDX-License-Identifier: Apache-2.0

package slice

import (
	"math/bits"
	"time"
)

// How long slices are lent. The holder may spend a slice for as long, and the owner keeps it
// longer by [Skew] and [ReturnTime].
const (
	MemberLease = time.Second
	ClientLease = 250 * time.Millisecond // the owner cannot recall slices from clients
	LeastLease  = 50 * time.Millisecond  // a slice that must be over sooner is not lent
)

// Skew is by how much the clocks of two members may differ in speed, in percent.
const Skew = 2

// ReturnTime is how long the owner waits for the return of a slice after the holder may spend
// it no more, if what bounds the lease allows it, and otherwise a quarter of the lease. A
// slice that is returned later was charged in full. If the owner dies, its heir takes over
// meanwhile.
const ReturnTime = 2 * time.Second

// Margin returns what the owner must debit in addition for a token bucket that refills
// amount per window: all that it can refill during a lease, rounded up. It is as large as
// 2^63-1 if it would be larger.
func Margin(amount int64, window, lease time.Duration) int64 {
	hi, lo := bits.Mul64(uint64(amount), uint64(lease))
	lo, carry := bits.Add64(lo, uint64(window)-1, 0)
	hi += carry
	if hi >= uint64(window) {
		return 1<<63 - 1
	}
	n, _ := bits.Div64(hi, lo, uint64(window))
	return int64(min(n, 1<<63-1))
}

// marginShare is the part of a token bucket's capacity that a margin may be.
const marginShare = 10

// RefillTime returns the longest time in which a token bucket that refills amount per window
// refills at most a tenth of its capacity. A margin for that time is no more than that. It is
// as long as 2^63-1 nanoseconds if it would be longer.
func RefillTime(capacity, amount int64, window time.Duration) time.Duration {
	hi, lo := bits.Mul64(uint64(capacity/marginShare), uint64(window))
	if hi >= uint64(amount) {
		return 1<<63 - 1
	}
	n, _ := bits.Div64(hi, lo, uint64(amount))
	return time.Duration(min(n, 1<<63-1))
}

// Lease returns how long the holder may spend a slice, counted from when it asked, and how
// long the owner keeps the slice, counted from when it lends. left is the longest that the
// owner may keep it, by its clock, or 0 if nothing bounds that: a slice of a calendar window
// must be over when the window is, one of a sliding window within one window, and one of a
// token bucket within its [RefillTime]. The holder's time is 0 if there is none left for a
// slice.
func Lease(ttl, left time.Duration) (holder, owner time.Duration) {
	owner = Kept(ttl)
	if left > 0 && owner > left {
		owner = left
	}
	spent := owner - min(ReturnTime, owner/4)
	return min(ttl, spent-spent*Skew/(100+Skew)), owner
}

// Kept returns the longest time for which the owner keeps a slice that the holder may spend
// for so long.
func Kept(lease time.Duration) time.Duration { return lease + lease*Skew/100 + ReturnTime }

// leastCalls is how many typical calls a slice must hold. A smaller one strands more than
// it answers.
const leastCalls = 4

// Needed returns how many calls a holder is lent at most that decides rate calls per second:
// as many as that is until the end of its lease, or 0 if these are fewer than four. If it
// decides more, it asks again earlier.
func Needed(rate int64, lease time.Duration) int64 {
	hi, lo := bits.Mul64(uint64(rate), uint64(lease))
	if hi >= uint64(time.Second) {
		return 1<<63 - 1
	}
	n, _ := bits.Div64(hi, lo, uint64(time.Second))
	if n = min(n, 1<<63-1); n < leastCalls {
		return 0
	}
	return int64(n)
}

// IsLow reports whether so little is left of a limit that nothing is lent of it, and what is
// lent is recalled: less than a fifth of the capacity.
func IsLow(left, capacity int64) bool { return left < capacity/5 }

// Size returns how much of what is left of a limit the owner lends: half of the holder's
// share of the calls, and no more than leaves as much for the other holders. It is 0 if
// that is low, see [IsLow], or the slice would hold fewer than four typical calls. share is in thousandths.
func Size(left, capacity, share, typical int64, holders int) int64 {
	if IsLow(left, capacity) || holders < 1 {
		return 0
	}
	size := min(left/1000*share/2+left%1000*share/2000, left/int64(2*holders))
	if size < leastCalls*max(typical, 1) {
		return 0
	}
	return size
}
