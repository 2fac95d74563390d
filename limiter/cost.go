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

// extras are what else a call is charged money for. The cache writes are parts of the
// input, and no part of it is both read from a cache and written to one.
type extras struct {
	write, write1h   int64
	images, searches int64
}

func (x *extras) numbers() [4]*int64 {
	return [...]*int64{&x.write, &x.write1h, &x.images, &x.searches}
}

// basis is what the spend of a reservation depends on beside its usage.
type basis struct {
	requests int64 // that are charged the fee of a request
	factor   int64 // of the prices of tokens, in millionths
}

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
func (r *Rates) cost(n amounts, x extras, b basis, v *vector) error {
	var ok bool
	v[dimInput], v[dimOutput] = n.input, n.output
	v[dimTokens], ok = n.perMillion(r.Weights.Input, r.Weights.CachedInput, r.Weights.Output)
	if ok && r.Priced {
		fees, err := r.fees(x, b.requests)
		if err != nil {
			return err
		}
		v[dimSpend], ok = r.spend(n, x, fees, b.factor)
	}
	if !ok || n.output > MaxAmount {
		return overflow(n)
	}
	return nil
}

// spend returns the price of the tokens, times a factor, and fees, rounded up once. It
// returns false if that is above MaxAmount.
func (r *Rates) spend(n amounts, x extras, fees, factor int64) (int64, bool) {
	w := mulWide(n.input-n.cached-x.write-x.write1h, r.InputPrice).add(mulWide(n.cached, r.CachedInputPrice)).add(mulWide(n.output, r.OutputPrice))
	if x.write != 0 || x.write1h != 0 {
		w = w.add(mulWide(x.write, r.CacheWritePrice)).add(mulWide(x.write1h, r.CacheWrite1hPrice))
	}
	unit := int64(1e6)
	if factor != normalFactor {
		var ok bool
		if w, ok = w.mul(factor); !ok {
			return 0, false
		}
		unit *= normalFactor
	}
	if fees != 0 {
		w = w.add(mulWide(fees, unit))
	}
	if w.negative() {
		return 0, false
	}
	q := w.divCeil(unit)
	return q, q <= MaxAmount
}

// fees returns what is charged for each request, image and search. The error is a
// [*FieldError].
func (r *Rates) fees(x extras, requests int64) (int64, error) {
	var sum int64
	for _, f := range [...]struct {
		name       string
		count, fee int64
	}{{"requests", requests, r.RequestFee}, {"images", x.images, r.ImageFee}, {"searches", x.searches, r.SearchFee}} {
		if f.count == 0 || f.fee == 0 {
			continue
		}
		fee := mulWide(f.count, f.fee)
		if fee.hi != 0 || fee.lo > uint64(MaxAmount-sum) {
			return 0, numberError(f.name, f.count, "makes a cost above "+amount.MaxText)
		}
		sum += int64(fee.lo)
	}
	return sum, nil
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
func (r *Request) cost(rates *Rates, mode Estimate, output int64, reserve bool, v *vector) error {
	choices := int64(1)
	if reserve {
		choices = max(r.Choices, 1)
	}
	n, err := mode.amounts(r.InputTokens, output, choices)
	if err != nil {
		return err
	}
	v[dimRequests], v[dimConcurrent] = r.Requests, boolInt(reserve)
	return rates.cost(n, extras{}, r.basis(rates, reserve), v)
}

// basis returns the basis of the request. A reserve has no discount, because the service
// tier that was asked for may not be given.
func (r *Request) basis(rates *Rates, reserve bool) basis {
	b := basis{requests: r.Requests, factor: rates.ServiceTiers.Factor(r.ServiceTier)}
	if reserve {
		b.factor = max(b.factor, normalFactor)
	}
	return b
}

// after returns the basis of the usage of a reservation that was made with b.
func (b basis) after(u *Usage, known ServiceTiers) basis {
	if u.ServiceTier != "" {
		b.factor = known.Factor(u.ServiceTier)
	}
	if u.Rejected {
		b.requests = 0
	}
	return b
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
