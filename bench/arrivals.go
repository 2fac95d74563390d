// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Never is what Arrivals.Next returns when no more calls are due.
const Never = time.Duration(math.MaxInt64)

// maxRate is the highest rate: one call per nanosecond.
const maxRate = 1e9

// Constant returns evenly spaced arrivals at rate calls per second. The first call
// is due at once. The rate must be above 0 and at most 1e9.
func Constant(rate float64) (Arrivals, error) {
	if err := checkRate(rate); err != nil {
		return nil, err
	}
	return &constant{rate: rate}, nil
}

// constant computes every time from the number of the call, so that rounding
// errors do not add up.
type constant struct {
	rate float64
	n    float64
}

func (c *constant) Next() time.Duration {
	due := nanoseconds(c.n / c.rate * float64(time.Second))
	c.n++
	return due
}

// Poisson returns the arrivals of independent callers: exponentially distributed
// gaps, with rate calls per second on average. The same seed gives the same times.
// The rate must be above 0 and at most 1e9.
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

// Times returns arrivals at the given times since the start of the run, each
// divided by speedup: 10 replays a recording ten times as fast. The times must not
// decrease, and must not be changed during the run.
func Times(at []time.Duration, speedup float64) (Arrivals, error) {
	if !(speedup > 0) || math.IsInf(speedup, 0) {
		return nil, fmt.Errorf("speedup: must be above 0, got %v", speedup)
	}
	last := time.Duration(0)
	for i, t := range at {
		if t < last {
			return nil, fmt.Errorf("times[%d]: %v is before %v", i, t, last)
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

// Step is a constant rate for a time.
type Step struct {
	Rate     float64 // calls per second; 0 means none
	Duration time.Duration
}

// Steps returns arrivals whose rate changes. After the last step no more calls are
// due.
func Steps(steps ...Step) (Arrivals, error) {
	if len(steps) == 0 {
		return nil, errors.New("steps: must not be empty")
	}
	for i, s := range steps {
		if s.Duration <= 0 {
			return nil, fmt.Errorf("steps[%d].duration: must be above 0, got %v", i, s.Duration)
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
	begin time.Duration // when steps[0] begins
	now   constant
}

func (s *stepped) Next() time.Duration {
	for len(s.steps) > 0 {
		if s.now.rate > 0 {
			if due := s.now.Next(); due < s.steps[0].Duration {
				return s.begin + due
			}
		}
		s.begin += s.steps[0].Duration
		s.steps = s.steps[1:]
		if len(s.steps) > 0 {
			s.now = constant{rate: s.steps[0].Rate}
		}
	}
	return Never
}

func checkRate(rate float64) error {
	if !(rate > 0 && rate <= maxRate) { // also false for NaN
		return fmt.Errorf("rate: must be above 0 and at most %v per second, got %v", float64(maxRate), rate)
	}
	return nil
}

// nanoseconds rounds ns to a duration, or to Never if it is too large for one.
func nanoseconds(ns float64) time.Duration {
	if ns >= math.MaxInt64 {
		return Never
	}
	return time.Duration(math.Round(ns))
}
