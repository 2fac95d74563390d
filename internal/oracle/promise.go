// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"math/big"

	"github.com/bucketring/bucketring/limiter"
)

// Promises returns a description of each promise of design.md 4.2 that the log
// of admissions breaks. It looks at pairs of admissions and counts what lies
// between: no state, no algorithm. An admission counts with the least that it
// was ever charged, because what a settle gave back may be given away again and
// what a call used beyond its estimate was not admitted.
func (o *Oracle) Promises() (broken []string) {
	for id, a := range o.accounts {
		if a.limit.Shadow {
			continue
		}
		for i, first := range a.log {
			sum := new(big.Rat)
			for _, last := range a.log[i:] {
				if a.limit.Algorithm == limiter.FixedWindow && a.windowAt(last.wall) != a.windowAt(first.wall) {
					break
				}
				if a.limit.Algorithm == limiter.SlidingWindow && last.at-first.at >= int64(a.limit.Window) {
					break
				}
				sum.Add(sum, last.lowest)
				if most := a.most(last.at - first.at); most != nil && sum.Cmp(most) > 0 {
					broken = append(broken, fmt.Sprintf("%s %s of %s: %s admitted from %d to %d, want at most %s",
						a.limit.Algorithm, id.name, id.scope, sum.RatString(), first.at, last.at, most.RatString()))
				}
			}
		}
	}
	return broken
}

// most is what may be admitted in a closed interval of that many nanoseconds.
func (a *account) most(elapsed int64) *big.Rat {
	switch a.limit.Algorithm {
	case limiter.TokenBucket:
		refill := new(big.Rat).Mul(rat(elapsed), big.NewRat(a.limit.Amount, int64(a.limit.Window)))
		return refill.Add(refill, a.capacity())
	case limiter.Concurrency:
		return nil // slots come back
	default:
		return rat(a.limit.Amount)
	}
}
