// SPDX-License-Identifier: Apache-2.0

package report

import (
	"strings"
	"testing"
	"time"
)

func TestHarnessSummary(t *testing.T) {
	quiet := Harness{MaxRate: 300_000, OverheadP50: 60 * time.Microsecond, OverheadP99: 200 * time.Microsecond, OtherCPU: 0.02}
	for name, c := range map[string]struct {
		change func(*Harness)
		want   string
	}{
		"quiet":    {func(*Harness) {}, "sustains up to 300,000 calls/s, and adds 60.0 µs (p50), 200 µs (p99) to a latency"},
		"busy":     {func(h *Harness) { h.OtherCPU = 0.35 }, "; other programs used 35 % of the processors during the calibration, which limits these values"},
		"slow":     {func(h *Harness) { h.OverheadP99 = 3 * time.Millisecond }, "; this is a large overhead: other load on this machine interfered"},
		"hopeless": {func(h *Harness) { h.MaxRate = 0 }, "sustains no schedule on this machine, not even 1,000 calls/s, and adds"},
	} {
		h := quiet
		c.change(&h)
		if got := h.Summary(); !strings.Contains(got, c.want) || name == "quiet" && got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestHarnessIsValidated(t *testing.T) {
	for want, change := range map[string]func(*Harness){
		"harness.max_rate_per_second":        func(h *Harness) { h.MaxRate = -1 },
		"harness.others":                     func(h *Harness) { h.OtherCPU = 2 },
		"harness: must be 0 to 2^53, got -1": func(h *Harness) { h.OverheadP99 = -1 },
	} {
		r := faultRun(t)
		change(r.Harness)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v, want %s", err, want)
		}
	}
}
