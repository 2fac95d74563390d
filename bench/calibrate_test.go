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
	// Not how fast: other tests share the machine, and can have all of it for one
	// step.
	for range 10 {
		var tried []float64
		c, err := calibrate(t.Context(), 40*time.Millisecond, func(rate float64) { tried = append(tried, rate) })
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("open loop %.0f/s at %v of CPU per call, closed loop %.0f/s, added p50 %v p99 %v, lateness p50 %v p99 %v",
			c.OpenRate, c.CPUPerCall, c.ClosedRate, c.Added.P50, c.Added.P99, c.Lateness.P50, c.Lateness.P99)
		if c.ClosedRate > 0 && c.Added.Count == 400 && c.Lateness.Count == 400 && c.Added.P50 >= c.Lateness.P50 &&
			len(tried) > 2 && slices.Equal(tried[:3], []float64{quietRate, 0, calibrationRates[0]}) {
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

func TestOthersAreToldFromUs(t *testing.T) {
	before := cpuUse{busy: 10 * time.Second, all: 100 * time.Second, own: time.Second}
	for name, c := range map[string]struct {
		now  cpuUse
		want float64
	}{
		"alone":       {cpuUse{busy: 12 * time.Second, all: 104 * time.Second, own: 3 * time.Second}, 0},
		"half":        {cpuUse{busy: 13 * time.Second, all: 104 * time.Second, own: 2 * time.Second}, 0.5},
		"rounded":     {cpuUse{busy: 11 * time.Second, all: 104 * time.Second, own: 3 * time.Second}, 0},
		"not known":   {cpuUse{}, 0},
		"at one time": {before, 0},
	} {
		if got := c.now.others(before); got != c.want {
			t.Errorf("%s: others = %v, want %v", name, got, c.want)
		}
	}
	if got := before.others(cpuUse{}); got != 0 {
		t.Errorf("since nobody knows: others = %v, want 0", got)
	}
}

// A harness that is slow says how slow, and one that cannot keep any rate, that.
func TestTheHarnessTriesLowerRates(t *testing.T) {
	for _, most := range []float64{100e3, 5e3, 0} {
		c := &Calibration{}
		run := func(rate float64) (*Result, error) {
			r := &Result{Pacer: &Pacer{}, InTime: 1}
			r.Offered = 1
			if rate > most {
				r.Dropped = 1
			}
			return r, nil
		}
		if err := c.rates(run); err != nil || c.OpenRate != most {
			t.Errorf("of a harness that does %.0f/s: %.0f/s, %v", most, c.OpenRate, err)
		}
	}
}
