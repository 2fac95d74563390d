// SPDX-License-Identifier: Apache-2.0

package fallback

import (
	"cmp"

	"github.com/bucketring/bucketring/limiter"
)

// Limit returns the limit by which a member decides instead of l without the owner.
// roster is the number of members that share l; below 1 it counts as 1. A valid limit
// stays valid.
func Limit(l limiter.Limit, roster int) limiter.Limit {
	if l.Amount == 0 || l.Shadow {
		return l
	}
	switch l.Unreachable {
	case limiter.Open:
		l.Shadow, l.Closed, l.FullCapacity = true, false, 0
	case limiter.Share:
		return share(l, int64(max(roster, 1)))
	default: // closed, and unknown modes
		l.Closed = true
	}
	return l
}

// share returns the share of l of one of n members.
func share(l limiter.Limit, n int64) limiter.Limit {
	part := l
	part.Amount, part.Burst = l.Amount/n, l.Burst/n
	if part.Amount == 0 || l.Burst != 0 && part.Burst == 0 {
		l.Closed = true // reported with the amount of the whole limit
		return l
	}
	if n > 1 {
		part.FullCapacity = cmp.Or(l.FullCapacity, l.Burst, l.Amount)
	}
	return part
}
