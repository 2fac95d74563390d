// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
)

// minSamples is how many samples a side needs for an interval: fewer have too few
// different resamples.
const minSamples = 5

// interval is an estimate with its confidence interval, as natural logarithms of ratios.
type interval struct {
	estimate, low, high float64
	ok                  bool // low and high are known
}

// bootstrap estimates differences of means by bootstrap-t: it resamples both sides with
// replacement, and takes the distribution of the difference in units of its standard
// error. This is accurate with five samples and with skewed ones, where percentiles of
// the resampled differences give intervals that are too narrow.
type bootstrap struct {
	resamples  int
	confidence float64 // of each interval
	random     *rand.Rand
}

// sample is the samples of one side.
type sample struct {
	values []float64
	// log says that values are logarithms, whose difference is the estimate. Otherwise
	// the estimate is the logarithm of the ratio of their means.
	log bool
}

// blocked averages consecutive values, so that the results are nearly independent: a
// stall of three seconds is one event, not three.
func (s sample) blocked() sample {
	n := len(s.values)
	length := min(int(math.Sqrt(float64(n))), n/(2*minSamples))
	if length <= 1 {
		return s
	}
	blocks := make([]float64, 0, n/length)
	for i := 0; i+length <= n; i += length {
		end := i + length
		if end+length > n {
			end = n // the last block takes the rest
		}
		blocks = append(blocks, average(s.values[i:end]))
	}
	return sample{blocks, s.log}
}

func average(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// mean returns the mean (or its logarithm) and the square of its standard error, on the
// scale of logarithms.
func (s sample) mean() (level, variance float64) {
	m := average(s.values)
	ss := 0.0
	for _, x := range s.values {
		ss += (x - m) * (x - m)
	}
	n := float64(len(s.values))
	variance = ss / max(n-1, 1) / n
	if s.log {
		return m, variance
	}
	return math.Log(m), variance / (m * m)
}

func (s sample) draw(random *rand.Rand, into []float64) sample {
	for i := range into {
		into[i] = s.values[random.IntN(len(s.values))]
	}
	return sample{into, s.log}
}

// ratio estimates b over a.
func (bs *bootstrap) ratio(a, b sample) interval {
	a, b = a.blocked(), b.blocked()
	la, va := a.mean()
	lb, vb := b.mean()
	return bs.estimate(lb-la, math.Sqrt(va+vb), min(len(a.values), len(b.values)), func(drawA, drawB []float64) (float64, float64) {
		la, va := a.draw(bs.random, drawA).mean()
		lb, vb := b.draw(bs.random, drawB).mean()
		return lb - la, math.Sqrt(va + vb)
	}, len(a.values), len(b.values))
}

func (bs *bootstrap) estimate(estimate, se float64, smallest int, draw func(a, b []float64) (estimate, se float64), na, nb int) interval {
	out := interval{estimate: estimate, low: estimate, high: estimate}
	if !finite(estimate) || !finite(se) || smallest < minSamples {
		return out
	}
	if se < 1e-12*max(1, math.Abs(estimate)) { // every sample is the same
		out.ok = true
		return out
	}
	a, b := make([]float64, na), make([]float64, nb)
	ts := make([]float64, 0, bs.resamples)
	for range bs.resamples {
		// A resample of equal values has no t.
		e, s := draw(a, b)
		if t := (e - estimate) / s; finite(t) && s > 1e-9*se {
			ts = append(ts, t)
		}
	}
	if len(ts) < bs.resamples/2 {
		return out
	}
	slices.Sort(ts)
	tail := (1 - bs.confidence) / 2
	low := ts[int(tail*float64(len(ts)-1))]
	high := ts[int(math.Ceil((1-tail)*float64(len(ts)-1)))]
	// The interval is mirrored: a resample that is too high means the true value may be
	// lower.
	out.low, out.high = estimate-high*se, estimate-low*se
	out.ok = finite(out.low) && finite(out.high)
	return out
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
