// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func TestTheHarnessMeasuresItself(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes seconds")
	}
	// Rates are not asserted: other tests share the machine, and can use all of it
	// during one step.
	for range 10 {
		var tried []float64
		c, err := calibrate(t.Context(), 40*time.Millisecond, func(rate float64) { tried = append(tried, rate) })
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("open loop %.0f/s at %v of CPU per call, closed loop %.0f/s, added p50 %v p99 %v, lateness p50 %v p99 %v",
			c.OpenRate, c.CPUPerCall, c.ClosedRate, c.Overhead.P50, c.Overhead.P99, c.Lateness.P50, c.Lateness.P99)
		if c.ClosedRate > 0 && c.Overhead.Count == 400 && c.Lateness.Count == 400 && c.Overhead.P50 >= c.Lateness.P50 &&
			len(tried) > 2 && slices.Equal(tried[:3], []float64{overheadRate, 0, calibrationRates[0]}) {
			return
		}
	}
	t.Error("nothing was measured")
}

func TestACalibrationCanBeCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Calibrate(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want %v", err, context.Canceled)
	}
}

func TestOtherShare(t *testing.T) {
	before := cpuUsage{busy: 10 * time.Second, total: 100 * time.Second, own: time.Second}
	for name, c := range map[string]struct {
		now  cpuUsage
		want float64
	}{
		"alone":       {cpuUsage{busy: 12 * time.Second, total: 104 * time.Second, own: 3 * time.Second}, 0},
		"half":        {cpuUsage{busy: 13 * time.Second, total: 104 * time.Second, own: 2 * time.Second}, 0.5},
		"rounded":     {cpuUsage{busy: 11 * time.Second, total: 104 * time.Second, own: 3 * time.Second}, 0},
		"not known":   {cpuUsage{}, 0},
		"at one time": {before, 0},
	} {
		if got := c.now.otherShare(before); got != c.want {
			t.Errorf("%s: otherShare = %v, want %v", name, got, c.want)
		}
	}
	if got := before.otherShare(cpuUsage{}); got != 0 {
		t.Errorf("unknown usage: otherShare = %v, want 0", got)
	}
}

func TestSlowHarnessTriesLowerRates(t *testing.T) {
	for _, most := range []float64{100e3, 5e3, 0} {
		c := &Calibration{}
		run := func(rate float64) (*Result, error) {
			r := &Result{Pacer: &Pacer{}, Completed: 1}
			r.Offered = 1
			if rate > most {
				r.Dropped = 1
			}
			return r, nil
		}
		if err := c.findOpenRate(run); err != nil || c.OpenRate != most {
			t.Errorf("a harness that sustains %.0f/s: %.0f/s, %v", most, c.OpenRate, err)
		}
	}
}
