// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
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
		c, err := calibrate(t.Context(), 40*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("open loop %.0f/s at %v of CPU per call, closed loop %.0f/s, added p50 %v p99 %v, lateness p50 %v p99 %v",
			c.OpenRate, c.CPUPerCall, c.ClosedRate, c.Added.P50, c.Added.P99, c.Lateness.P50, c.Lateness.P99)
		if c.ClosedRate > 0 && c.Added.Count == 400 && c.Lateness.Count == 400 && c.Added.P50 >= c.Lateness.P50 {
			return
		}
	}
	t.Error("nothing was measured")
}

func TestACalibrationCanBeCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Calibrate(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want %v", err, context.Canceled)
	}
}
