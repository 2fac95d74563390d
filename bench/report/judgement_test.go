// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestVerdictIsOfTheWholeInterval holds each verdict to its definition, for any interval and
// either direction: no value of the interval contradicts a verdict that is sure.
func TestVerdictIsOfTheWholeInterval(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		low := rapid.Float64Range(-100, 600).Draw(t, "low")
		high := low + rapid.Float64Range(0, 600).Draw(t, "width")
		bound := rapid.Float64Range(0.1, 100).Draw(t, "bound")
		m := rapid.SampledFrom(chosenMetrics([]string{"achieved", "p50", "failed"})).Draw(t, "metric")
		d := Delta{Low: &low, High: &high, Sampled: sampledRounds, Samples: [2]int{5, 5}}
		worse := func(change float64) bool {
			if m.better == HigherIsBetter {
				return change < -bound
			}
			return change > bound
		}
		want := CannotTell
		switch {
		case worse(low) && worse(high):
			want = Worse
		case !worse(low) && !worse(high):
			want = NotWorse
		}
		if got := m.verdict(&d, bound); got != want {
			t.Fatalf("%s of %s from %v to %v with the bound %v, want %s", got, m.name, low, high, bound, want)
		}
	})
}

// The interval of the issue: nothing can be said of it.
func TestVerdictOfAWideInterval(t *testing.T) {
	low, high := -82.0, 573.0
	m := chosenMetrics([]string{"p99"})[0]
	d := Delta{Metric: "p99", Low: &low, High: &high, Sampled: sampledRounds, Samples: [2]int{5, 5}}
	if d.Verdict = m.verdict(&d, 5); d.Verdict != CannotTell {
		t.Errorf("-82 to +573 %% is %s, want %s", d.Verdict, CannotTell)
	}
	c := Comparison{FailOver: 5, Deltas: []Delta{{Verdict: NotWorse}, d}}
	c.Verdict = c.judge()
	if c.Verdict != CannotTell || !strings.Contains(c.Remedy(), "--rounds 10") {
		t.Errorf("%s, remedy %q, want %s and more rounds", c.Verdict, c.Remedy(), CannotTell)
	}
}

// rounds is a run of a target in seven rounds that are drawn from one distribution.
func rounds(seed uint64, slower float64) *Run {
	random := rand.New(rand.NewPCG(seed, 7))
	r := withPercentiles(noisy(seed, 42, slower, 10_000))
	r.Pairing = &Pairing{Baseline: "b"}
	for range 7 {
		p50 := time.Duration(400e3 * slower * math.Exp(0.05*random.NormFloat64()))
		p99 := time.Duration(float64(p50) * 4 * math.Exp(0.15*random.NormFloat64()))
		r.Pairing.Rounds = append(r.Pairing.Rounds, Round{Turns: []Turn{{Target: "a", RatePerSecond: 9_900 + 50*random.NormFloat64(), P50: p50, P99: p99}}})
	}
	return r
}

// TestCompareOfRounds: runs by rounds of one distribution are seldom worse, and those of a
// target that is three times as slow always are.
func TestCompareOfRounds(t *testing.T) {
	pairs := 200
	if testing.Short() {
		pairs = 60
	}
	false20, found := 0, 0
	for seed := range uint64(pairs) {
		a, equal, slow := rounds(2*seed, 1), rounds(2*seed+1, 1), rounds(2*seed+1, 3)
		o := CompareOptions{FailOver: 20, Resamples: 1000, Seed: seed}
		if c, err := Compare(a, equal, o); err != nil {
			t.Fatal(err)
		} else if c.Verdict == Worse {
			false20++
		}
		if c, err := Compare(a, slow, o); err != nil {
			t.Fatal(err)
		} else if c.Verdict == Worse {
			found++
		}
	}
	if false20 > pairs/50 {
		t.Errorf("%d of %d pairs of equal runs were worse by 20 %%", false20, pairs)
	}
	if found < pairs*95/100 {
		t.Errorf("%d of %d runs that took three times as long were worse, want nearly all", found, pairs)
	}
}

func TestCompareOnlySomeMetrics(t *testing.T) {
	a, b := withPercentiles(noisy(1, 60, 1, 10_000)), withPercentiles(noisy(2, 60, 1.5, 10_000))
	c, err := Compare(a, b, CompareOptions{FailOver: 5, Metrics: []string{"achieved"}})
	if err != nil || len(c.Deltas) != 1 || c.Verdict != NotWorse || c.Remedy() != "" {
		t.Errorf("by achieved only: %+v, %v, want not worse", c, err)
	}
	if _, err := Compare(a, b, CompareOptions{Metrics: []string{"p5"}}); err == nil || !strings.Contains(err.Error(), `got "p5"`) {
		t.Errorf("an unknown metric: %v", err)
	}
}
