// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func take(a Arrivals, n int) []time.Duration {
	list := make([]time.Duration, n)
	for i := range list {
		list[i] = a.Next()
	}
	return list
}

func TestArrivals(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name string
		make func() (Arrivals, error)
		want []time.Duration
	}{
		{"constant", func() (Arrivals, error) { return Constant(250) }, []time.Duration{0, 4 * ms, 8 * ms, 12 * ms}},
		{"below one", func() (Arrivals, error) { return Constant(0.5) }, []time.Duration{0, 2 * time.Second, 4 * time.Second}},
		{"thirds", func() (Arrivals, error) { return Constant(3) }, []time.Duration{0, 333333333, 666666667, time.Second}},
		{
			"times", func() (Arrivals, error) { return Times([]time.Duration{5, 5, 30 * ms}, 1) },
			[]time.Duration{5, 5, 30 * ms, Never, Never},
		},
		{
			"times, faster", func() (Arrivals, error) { return Times([]time.Duration{0, 100 * ms, time.Second}, 100) },
			[]time.Duration{0, ms, 10 * ms, Never},
		},
		{
			"times, slower", func() (Arrivals, error) { return Times([]time.Duration{100 * ms}, 0.1) },
			[]time.Duration{time.Second, Never},
		},
		{
			"steps", func() (Arrivals, error) { return Steps(Step{10, 200 * ms}, Step{0, 300 * ms}, Step{20, 100 * ms}) },
			[]time.Duration{0, 100 * ms, 500 * ms, 550 * ms, Never, Never},
		},
	} {
		a, err := tt.make()
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if d := cmp.Diff(tt.want, take(a, len(tt.want))); d != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, d)
		}
	}
}

func TestConstantArrivalsDoNotDrift(t *testing.T) {
	a, err := Constant(7000)
	if err != nil {
		t.Fatal(err)
	}
	const minute = 60 * 7000
	for range minute {
		a.Next()
	}
	if got := a.Next(); got != time.Minute {
		t.Errorf("after a minute the next call is due at %v", got)
	}
}

func TestPoissonArrivals(t *testing.T) {
	const rate, n = 1000, 200_000
	a, errA := Poisson(rate, 1)
	b, errB := Poisson(rate, 1)
	c, errC := Poisson(rate, 2)
	for _, err := range []error{errA, errB, errC} {
		if err != nil {
			t.Fatal(err)
		}
	}
	at := take(a, n)
	if !slices.Equal(at, take(b, n)) {
		t.Error("the same seed gave other times")
	}
	if slices.Equal(at, take(c, n)) {
		t.Error("another seed gave the same times")
	}
	if !slices.IsSorted(at) {
		t.Error("times go backwards")
	}
	// Gaps are exponential: mean and standard deviation are 1/rate, and e^-k of
	// them are longer than k means. The margins are five standard errors.
	var sum, squares float64
	longer := make([]float64, 4)
	last := time.Duration(0)
	for _, t := range at {
		gap := (t - last).Seconds() * rate
		last = t
		sum += gap
		squares += gap * gap
		for k := range longer {
			if gap > float64(k+1) {
				longer[k]++
			}
		}
	}
	mean := sum / n
	deviation := math.Sqrt(squares/n - mean*mean)
	if e := 5 / math.Sqrt(n); math.Abs(mean-1) > e || math.Abs(deviation-1) > 2*e {
		t.Errorf("mean %.4f and deviation %.4f of the gaps, want 1", mean, deviation)
	}
	for k, count := range longer {
		p := math.Exp(-float64(k + 1))
		if got := count / n; math.Abs(got-p) > 5*math.Sqrt(p*(1-p)/n) {
			t.Errorf("%.4f of the gaps are longer than %d means, want %.4f", got, k+1, p)
		}
	}
	// Calls per second are Poisson: the variance is the mean.
	perSecond := make([]float64, int(at[n-1]/time.Second))
	for _, t := range at {
		if s := int(t / time.Second); s < len(perSecond) {
			perSecond[s]++
		}
	}
	var m, v float64
	for _, x := range perSecond {
		m += x / float64(len(perSecond))
	}
	for _, x := range perSecond {
		v += (x - m) * (x - m) / float64(len(perSecond)-1)
	}
	if r := v / m; r < 0.5 || r > 1.6 { // 5 standard errors of about 200 seconds
		t.Errorf("variance of the calls per second is %.2f of the mean, want 1", r)
	}
}

func TestBadArrivals(t *testing.T) {
	for name, err := range map[string]error{
		"rate 0":           second(Constant(0)),
		"rate below 0":     second(Constant(-1)),
		"rate NaN":         second(Poisson(math.NaN(), 1)),
		"rate too high":    second(Poisson(2e9, 1)),
		"speedup 0":        second(Times(nil, 0)),
		"speedup infinite": second(Times(nil, math.Inf(1))),
		"backwards":        second(Times([]time.Duration{2, 1}, 1)),
		"below 0":          second(Times([]time.Duration{-1}, 1)),
		"no steps":         second(Steps()),
		"step of no time":  second(Steps(Step{1, 0})),
		"step below 0":     second(Steps(Step{-1, 1})),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func second(_ Arrivals, err error) error { return err }
