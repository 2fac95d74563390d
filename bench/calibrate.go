// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"runtime"
	"time"
)

// Calibration is what the harness itself costs on this machine, at this moment:
// what it measures of a target that does nothing.
type Calibration struct {
	// OpenRate is the highest rate of an open loop, of those that were tried, at
	// which nothing was dropped, calls were handed out in time (see [Pacer].Late)
	// and all was done when the time was over. 0: not even the lowest.
	OpenRate float64 `json:"open_rate"`
	// ClosedRate is the rate of a closed loop with one caller per core.
	ClosedRate float64 `json:"closed_rate"`
	// CPUPerCall is the CPU time of one call at OpenRate, user and system.
	CPUPerCall time.Duration `json:"cpu_per_call_ns"`
	// Added is what an answer that takes no time is measured as, at AddedRate
	// calls per second. Lateness is the part of it that comes from the schedule.
	AddedRate float64 `json:"added_rate"`
	Added     Latency `json:"added"`
	Lateness  Latency `json:"lateness"`
	// Others is the share of all processors that other programs used meanwhile, of
	// 1: the harness is better than this without them. 0 also where the system does
	// not tell.
	Others float64 `json:"others"`
}

// The rates of an open loop are tried from the first of these on, until one is too
// high; if the first one is, from the first of the others on, until one is not.
var (
	calibrationRates = []float64{25e3, 50e3, 100e3, 150e3, 200e3, 300e3, 400e3, 600e3, 800e3, 1.2e6, 1.6e6}
	slowRates        = []float64{10e3, 5e3, 2e3, 1e3}
)

// quietRate is the rate at which it is measured what the harness adds.
const quietRate = 10e3

// Calibrate measures the harness. It takes about 3 s, and what else runs on the
// machine shows in it. Progress, if not nil, is called before each rate that is
// tried; 0 is the closed loop.
func Calibrate(ctx context.Context, progress func(rate float64)) (*Calibration, error) {
	if progress == nil {
		progress = func(float64) {}
	}
	return calibrate(ctx, 200*time.Millisecond, progress)
}

// calibrate measures everything for the time of one step, after a quarter of it.
func calibrate(ctx context.Context, step time.Duration, progress func(float64)) (*Calibration, error) {
	run := func(rate float64) (*Result, error) {
		progress(rate)
		o := Options{
			Target:   CheckFunc(func(context.Context, *Call) (Answer, error) { return Answer{Outcome: Allowed}, nil }),
			Workload: WorkloadFunc(func(*Call) bool { return true }),
			Callers:  runtime.GOMAXPROCS(0), For: step, Warmup: step / 4,
		}
		if rate > 0 {
			a, err := Constant(rate)
			if err != nil {
				return nil, err
			}
			o.Arrivals, o.Callers = a, 0
		}
		return Run(ctx, o)
	}
	before := cpuOfAll()
	r, err := run(quietRate)
	if err != nil {
		return nil, err
	}
	c := &Calibration{AddedRate: quietRate, Lateness: r.Pacer.Lateness}
	if added := r.Latency(OpCheck); added != nil {
		c.Added = *added
	}
	if r, err = run(0); err != nil {
		return nil, err
	}
	c.ClosedRate = r.Rate()
	if err := c.rates(run); err != nil {
		return nil, err
	}
	c.Others = cpuOfAll().others(before)
	return c, nil
}

// rates finds the highest one that the harness keeps.
func (c *Calibration) rates(run func(float64) (*Result, error)) error {
	for _, rate := range calibrationRates {
		if kept, err := c.try(rate, run); err != nil || !kept && c.OpenRate > 0 {
			return err
		} else if !kept {
			break
		}
	}
	if c.OpenRate > 0 {
		return nil
	}
	for _, rate := range slowRates {
		if kept, err := c.try(rate, run); err != nil || kept {
			return err
		}
	}
	return nil
}

// try reports whether the harness keeps a rate. A moment in which the machine did
// something else is no limit: there are three attempts.
func (c *Calibration) try(rate float64, run func(float64) (*Result, error)) (kept bool, err error) {
	for range 3 {
		r, err := run(rate)
		if err != nil {
			return false, err
		}
		if r.Dropped == 0 && !r.Pacer.Late() && float64(r.InTime) > 0.99*float64(r.Offered) {
			c.OpenRate = rate
			c.CPUPerCall = r.ClientCPU / time.Duration(max(r.InTime, 1))
			return true, nil
		}
	}
	return false, nil
}

// cpuUse is what was used so far. The zero value is not known.
type cpuUse struct {
	busy, all time.Duration // of all processors, by all programs
	own       time.Duration // by this process
}

// others is the share of all processors that others have used since.
func (u cpuUse) others(since cpuUse) float64 {
	all := u.all - since.all
	if u.all == 0 || since.all == 0 || all <= 0 {
		return 0
	}
	others := (u.busy - since.busy) - (u.own - since.own)
	return min(max(float64(others)/float64(all), 0), 1)
}
