// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"math"
	"math/bits"
)

// cost returns the cost of units under a limit.
func (o *Options) cost(l *Limit, u Units) int64 {
	if o.Cost != nil {
		return o.Cost(l, u)
	}
	switch l.Dimension {
	case Requests:
		return u.Requests
	case Tokens:
		return u.Input + u.Output
	case InputTokens:
		return u.Input
	case OutputTokens:
		return u.Output
	case Spend:
		p, ok := o.Prices[u.Model]
		if !ok {
			p = o.Prices["*"]
		}
		return p.Cost(u)
	default:
		return 0
	}
}

// Cost returns the price of units in millionths of a dollar, rounded up.
func (p Price) Cost(u Units) int64 {
	hi, lo := bits.Mul64(uint64(u.Input), uint64(p.Input))
	hi2, lo2 := bits.Mul64(uint64(u.Output), uint64(p.Output))
	lo, carry := bits.Add64(lo, lo2, 0)
	hi, _ = bits.Add64(hi, hi2, carry)
	lo, carry = bits.Add64(lo, 1e6-1, 0)
	hi += carry
	if hi >= 1e6 {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, 1e6)
	return int64(min(q, math.MaxInt64))
}
