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
}

// calibrationRates are tried from the first on, until one is too high.
var calibrationRates = []float64{25e3, 50e3, 100e3, 150e3, 200e3, 300e3, 400e3, 600e3, 800e3, 1.2e6, 1.6e6}

// Calibrate measures the harness. It takes about 5 s, and what else runs on the
// machine shows in it.
func Calibrate(ctx context.Context) (*Calibration, error) {
	return calibrate(ctx, 400*time.Millisecond)
}

// calibrate measures everything for the time of one step, after a quarter of it.
func calibrate(ctx context.Context, step time.Duration) (*Calibration, error) {
	run := func(rate float64) (*Result, error) {
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
	const quiet = 10e3
	r, err := run(quiet)
	if err != nil {
		return nil, err
	}
	c := &Calibration{AddedRate: quiet, Lateness: r.Pacer.Lateness}
	if added := r.Latency(OpCheck); added != nil {
		c.Added = *added
	}
	if r, err = run(0); err != nil {
		return nil, err
	}
	c.ClosedRate = r.Rate()
	for _, rate := range calibrationRates {
		kept := false
		// A moment in which the machine did something else is no limit: three
		// attempts.
		for range 3 {
			if r, err = run(rate); err != nil {
				return nil, err
			}
			if kept = r.Dropped == 0 && !r.Pacer.Late() && float64(r.InTime) > 0.99*float64(r.Offered); kept {
				break
			}
		}
		if !kept {
			break
		}
		c.OpenRate = rate
		c.CPUPerCall = r.ClientCPU / time.Duration(max(r.InTime, 1))
	}
	return c, nil
}
