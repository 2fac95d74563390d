// SPDX-License-Identifier: Apache-2.0

package amount

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestGroup(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 999: "999", 1000: "1,000", -999: "-999", -1000: "-1,000", 1_234_567: "1,234,567",
		math.MaxInt64: "9,223,372,036,854,775,807", math.MinInt64: "-9,223,372,036,854,775,808",
	} {
		if got := Group(n); got != want {
			t.Errorf("Group(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestShares(t *testing.T) {
	for _, test := range []struct {
		whole int64
		parts []float64
		want  []int64
	}{
		{100, []float64{1, 1, 1}, []int64{34, 33, 33}},
		{1000, []float64{1365, 1366, 1365}, []int64{333, 334, 333}},
		{100, []float64{70, 25, 5}, []int64{70, 25, 5}},
		{100, []float64{0, 3}, []int64{0, 100}},
		{100, []float64{0, 0}, []int64{0, 0}},
		{100, nil, []int64{}},
	} {
		if got := Shares(test.whole, test.parts); !slices.Equal(got, test.want) {
			t.Errorf("Shares(%d, %v) = %v, want %v", test.whole, test.parts, got, test.want)
		}
	}
}

// TestSharesSumToTheWhole: no share is further than one unit from what it is without rounding.
func TestSharesSumToTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOfN(rapid.Float64Range(0, 1e9), 1, 50).Draw(t, "parts")
		whole := rapid.SampledFrom([]int64{100, 1000, 100_000}).Draw(t, "whole")
		total, sum := 0.0, int64(0)
		for _, p := range parts {
			total += p
		}
		for i, n := range Shares(whole, parts) {
			sum += n
			if exact := parts[i] / total * float64(whole); total > 0 && math.Abs(float64(n)-exact) > 1 {
				t.Fatalf("share %d is %d, want %v within 1", i, n, exact)
			}
		}
		if total > 0 && sum != whole {
			t.Fatalf("shares of %v sum to %d, want %d", parts, sum, whole)
		}
	})
}
