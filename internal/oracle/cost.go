// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"math/big"

	"github.com/bucketring/bucketring/limiter"
)

// usage is the actual or estimated usage of a request.
type usage struct {
	requests int64
	input    int64 // cached included, and what is written to a cache
	cached   int64
	write    int64
	write1h  int64
	output   int64 // over all choices
	images   int64
	searches int64
	factor   *big.Rat // of the prices of tokens
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
		return ceil(new(big.Rat).Quo(sum(uncached, w.Input, cached, w.CachedInput, output, w.Output), rat(1e6)))
	case limiter.Spend:
		if !rates.Priced {
			return new(big.Int)
		}
		plain := big.NewInt(u.input - u.cached - u.write - u.write1h)
		tokens := sum(plain, rates.InputPrice, cached, rates.CachedInputPrice, output, rates.OutputPrice)
		tokens.Add(tokens, sum(big.NewInt(u.write), rates.CacheWritePrice, big.NewInt(u.write1h), rates.CacheWrite1hPrice, new(big.Int), 0))
		tokens.Quo(tokens.Mul(tokens, u.factor), rat(1e6))
		fees := sum(big.NewInt(u.requests), rates.RequestFee, big.NewInt(u.images), rates.ImageFee, big.NewInt(u.searches), rates.SearchFee)
		return ceil(tokens.Add(tokens, fees))
	case limiter.Concurrent:
		return big.NewInt(1)
	default:
		return big.NewInt(u.costs[d])
	}
}

// sum returns a*x + b*y + c*z.
func sum(a *big.Int, x int64, b *big.Int, y int64, c *big.Int, z int64) *big.Rat {
	sum := new(big.Int).Mul(a, big.NewInt(x))
	sum.Add(sum, new(big.Int).Mul(b, big.NewInt(y)))
	return ratOf(sum.Add(sum, new(big.Int).Mul(c, big.NewInt(z))))
}

// factorOf returns the factor of a service tier.
func factorOf(rates limiter.Rates, name string) *big.Rat {
	for known, millionths := range rates.ServiceTiers.All() {
		if known == name {
			return big.NewRat(millionths, 1e6)
		}
	}
	return rat(1)
}

// reservedFactor returns the factor of a reserve, which has no discount.
func reservedFactor(r *limiter.Request) *big.Rat {
	factor := factorOf(r.Plan.Rates, r.ServiceTier)
	if factor.Cmp(rat(1)) < 0 {
		return rat(1)
	}
	return factor
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
