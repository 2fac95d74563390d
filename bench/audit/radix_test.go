// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestSorter(t *testing.T) {
	var s sorter
	rapid.Check(t, func(t *rapid.T) {
		time := rapid.SampledFrom([]*rapid.Generator[int64]{
			rapid.Int64(), rapid.Int64Range(-5, 5), rapid.Int64Range(1e12, 1e12+1e9), rapid.Just[int64](7),
			rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64, 0}),
		}).Draw(t, "of")
		times := rapid.SliceOfN(time, 0, rapid.SampledFrom([]int{3, 255, 256, 2000}).Draw(t, "at most")).Draw(t, "times")
		want := make([]int32, len(times))
		s.reset(len(times))
		for i, at := range times {
			want[i] = int32(i)
			s.add(at, int32(i))
		}
		slices.SortStableFunc(want, func(a, b int32) int { return cmp.Compare(times[a], times[b]) })
		if got := s.order(nil); !slices.Equal(got, want) {
			t.Fatalf("order of %v = %v, want %v", times, got, want)
		}
	})
}
