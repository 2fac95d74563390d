// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"math/big"

	"github.com/bucketring/bucketring/limiter"
)

// usage is the actual or estimated usage of a request.
type usage struct {
	requests int64
	input    int64 // cached included
	cached   int64
	output   int64 // over all choices
	costs    map[limiter.Dimension]int64
}

// cost returns the cost of usage in dimension d.
func cost(d limiter.Dimension, rates limiter.Rates, u usage) *big.Int {
	uncached, cached, output := big.NewInt(u.input-u.cached), big.NewInt(u.cached), big.NewInt(u.output)
	switch d {
	case limiter.Requests:
		return big.NewInt(u.requests)
	case limiter.InputTokens:
		return big.NewInt(u.input)
	case limiter.OutputTokens:
		return output
	case limiter.Tokens:
		w := rates.Weights
		return perMillion(uncached, w.Input, cached, w.CachedInput, output, w.Output)
	case limiter.Spend:
		if !rates.Priced {
			return new(big.Int)
		}
		return perMillion(uncached, rates.InputPrice, cached, rates.CachedInputPrice, output, rates.OutputPrice)
	case limiter.Concurrent:
		return big.NewInt(1)
	default:
		return big.NewInt(u.costs[d])
	}
}

// perMillion returns ceil((a*x + b*y + c*z) / 1e6).
func perMillion(a *big.Int, x int64, b *big.Int, y int64, c *big.Int, z int64) *big.Int {
	sum := new(big.Int).Mul(a, big.NewInt(x))
	sum.Add(sum, new(big.Int).Mul(b, big.NewInt(y)))
	sum.Add(sum, new(big.Int).Mul(c, big.NewInt(z)))
	return ceil(new(big.Rat).SetFrac(sum, big.NewInt(1e6)))
}

// estimatedOutput returns the output that is estimated for n choices of at most max
// tokens.
func estimatedOutput(e limiter.Estimate, n, max int64) int64 {
	switch e.Mode {
	case limiter.EstimateInput:
		max = 0
	case limiter.EstimateFixed:
		max = min(max, e.Output)
	}
	return n * max
}

func ceil(r *big.Rat) *big.Int {
	q, m := new(big.Int).DivMod(r.Num(), r.Denom(), new(big.Int))
	if m.Sign() > 0 {
		q.Add(q, big.NewInt(1))
	}
	return q
}

func floor(r *big.Rat) *big.Int { return new(big.Int).Div(r.Num(), r.Denom()) }

func rat(n int64) *big.Rat { return new(big.Rat).SetInt64(n) }

func ratOf(n *big.Int) *big.Rat { return new(big.Rat).SetInt(n) }
