// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
)

// minSamples is how many samples a side needs for an interval: with fewer, the
// bootstrap has too few ways to draw to say anything.
const minSamples = 5

// interval is an estimate and where it may be, all as natural logarithms of
// ratios.
type interval struct {
	estimate, low, high float64
	ok                  bool // low and high are known
}

// bootstrap estimates differences of means by bootstrap-t: it draws both sides
// again, with replacement, and looks how far the drawn difference is from the
// measured one in units of its own standard error. That keeps its promise with
// as few as five samples and with skewed ones, where taking percentiles of the
// drawn differences gives intervals that are too narrow.
type bootstrap struct {
	resamples  int
	confidence float64 // of each interval
	random     *rand.Rand
}

// sample is what was measured on one side.
type sample struct {
	values []float64
	// log: values are logarithms already, their difference is the estimate. If
	// not, the estimate is the logarithm of the ratio of their means.
	log bool
}

// blocked averages consecutive values, so that what is left is nearly
// independent: a stall that lasts three seconds is one event, not three.
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
			end = n // the last one takes the rest
		}
		blocks = append(blocks, mean(s.values[i:end]))
	}
	return sample{blocks, s.log}
}

func mean(v []float64) float64 {
	sum := 0.0
	for _, x := range v {
		sum += x
	}
	return sum / float64(len(v))
}

// level returns the mean (or its logarithm) and the square of its standard
// error, on the scale of logarithms.
func (s sample) level() (level, variance float64) {
	m := mean(s.values)
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

// ratio returns b over a.
func (bs *bootstrap) ratio(a, b sample) interval {
	a, b = a.blocked(), b.blocked()
	la, va := a.level()
	lb, vb := b.level()
	return bs.around(lb-la, math.Sqrt(va+vb), min(len(a.values), len(b.values)), func(drawA, drawB []float64) (float64, float64) {
		la, va := a.draw(bs.random, drawA).level()
		lb, vb := b.draw(bs.random, drawB).level()
		return lb - la, math.Sqrt(va + vb)
	}, len(a.values), len(b.values))
}

func (bs *bootstrap) around(estimate, se float64, smallest int, draw func(a, b []float64) (estimate, se float64), na, nb int) interval {
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
		// A draw in which all are the same (or all zero) has no t: it says
		// nothing about the spread.
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
	// Mirrored: a draw that is too high says that the truth may be lower.
	out.low, out.high = estimate-high*se, estimate-low*se
	out.ok = finite(out.low) && finite(out.high)
	return out
}

func formatFloat(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
