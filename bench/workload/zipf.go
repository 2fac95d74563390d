// SPDX-License-Identifier: Apache-2.0

package workload

import "math"

// zipf draws ranks from 1 to n, rank k with a probability proportional to 1/k^s, for any
// s above 0, without a table. It inverts the integral of the continuous 1/x^s, rounds to
// a rank, and rejects some draws (rejection-inversion, Hörmann and Derflinger 1996).
type zipf struct {
	n, s      float64
	low, high float64 // bounds of the integral
	accept    float64 // a rank at most this far above x is never rejected
}

func newZipf(n int64, s float64) zipf {
	z := zipf{n: float64(n), s: s}
	z.low = z.area(1.5) - 1
	z.high = z.area(z.n + 0.5)
	z.accept = 2 - z.inverseArea(z.area(2.5)-z.density(2))
	return z
}

func (z *zipf) draw(r *random) int64 {
	for {
		a := z.high + r.fraction()*(z.low-z.high)
		x := z.inverseArea(a)
		k := min(max(math.Floor(x+0.5), 1), z.n)
		if k-x <= z.accept || a >= z.area(k+0.5)-z.density(k) {
			return int64(k)
		}
	}
}

func (z *zipf) density(x float64) float64 { return math.Exp(-z.s * math.Log(x)) }

// area returns the integral of density from 1 to x: (x^(1-s) - 1) / (1-s), or ln x for
// s = 1. It is exact near s = 1.
func (z *zipf) area(x float64) float64 {
	l := math.Log(x)
	t := (1 - z.s) * l
	if math.Abs(t) < 1e-8 {
		return l * (1 + t/2)
	}
	return l * math.Expm1(t) / t
}

// inverseArea is the inverse of area.
func (z *zipf) inverseArea(a float64) float64 {
	t := max(a*(1-z.s), -1) // below -1 only by rounding
	if math.Abs(t) < 1e-8 {
		return math.Exp(a * (1 - t/2))
	}
	return math.Exp(a * math.Log1p(t) / t)
}

// harmonic returns the sum of 1/k^s for k from 1 to n.
func harmonic(n int64, s float64) float64 {
	z := zipf{s: s}
	const exact = 10_000
	sum := 0.0
	for k := min(n, exact); k >= 1; k-- {
		sum += z.density(float64(k))
	}
	if n > exact { // Euler-Maclaurin; the next term is negligible
		a, b := float64(exact), float64(n)
		sum += z.area(b) - z.area(a) + (z.density(b)-z.density(a))/2
	}
	return sum
}
