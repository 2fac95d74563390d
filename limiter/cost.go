// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/bits"

	"github.com/bucketring/bucketring/internal/amount"
)

// vector is the cost of a request in each built-in dimension.
type vector [dimCustom]int64

// amounts are the token counts from which costs are computed. input includes cached.
type amounts struct{ input, cached, output int64 }

// perMillion returns ceil((uncached*a + cached*b + output*c) / 1e6), and false if
// that is above MaxAmount. The token counts are at most MaxAmount.
func (n amounts) perMillion(a, b, c int64) (int64, bool) {
	if a == 1e6 && b == 1e6 && c == 1e6 {
		return n.input + n.output, n.input+n.output <= MaxAmount
	}
	w := mulWide(n.input-n.cached, a).add(mulWide(n.cached, b)).add(mulWide(n.output, c))
	if w.negative() {
		return 0, false
	}
	q := w.divCeil(1e6)
	return q, q <= MaxAmount
}

// cost fills in the token and money entries of v. The error is a [*FieldError] that
// names the larger of the two counts.
func (r *Rates) cost(n amounts, v *vector) error {
	var ok bool
	v[dimInput], v[dimOutput] = n.input, n.output
	v[dimTokens], ok = n.perMillion(r.Weights.Input, r.Weights.CachedInput, r.Weights.Output)
	if ok && r.Priced {
		v[dimSpend], ok = n.perMillion(r.InputPrice, r.CachedInputPrice, r.OutputPrice)
	}
	if !ok || n.output > MaxAmount {
		return overflow(n)
	}
	return nil
}

// overflow returns the error for a cost above MaxAmount.
func overflow(n amounts) error {
	field, value := "input_tokens", n.input
	if n.output > n.input {
		field, value = "output_tokens", n.output
	}
	return numberError(field, value, "makes a cost above "+amount.MaxText)
}

// cost fills in v for a request under a tier's estimate mode. A reserve also takes a
// slot.
func (r *Request) cost(mode Estimate, output int64, reserve bool, v *vector) error {
	choices := int64(1)
	if reserve {
		choices = max(r.Choices, 1)
	}
	n, err := mode.amounts(r.InputTokens, output, choices)
	if err != nil {
		return err
	}
	v[dimRequests], v[dimConcurrent] = r.Requests, boolInt(reserve)
	return r.Plan.Rates.cost(n, v)
}

// amounts returns the estimated token counts of a request with that many output
// tokens per choice.
func (e Estimate) amounts(input, output, choices int64) (amounts, error) {
	switch e.Mode {
	case EstimateInput:
		output = 0
	case EstimateFixed:
		output = min(output, e.Output)
	}
	hi, lo := bits.Mul64(uint64(output), uint64(choices))
	if hi != 0 || lo > MaxAmount {
		return amounts{}, numberError("max_output_tokens", output, "times n is above "+amount.MaxText)
	}
	return amounts{input: input, output: int64(lo)}, nil
}

// customCost returns the cost in a custom dimension, and whether there is one.
func customCost(costs []Cost, d Dimension) (int64, bool) {
	for i := range costs {
		if costs[i].Dimension == d {
			return costs[i].Amount, true
		}
	}
	return 0, false
}
