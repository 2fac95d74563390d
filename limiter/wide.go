// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math"
	"math/bits"
)

// wide is a signed 128-bit integer. The level of a token bucket is kept in units x
// window nanoseconds, so that refill is a multiplication without rounding. At most
// 2^54 units in 2^55 ns stay far within its range.
type wide struct {
	hi int64
	lo uint64
}

// maxWide stands for a minimum of nothing.
var maxWide = wide{math.MaxInt64, math.MaxUint64}

// mulWide returns a*b for a, b >= 0.
func mulWide(a, b int64) wide {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	return wide{int64(hi), lo}
}

func (w wide) add(v wide) wide {
	lo, carry := bits.Add64(w.lo, v.lo, 0)
	hi, _ := bits.Add64(uint64(w.hi), uint64(v.hi), carry)
	return wide{int64(hi), lo}
}

func (w wide) sub(v wide) wide {
	lo, borrow := bits.Sub64(w.lo, v.lo, 0)
	hi, _ := bits.Sub64(uint64(w.hi), uint64(v.hi), borrow)
	return wide{int64(hi), lo}
}

// mul returns w*n for w, n >= 0, and false if that is beyond 127 bits.
func (w wide) mul(n int64) (wide, bool) {
	carry, lo := bits.Mul64(w.lo, uint64(n))
	over, hi := bits.Mul64(uint64(w.hi), uint64(n))
	hi, more := bits.Add64(hi, carry, 0)
	return wide{int64(hi), lo}, over == 0 && more == 0 && int64(hi) >= 0
}

func (w wide) neg() wide { return wide{}.sub(w) }

func (w wide) less(v wide) bool {
	return w.hi < v.hi || w.hi == v.hi && w.lo < v.lo
}

func (w wide) isZero() bool { return w.hi == 0 && w.lo == 0 }

func (w wide) negative() bool { return w.hi < 0 }

// divFloor returns w/d and w%d for w >= 0 and d > 0. A quotient above MaxInt64 is
// returned as MaxInt64.
func (w wide) divFloor(d int64) (q, r int64) {
	if w.hi == 0 {
		q, r := w.lo/uint64(d), w.lo%uint64(d)
		return int64(min(q, math.MaxInt64)), int64(r)
	}
	if uint64(w.hi) >= uint64(d) {
		return math.MaxInt64, 0
	}
	uq, ur := bits.Div64(uint64(w.hi), w.lo, uint64(d))
	return int64(min(uq, math.MaxInt64)), int64(ur)
}

// divCeil is like divFloor, but rounds up.
func (w wide) divCeil(d int64) int64 {
	if w.hi == 0 {
		q := w.lo / uint64(d)
		if q*uint64(d) != w.lo {
			q++
		}
		return int64(min(q, math.MaxInt64))
	}
	q, r := w.divFloor(d)
	if r > 0 && q < math.MaxInt64 {
		q++
	}
	return q
}

func minWide(a, b wide) wide {
	if b.less(a) {
		return b
	}
	return a
}

// floorDiv returns a/b rounded down, for b > 0.
func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// satAdd returns a+b for b >= 0, at most MaxInt64.
func satAdd(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
