// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/bits"
	"strconv"
)

// vector is a call's cost in the built-in dimensions.
type vector [dimCustom]int64

// amounts are the token counts from which a vector is made.
type amounts struct{ input, cached, output int64 }

// perMillion returns ceil((uncached*a + cached*b + output*c) / 1e6), and false
// if it is beyond MaxAmount. The token counts are at most 2^53.
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

// cost fills the token and money entries of v. An overflow names the larger
// of the two counts, as a field of the request.
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

func overflow(n amounts) error {
	field, value := "input_tokens", n.input
	if n.output > n.input {
		field, value = "output_tokens", n.output
	}
	return &FieldError{Field: field, Value: strconv.FormatInt(value, 10), Problem: "makes a cost beyond 2^53"}
}

// cost fills v with what the call takes under a tier's estimate mode; a
// reserve takes a slot too.
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

// amounts returns what a call of output tokens per choice is estimated at.
func (e Estimate) amounts(input, output, choices int64) (amounts, error) {
	switch e.Mode {
	case EstimateInput:
		output = 0
	case EstimateFixed:
		output = min(output, e.Output)
	}
	hi, lo := bits.Mul64(uint64(output), uint64(choices))
	if hi != 0 || lo > MaxAmount {
		return amounts{}, &FieldError{Field: "max_output_tokens", Value: strconv.FormatInt(output, 10), Problem: "times n is beyond 2^53"}
	}
	return amounts{input: input, output: int64(lo)}, nil
}

// ofDimension returns the cost of an operator's own dimension.
func customCost(costs []Cost, d Dimension) (int64, bool) {
	for i := range costs {
		if costs[i].Dimension == d {
			return costs[i].Amount, true
		}
	}
	return 0, false
}
