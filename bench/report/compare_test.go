// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// shift makes every latency of a run longer by a factor.
func shift(r *Run, factor float64) {
	times := func(d time.Duration) time.Duration { return time.Duration(float64(d) * factor) }
	for i := range r.Targets {
		t := &r.Targets[i]
		for j := range t.Series {
			t.Series[j].P50, t.Series[j].P99 = times(t.Series[j].P50), times(t.Series[j].P99)
		}
		for j := range t.Latencies {
			for k := range t.Latencies[j].Percentiles {
				t.Latencies[j].Percentiles[k].Value = times(t.Latencies[j].Percentiles[k].Value)
			}
		}
	}
}

// noisy is a run of which every second is drawn from the same distribution, with
// a memory from one second to the next, as real ones have.
func noisy(seed uint64, seconds int, slower, rate float64) *Run {
	random := rand.New(rand.NewPCG(seed, 99))
	t := Target{Name: "a", Duration: time.Duration(seconds) * time.Second}
	drift := 0.0
	for i := range seconds {
		drift = 0.4*drift + 0.05*random.NormFloat64()
		p50 := 400e3 * slower * math.Exp(drift+0.02*random.NormFloat64())
		p99 := p50 * 4 * math.Exp(0.15*random.NormFloat64())
		if random.IntN(25) == 0 {
			p99 *= 6 // a collection, a neighbour
		}
		iv := Interval{At: time.Duration(i) * time.Second, Length: time.Second, P50: time.Duration(p50), P99: time.Duration(p99)}
		iv.Offered = int64(rate)
		iv.Achieved = int64(rate * (1 - 0.02*random.Float64()))
		iv.Denied = int64(float64(iv.Achieved) * (0.2 + 0.01*random.NormFloat64()))
		if random.IntN(10) == 0 {
			iv.Failed = 3
		}
		t.Series = append(t.Series, iv)
		t.add(iv.Counts)
	}
	t.Completed = t.Achieved
	return &Run{FormatVersion: FormatVersion, Targets: []Target{t}}
}

func delta(t *testing.T, c *Comparison, metric string) *Delta {
	t.Helper()
	for i := range c.Deltas {
		if c.Deltas[i].Metric == metric {
			return &c.Deltas[i]
		}
	}
	t.Fatalf("no %s among %+v", metric, c.Deltas)
	return nil
}

// withPercentiles gives runs without histograms what Compare shows for p50 and
// p99, so that their deltas are there.
func withPercentiles(r *Run) *Run {
	t := &r.Targets[0]
	t.Latencies = []Latency{{Percentiles: []Percentile{{50, 400 * time.Microsecond}, {99, 1600 * time.Microsecond}}}}
	return r
}

// TestEqualRunsAreEqual: of many pairs of runs from one distribution, at most as
// many show any change at all as the confidence allows, none is worse by 20 %, and short
// ones cannot tell.
func TestEqualRunsAreEqual(t *testing.T) {
	for _, seconds := range []int{8, 30, 120} {
		t.Run(fmt.Sprint(seconds, " s"), func(t *testing.T) {
			pairs := 400
			if testing.Short() {
				pairs = 60
			}
			changed, worse, notWorse := 0, 0, 0
			for seed := range uint64(pairs) {
				a, b := withPercentiles(noisy(2*seed, seconds, 1, 10_000)), withPercentiles(noisy(2*seed+1, seconds, 1, 10_000))
				c, err := Compare(a, b, CompareOptions{FailOver: 20, Resamples: 1000, Seed: seed})
				if err != nil {
					t.Fatal(err)
				}
				switch c.Verdict {
				case Worse:
					worse++
				case NotWorse:
					notWorse++
				}
				if slices.ContainsFunc(c.Deltas, func(d Delta) bool {
					return d.Finding == FindingWorse || d.Finding == FindingBetter || d.Finding == FindingChanged
				}) {
					changed++
				}
			}
			// 5 % are allowed; what is measured may be above by chance.
			if allowed := pairs*8/100 + 1; changed > allowed {
				t.Errorf("%d of %d pairs of equal runs showed a change, want at most %d", changed, pairs, allowed)
			}
			// p99 of these runs is rough: some seconds have six times as much.
			if worse > pairs/200 {
				t.Errorf("%d of %d pairs of equal runs were worse by 20 %%", worse, pairs)
			}
			if seconds < minIntervals && changed+worse+notWorse > 0 {
				t.Errorf("%d changes, %d worse and %d not worse by runs of %d s, want none", changed, worse, notWorse, seconds)
			}
			if seconds >= 120 && notWorse < pairs/2 {
				t.Errorf("%d of %d pairs of equal runs of %d s were not worse, want most", notWorse, pairs, seconds)
			}
			t.Logf("of %d pairs %d showed a change, %d were worse, %d not worse", pairs, changed, worse, notWorse)
		})
	}
}

// TestShiftIsFound: a run that is 25 % slower is found to be, nearly always, and
// the interval holds the truth.
func TestShiftIsFound(t *testing.T) {
	const truth = 25.0
	pairs := 100
	if testing.Short() {
		pairs = 40
	}
	found, held := 0, 0
	for seed := range uint64(pairs) {
		a, b := withPercentiles(noisy(2*seed, 60, 1, 10_000)), withPercentiles(noisy(2*seed+1, 60, 1.25, 10_000))
		c, err := Compare(a, b, CompareOptions{FailOver: 5, Resamples: 1000, Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		d := delta(t, c, "p50")
		if d.Verdict == Worse && d.Finding == FindingWorse {
			found++
		}
		if *d.Low <= truth && truth <= *d.High {
			held++
		}
	}
	if found < pairs*90/100 || held < pairs*92/100 {
		t.Errorf("of %d pairs %d were found and %d intervals held the truth, want 90 %% and 92 %%", pairs, found, held)
	}
}

func TestCompareSaysWhichWay(t *testing.T) {
	base := withPercentiles(noisy(1, 60, 1, 10_000))
	for _, test := range []struct {
		name        string
		b           *Run
		metric      string
		want        Finding
		regressions int
	}{
		{"slower", withPercentiles(noisy(2, 60, 1.5, 10_000)), "p50", FindingWorse, 2},
		{"faster", withPercentiles(noisy(3, 60, 0.7, 10_000)), "p99", FindingBetter, 0},
		{"less", withPercentiles(noisy(4, 60, 1, 8_000)), "achieved", FindingWorse, 1},
		{"more", withPercentiles(noisy(5, 60, 1, 12_000)), "achieved", FindingBetter, 0},
		{"the same", base, "p99", FindingNoChange, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := Compare(base, test.b, CompareOptions{FailOver: 5})
			if err != nil {
				t.Fatal(err)
			}
			d := delta(t, c, test.metric)
			if d.Finding != test.want {
				t.Errorf("%s is %s (%v, %v to %v), want %s", test.metric, d.Finding, *d.Change, *d.Low, *d.High, test.want)
			}
			if len(c.Regressions) != test.regressions {
				t.Errorf("regressions %q, want %d", c.Regressions, test.regressions)
			}
		})
	}
}

func TestCompareNeedsSamples(t *testing.T) {
	a, b := withPercentiles(noisy(1, 4, 1, 1000)), withPercentiles(noisy(2, 4, 3, 1000))
	b.Targets[0].Latencies[0].Percentiles[0].Value *= 3
	c, err := Compare(a, b, CompareOptions{FailOver: 5})
	if err != nil {
		t.Fatal(err)
	}
	if d := delta(t, c, "p50"); d.Finding != FindingNotJudged || d.Low != nil || *d.Change < 199 || c.Verdict != CannotTell || c.Remedy() == "" {
		t.Errorf("p50 of 4 seconds: %+v, regressions %q, want +200 %% that is not judged", d, c.Regressions)
	}
}

func TestCompareWarnsOfShortRuns(t *testing.T) {
	for seconds, want := range map[int]bool{10: true, 20: false} {
		r := withPercentiles(noisy(1, seconds, 1, 1000))
		c, err := Compare(r, r, CompareOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(c.Warnings, "\n"), "intervals"); got != want {
			t.Errorf("%d s: warnings %q", seconds, c.Warnings)
		}
	}
}

func TestCompareIsRepeatable(t *testing.T) {
	a, b := versusRun(t), versusRun(t)
	shift(b, 1.02)
	var texts []string
	for _, seed := range []uint64{1, 1, 2} {
		c, err := Compare(a, b, CompareOptions{Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		var w bytes.Buffer
		if err := c.WriteJSON(&w); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, w.String())
	}
	if texts[0] != texts[1] {
		t.Error("the same seed gave another comparison")
	}
	if texts[0] == texts[2] {
		t.Error("another seed gave the same comparison: the seed is not used")
	}
}

func TestCompareUsesRounds(t *testing.T) {
	a, b := versusRun(t), versusRun(t)
	for i := range b.Pairing.Rounds {
		for j := range b.Pairing.Rounds[i].Turns {
			b.Pairing.Rounds[i].Turns[j].P50 *= 2
		}
	}
	c, err := Compare(a, b, CompareOptions{FailOver: 10})
	if err != nil {
		t.Fatal(err)
	}
	if d := delta(t, c, "p50"); d.Sampled != "rounds" || d.Samples != [2]int{8, 8} || math.Abs(*d.Change-100) > 1e-6 || d.Verdict != Worse {
		t.Errorf("p50 = %+v, want 100 %% from 8 rounds", d)
	}
}

func TestCompareJudgesTheAudit(t *testing.T) {
	a, b := faultRun(t), faultRun(t)
	b.Targets[0].Audit = violatedAudit()
	c, err := Compare(a, b, CompareOptions{FailOver: 50})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Regressions) != 1 || !strings.Contains(c.Regressions[0], "37 limits over-admitted") {
		t.Errorf("regressions %q, want the audit", c.Regressions)
	}
}

func TestCompareWarns(t *testing.T) {
	a, b := faultRun(t), faultRun(t)
	b.Targets[0].Name, b.Load.Workload, b.Environment.Cores = "another", "keys hot", 4
	c, err := Compare(a, b, CompareOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(c.Warnings, "\n")
	for _, want := range []string{"the targets differ: local cluster of 3 and another", "the workload differs", "the number of cores differs: 2 and 4"} {
		if !strings.Contains(all, want) {
			t.Errorf("warnings %q, want %q", all, want)
		}
	}
}

func TestCompareRejects(t *testing.T) {
	a, b := versusRun(t), versusRun(t)
	for i := range b.Targets {
		b.Targets[i].Name += "!"
	}
	if _, err := Compare(a, b, CompareOptions{}); err == nil || !strings.Contains(err.Error(), "no target in common") {
		t.Errorf("Compare without common targets: %v", err)
	}
	for _, o := range []CompareOptions{{Confidence: 1}, {Confidence: math.NaN()}, {Resamples: 3}, {FailOver: -1}, {FailOver: math.Inf(1)}} {
		if _, err := Compare(a, a, o); err == nil {
			t.Errorf("Compare with %+v: no error", o)
		}
	}
}

func TestPaired(t *testing.T) {
	r := versusRun(t)
	ratios, err := PairedRatios(r, CompareOptions{Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]float64{"achieved": 1, "p50": 240.0 / 310, "p99": 240.0 / 310, "server_cpu": 240.0 / 310}
	for _, x := range ratios {
		if x.Target != "bucketring" || x.Baseline != "redis INCR" || len(x.Rounds) != 8 {
			t.Errorf("ratio %+v", x)
		}
		if truth := want[x.Metric]; x.Low > truth || x.High < truth || x.Low >= x.High {
			t.Errorf("%s: %v to %v, want %v between", x.Metric, x.Low, x.High, truth)
		}
		if x.Min > x.Mean || x.Mean > x.Max {
			t.Errorf("%s: mean %v is not between %v and %v", x.Metric, x.Mean, x.Min, x.Max)
		}
		delete(want, x.Metric)
	}
	if len(want) > 0 {
		t.Errorf("no ratio for %v", want)
	}
	r.Pairing.Rounds = r.Pairing.Rounds[:3]
	if ratios, err = PairedRatios(r, CompareOptions{}); err != nil || len(ratios) == 0 || ratios[0].Low != 0 {
		t.Errorf("Paired of 3 rounds = %+v, %v, want no interval", ratios, err)
	}
	if ratios, err = PairedRatios(faultRun(t), CompareOptions{}); err != nil || ratios != nil {
		t.Errorf("Paired without rounds = %v, %v, want nothing", ratios, err)
	}
}

// One round that is far off makes the mean uncertain, and not arbitrary; the values
// are those of a table of Student's t.
func TestCenter(t *testing.T) {
	logs := []float64{math.Log(0.66), math.Log(0.7), math.Log(0.71), math.Log(0.68), math.Log(3.19)}
	iv := studentInterval(logs, 0.95)
	if low, high := math.Exp(iv.low), math.Exp(iv.high); !iv.ok || low < 0.3 || low > 0.66 || high < 1 || high > 3.19 {
		t.Errorf("interval is %v to %v, want one around most rounds that reaches towards the last", low, high)
	}
	// Mean 0 and standard error 1: t of 4 degrees of freedom.
	iv = studentInterval([]float64{-2, -1, 0, 1, 2}, 0.95)
	if want := 2.776445 * math.Sqrt(0.5); math.Abs(iv.high-want) > 1e-4 || math.Abs(iv.low+want) > 1e-4 {
		t.Errorf("interval is %v to %v, want ±%v", iv.low, iv.high, want)
	}
	if iv = studentInterval(logs[:4], 0.95); iv.ok {
		t.Errorf("four rounds have the interval %+v, want none", iv)
	}
}
