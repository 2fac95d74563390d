// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Never is what [Arrivals].Next returns when no more calls are due.
const Never = time.Duration(math.MaxInt64)

// maxRate is the highest rate that can be asked for: a call per nanosecond.
const maxRate = 1e9

// Constant returns arrivals at rate calls per second, evenly spaced, the first
// at once. The error says why the rate can't be.
func Constant(rate float64) (Arrivals, error) {
	if err := checkRate(rate); err != nil {
		return nil, err
	}
	return &constant{rate: rate}, nil
}

// constant computes every time from the number of the call, so that nothing
// adds up over a long run.
type constant struct {
	rate float64
	n    float64
}

func (c *constant) Next() time.Duration {
	due := nanoseconds(c.n / c.rate * float64(time.Second))
	c.n++
	return due
}

// Poisson returns arrivals of independent callers: the gaps between calls are
// exponentially distributed, rate calls come per second on average. The same
// seed gives the same times.
func Poisson(rate float64, seed uint64) (Arrivals, error) {
	if err := checkRate(rate); err != nil {
		return nil, err
	}
	return &poisson{gap: float64(time.Second) / rate, random: rand.New(rand.NewPCG(seed, 0x706f6973736f6e))}, nil
}

type poisson struct {
	gap    float64 // mean, in nanoseconds
	at     float64
	random *rand.Rand
}

func (p *poisson) Next() time.Duration {
	p.at += p.random.ExpFloat64() * p.gap
	return nanoseconds(p.at)
}

// Times returns arrivals at the given times since the start, which must not go
// backwards, each divided by speedup: 10 replays a recording ten times as fast.
// The times are read while the run lasts and must not be changed.
func Times(at []time.Duration, speedup float64) (Arrivals, error) {
	if !(speedup > 0) || math.IsInf(speedup, 0) {
		return nil, fmt.Errorf("speedup %v must be above 0", speedup)
	}
	last := time.Duration(0)
	for i, t := range at {
		if t < last {
			return nil, fmt.Errorf("times[%d] is %v: before %v", i, t, last)
		}
		last = t
	}
	return &times{at: at, speedup: speedup}, nil
}

type times struct {
	at      []time.Duration
	speedup float64
}

func (t *times) Next() time.Duration {
	if len(t.at) == 0 {
		return Never
	}
	due := t.at[0]
	t.at = t.at[1:]
	if t.speedup != 1 {
		due = nanoseconds(float64(due) / t.speedup)
	}
	return due
}

// Step is a constant rate for some time.
type Step struct {
	Rate float64 // calls per second; 0: none
	For  time.Duration
}

// Steps returns arrivals at rates that change. After the last step no more
// calls are due.
func Steps(steps ...Step) (Arrivals, error) {
	if len(steps) == 0 {
		return nil, errors.New("steps: none given")
	}
	for i, s := range steps {
		if s.For <= 0 {
			return nil, fmt.Errorf("steps[%d].for %v must be above 0", i, s.For)
		}
		if s.Rate == 0 {
			continue
		}
		if err := checkRate(s.Rate); err != nil {
			return nil, fmt.Errorf("steps[%d]: %w", i, err)
		}
	}
	return &stepped{steps: steps, now: constant{rate: steps[0].Rate}}, nil
}

type stepped struct {
	steps []Step
	begin time.Duration // of steps[0]
	now   constant
}

func (s *stepped) Next() time.Duration {
	for len(s.steps) > 0 {
		if s.now.rate > 0 {
			if due := s.now.Next(); due < s.steps[0].For {
				return s.begin + due
			}
		}
		s.begin += s.steps[0].For
		s.steps = s.steps[1:]
		if len(s.steps) > 0 {
			s.now = constant{rate: s.steps[0].Rate}
		}
	}
	return Never
}

func checkRate(rate float64) error {
	if !(rate > 0 && rate <= maxRate) { // also not a number
		return fmt.Errorf("rate %v must be above 0 and at most %v per second", rate, float64(maxRate))
	}
	return nil
}

// nanoseconds rounds to the nearest one, and to Never what is too far away.
func nanoseconds(ns float64) time.Duration {
	if ns >= math.MaxInt64 {
		return Never
	}
	return time.Duration(math.Round(ns))
}
