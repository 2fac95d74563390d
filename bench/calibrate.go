// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"runtime"
	"time"
)

// Calibration is what the harness itself costs on this machine now: its
// measurements of a target that does nothing.
type Calibration struct {
	// OpenRate is the highest rate, of those tried, that an open loop sustained:
	// nothing was dropped, the schedule was kept (see [Pacer.Late]), and all calls
	// ended in time. 0 means that it sustained none.
	OpenRate float64 `json:"open_rate"`
	// ClosedRate is the rate of a closed loop with one caller per processor.
	ClosedRate float64 `json:"closed_rate"`
	// CPUPerCall is the user and system CPU time of one call at OpenRate.
	CPUPerCall time.Duration `json:"cpu_per_call_ns"`
	// Overhead is the latency that is measured of an instant answer, at OverheadRate
	// calls per second. Lateness is the part of it that the schedule causes.
	OverheadRate float64 `json:"added_rate"`
	Overhead     Latency `json:"added"`
	Lateness     Latency `json:"lateness"`
	// OtherCPU is the share (0 to 1) of all processors that other programs used
	// during the calibration, or 0 if it is unknown. Without them the harness would
	// be faster.
	OtherCPU float64 `json:"others"`
}

// calibrationRates are tried in order until one is not sustained. If that is the
// first one, slowRates are tried until one is sustained.
var (
	calibrationRates = []float64{25e3, 50e3, 100e3, 150e3, 200e3, 300e3, 400e3, 600e3, 800e3, 1.2e6, 1.6e6}
	slowRates        = []float64{10e3, 5e3, 2e3, 1e3}
)

// overheadRate is the rate at which Calibration.Overhead is measured.
const overheadRate = 10e3

// Calibrate measures the harness. It takes about 3 s, and other load on the machine
// affects it. Progress, if not nil, is called before each measurement with its rate
// in calls per second, which is 0 for the closed loop.
func Calibrate(ctx context.Context, progress func(rate float64)) (*Calibration, error) {
	if progress == nil {
		progress = func(float64) {}
	}
	return calibrate(ctx, 200*time.Millisecond, progress)
}

// calibrate measures everything for one step each, after a warm-up of step/4.
func calibrate(ctx context.Context, step time.Duration, progress func(float64)) (*Calibration, error) {
	run := func(rate float64) (*Result, error) {
		progress(rate)
		o := Options{
			Target:   CheckFunc(func(context.Context, *Call) (Answer, error) { return Answer{Outcome: Allowed}, nil }),
			Workload: WorkloadFunc(func(*Call) bool { return true }),
			Callers:  runtime.GOMAXPROCS(0), Duration: step, Warmup: step / 4,
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
	before := readCPUUsage()
	r, err := run(overheadRate)
	if err != nil {
		return nil, err
	}
	c := &Calibration{OverheadRate: overheadRate, Lateness: r.Pacer.Lateness}
	if added := r.Latency(OpCheck); added != nil {
		c.Overhead = *added
	}
	if r, err = run(0); err != nil {
		return nil, err
	}
	c.ClosedRate = r.Rate()
	if err := c.findOpenRate(run); err != nil {
		return nil, err
	}
	c.OtherCPU = readCPUUsage().otherShare(before)
	return c, nil
}

// findOpenRate sets OpenRate and CPUPerCall.
func (c *Calibration) findOpenRate(run func(float64) (*Result, error)) error {
	for _, rate := range calibrationRates {
		if kept, err := c.sustains(rate, run); err != nil || !kept && c.OpenRate > 0 {
			return err
		} else if !kept {
			break
		}
	}
	if c.OpenRate > 0 {
		return nil
	}
	for _, rate := range slowRates {
		if kept, err := c.sustains(rate, run); err != nil || kept {
			return err
		}
	}
	return nil
}

// sustains reports whether an open loop sustains a rate. It tries three times, since
// other programs may take the machine for a moment.
func (c *Calibration) sustains(rate float64, run func(float64) (*Result, error)) (kept bool, err error) {
	for range 3 {
		r, err := run(rate)
		if err != nil {
			return false, err
		}
		if r.Dropped == 0 && !r.Pacer.Late() && float64(r.Completed) > 0.99*float64(r.Offered) {
			c.OpenRate = rate
			c.CPUPerCall = r.ClientCPU / time.Duration(max(r.Completed, 1))
			return true, nil
		}
	}
	return false, nil
}

// cpuUsage is CPU time since boot. The zero value means that it is unknown.
type cpuUsage struct {
	busy, total time.Duration // of all processors, by all programs
	own         time.Duration // by this process
}

// otherShare returns the share of all processors that other programs used since then.
func (u cpuUsage) otherShare(since cpuUsage) float64 {
	all := u.total - since.total
	if u.total == 0 || since.total == 0 || all <= 0 {
		return 0
	}
	others := (u.busy - since.busy) - (u.own - since.own)
	return min(max(float64(others)/float64(all), 0), 1)
}
