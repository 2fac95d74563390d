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
			sum := new(big.Int)
			for _, last := range a.log[i:] {
				if a.limit.Algorithm == limiter.FixedWindow && a.windowAt(last.wall) != a.windowAt(first.wall) {
					break
				}
				if a.limit.Algorithm == limiter.SlidingWindow && last.at-first.at >= int64(a.limit.Window) {
					break
				}
				if sum.Add(sum, last.lowest); a.tooMuch(sum, last.at-first.at) {
					broken = append(broken, fmt.Sprintf("%s %s of %s admitted %s from %d to %d",
						a.limit.Algorithm, id.name, id.scope, sum, first.at, last.at))
				}
			}
		}
	}
	return broken
}

// tooMuch says whether more was admitted in a closed interval of that many
// nanoseconds than the limit's algorithm promises.
func (a *account) tooMuch(sum *big.Int, elapsed int64) bool {
	switch a.limit.Algorithm {
	case limiter.TokenBucket: // sum > burst + amount x elapsed / window
		window := big.NewInt(int64(a.limit.Window))
		beyond := new(big.Int).Sub(sum, floor(a.capacity()))
		return beyond.Mul(beyond, window).Cmp(new(big.Int).Mul(big.NewInt(a.limit.Amount), big.NewInt(elapsed))) > 0
	case limiter.Concurrency:
		return false // slots come back
	default:
		return sum.Cmp(big.NewInt(a.limit.Amount)) > 0
	}
}
