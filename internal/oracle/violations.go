// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"math/big"

	"github.com/bucketring/bucketring/limiter"
)

// Violations describes each promise of an algorithm, see package limiter, that the log
// breaks. It sums the admissions between every pair of charges and uses no state or
// algorithm of the oracle. A charge counts with its lowest amount, because a refund may
// be admitted again, and usage beyond the estimate was not admitted.
func (o *Oracle) Violations() (broken []string) {
	for id, a := range o.accounts {
		if a.limit.Shadow {
			continue
		}
		for i, first := range a.log {
			sum := new(big.Int)
			for _, last := range a.log[i:] {
				if a.limit.Algorithm == limiter.FixedWindow && a.windowAt(last.wall) != a.windowAt(first.wall) {
					break
				}
				if a.limit.Algorithm == limiter.SlidingWindow && last.at-first.at >= int64(a.limit.Window) {
					break
				}
				if sum.Add(sum, last.lowest); a.exceedsPromise(sum, last.at-first.at) {
					broken = append(broken, fmt.Sprintf("%s %s of %s admitted %s from %d to %d",
						a.limit.Algorithm, id.name, id.scope, sum, first.at, last.at))
				}
			}
		}
	}
	return broken
}

// exceedsPromise reports whether admitting sum in a closed interval of elapsed
// nanoseconds breaks the promise of the limit's algorithm.
func (a *account) exceedsPromise(sum *big.Int, elapsed int64) bool {
	switch a.limit.Algorithm {
	case limiter.TokenBucket: // sum > burst + amount x elapsed / window
		window := big.NewInt(int64(a.limit.Window))
		beyond := new(big.Int).Sub(sum, floor(a.capacity()))
		return beyond.Mul(beyond, window).Cmp(new(big.Int).Mul(big.NewInt(a.limit.Amount), big.NewInt(elapsed))) > 0
	case limiter.Concurrency:
		return false // slots are freed
	default:
		return sum.Cmp(big.NewInt(a.limit.Amount)) > 0
	}
}
