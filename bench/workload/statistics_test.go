// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"math"
	"math/big"
	"testing"
)

// chiSquare fails if counts do not match the probabilities, by a chi-square test
// at five standard deviations. With fixed seeds the result is deterministic.
func chiSquare(t *testing.T, what string, counts []int, probabilities []float64) {
	t.Helper()
	n := 0
	for _, c := range counts {
		n += c
	}
	sum, freedom := 0.0, -1.0
	for i, c := range counts {
		want := probabilities[i] * float64(n)
		if want < 5 {
			t.Fatalf("%s: bin %d expects %g only", what, i, want)
		}
		sum += (float64(c) - want) * (float64(c) - want) / want
		freedom++
	}
	if limit := freedom + 5*math.Sqrt(2*freedom); sum > limit {
		t.Errorf("%s: chi-square is %.1f with %.0f degrees of freedom, want at most %.1f", what, sum, freedom, limit)
	}
}

// TestZipf compares frequencies with the theory: the first ranks one by one, the
// others in bins that double.
func TestZipf(t *testing.T) {
	draws := 200_000
	if testing.Short() {
		draws = 50_000
	}
	for _, tt := range []struct {
		s float64
		n int64
	}{
		{0.2, 1000},
		{0.5, 100_000},
		{0.8, 500_000},
		{0.999, 10_000},
		{1, 100_000},
		{1.001, 10_000},
		{1.1, 100_000},
		{1.5, 1_000_000},
		{1.2, 2},
		{0.01, 3},
		{1, 17},
	} {
		t.Run(fmt.Sprintf("%gx%d", tt.s, tt.n), func(t *testing.T) {
			bins, bin := []int64{}, int64(1) // the largest ranks
			for ; bin < tt.n; bin = max(bin+1, bin*5/4) {
				bins = append(bins, bin)
			}
			bins = append(bins, tt.n)
			all := 0.0
			weights := make([]float64, len(bins))
			for k, b := int64(1), 0; k <= tt.n; k++ {
				w := math.Pow(float64(k), -tt.s)
				weights[b] += w
				all += w
				if k == bins[b] {
					b++
				}
			}
			if h := harmonic(tt.n, tt.s); math.Abs(h-all) > 1e-9*all {
				t.Errorf("harmonic(%d, %g) = %.12g, want %.12g", tt.n, tt.s, h, all)
			}
			z, r := newZipf(tt.n, tt.s), newRandom(1, seqKeys)
			counts := make([]int, len(bins))
			for range draws {
				k := z.draw(&r)
				if k < 1 || k > tt.n {
					t.Fatalf("a rank is %d, want 1 to %d", k, tt.n)
				}
				low, high := 0, len(bins)-1
				for low < high {
					if mid := (low + high) / 2; k <= bins[mid] {
						high = mid
					} else {
						low = mid + 1
					}
				}
				counts[low]++
			}
			// Bins that expect too little go into one.
			var small int
			var smallP float64
			var c []int
			var p []float64
			for i := range bins {
				if weights[i]/all*float64(draws) < 20 {
					small, smallP = small+counts[i], smallP+weights[i]/all
					continue
				}
				c, p = append(c, counts[i]), append(p, weights[i]/all)
			}
			if smallP*float64(draws) >= 5 {
				c, p = append(c, small), append(p, smallP)
			}
			chiSquare(t, "ranks", c, p)
		})
	}
}

func TestUniform(t *testing.T) {
	w := mustNew(t, "keys=uniform:1k tokens=uniform:10-19+100-299 llm=100%:ttft=100ns-109ns,speed=1M,max=1 seed=8")
	counts := map[string]int{}
	input, output, ttft := make([]int, 10), make([]int, 200), make([]int, 10)
	for c := range upTo(w, 100_000) {
		counts[c.Key]++
		input[c.InputTokens-10]++
		ttft[c.Duration-1100]++ // a token takes a microsecond
	}
	for c := range upTo(mustNew(t, "keys=uniform:1k tokens=uniform:10-19+100-299 seed=8"), 100_000) {
		output[c.OutputTokens-100]++
	}
	var keys []int
	for _, c := range counts {
		keys = append(keys, c)
	}
	for what, counts := range map[string][]int{"keys": keys, "input": input, "output": output, "ttft": ttft} {
		p := make([]float64, len(counts))
		for i := range p {
			p[i] = 1 / float64(len(p))
		}
		chiSquare(t, what, counts, p)
	}
	if len(keys) != 1000 {
		t.Errorf("%d keys, want 1000", len(keys))
	}
}

func TestShares(t *testing.T) {
	w := mustNew(t, "keys=uniform:50k tokens=fixed:1+1 tiers=free=70,standard=25,enterprise=5 models=small=4,large=1 seed=2")
	tiers, models, known := map[string]int{}, map[string]int{}, map[string]string{}
	for c := range upTo(w, 100_000) {
		models[c.Model]++
		if tier, ok := known[c.Key]; ok && tier != c.Tier {
			t.Fatalf("%s is %s and %s", c.Key, tier, c.Tier)
		} else if !ok {
			tiers[c.Tier]++
		}
		known[c.Key] = c.Tier
	}
	chiSquare(t, "tiers", []int{tiers["free"], tiers["standard"], tiers["enterprise"]}, []float64{0.7, 0.25, 0.05})
	chiSquare(t, "models", []int{models["small"], models["large"]}, []float64{0.8, 0.2})
	// By the calls a tier has its share only if the keys are alike.
	counts := make([]int, 4)
	for c := range upTo(mustNew(t, "keys=hot:70%:a+hot:15%:b+uniform:10%:10+orgs:2x2 tokens=fixed:1+1"), 100_000) {
		switch c.Key[0] {
		case 'a':
			counts[0]++
		case 'b':
			counts[1]++
		case 'u':
			counts[2]++
		default:
			counts[3]++
		}
	}
	chiSquare(t, "mixture", counts, []float64{0.7, 0.15, 0.1, 0.05})
	// A key has another tier with another seed, as often as the weights say.
	seeds := 0
	for seed := range 400 {
		if mustNew(t, fmt.Sprintf("keys=hot:acme/alice tokens=fixed:1+1 tiers=a=1,b=1 seed=%d", seed)).tier("acme/alice") == "a" {
			seeds++
		}
	}
	chiSquare(t, "tier of a key by seed", []int{seeds, 400 - seeds}, []float64{0.5, 0.5})
}

// TestChat compares means with the trace's: 1155 and 211.
func TestChat(t *testing.T) {
	const n = 200_000
	var input, output, product float64
	for c := range upTo(mustNew(t, "tokens=chat seed=6"), n) {
		input += float64(c.InputTokens)
		output += float64(c.OutputTokens)
		product += float64(c.InputTokens * c.OutputTokens)
	}
	for _, tt := range []struct {
		what      string
		got, want float64
	}{
		{"input", input / n, 1154.7},
		{"output", output / n, 211.126},
		// Alone each would be 243,787 on average: the two belong together.
		{"product", product / n, 223_497},
	} {
		if math.Abs(tt.got-tt.want) > 0.01*tt.want {
			t.Errorf("the mean %s is %.1f, want %.1f", tt.what, tt.got, tt.want)
		}
	}
}

// The sequences of one seed, and of adjacent seeds, are independent.
func TestSequencesAreIndependent(t *testing.T) {
	const n = 20_000
	for _, pair := range [][2]random{
		{newRandom(1, seqKeys), newRandom(1, seqTokens)},
		{newRandom(1, seqLLM), newRandom(1, seqRetries)},
		{newRandom(1, seqKeys), newRandom(2, seqKeys)},
		{newRandom(0, seqKeys), newRandom(1<<63, seqKeys)},
	} {
		a, b := pair[0], pair[1]
		counts := make([]int, 100)
		for range n {
			counts[a.below(10)*10+b.below(10)]++
		}
		p := make([]float64, 100)
		for i := range p {
			p[i] = 0.01
		}
		chiSquare(t, "pairs", counts, p)
	}
}

func TestScaleIsExact(t *testing.T) {
	r := newRandom(3, seqKeys)
	for range 1000 {
		x, n := r.pcg.Uint64(), r.pcg.Uint64()>>11+1
		want := new(big.Int).Mul(new(big.Int).SetUint64(x), new(big.Int).SetUint64(n))
		if got := scale(x, n); got != want.Rsh(want, 64).Uint64() {
			t.Fatalf("scale(%d, %d) = %d, want %s", x, n, got, want)
		}
	}
	if scale(0, 5) != 0 || scale(math.MaxUint64, 5) != 4 {
		t.Error("the ends are not 0 and n-1")
	}
}
