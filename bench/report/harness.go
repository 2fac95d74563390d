// SPDX-License-Identifier: Apache-2.0

package report

import (
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench"
)

// Harness is the cost of the harness on the machine of the run: its measurements of a
// target that does nothing, before the run.
type Harness struct {
	// MaxRate is the highest rate that an open loop sustained; 0 if none.
	MaxRate float64 `json:"max_rate_per_second"`
	// ClosedRate is the rate of a closed loop with one caller per processor.
	ClosedRate float64 `json:"closed_rate_per_second"`
	// The overhead is what the harness adds to latencies, measured at OverheadRate.
	OverheadRate  float64       `json:"added_rate_per_second"`
	OverheadP50   time.Duration `json:"added_p50_ns"`
	OverheadP99   time.Duration `json:"added_p99_ns"`
	OverheadMax   time.Duration `json:"added_max_ns"`
	CPUPerMillion time.Duration `json:"cpu_per_million_ns"` // of calls, at MaxRate
	// OtherCPU is the share (0 to 1) of all processors that other programs used.
	OtherCPU float64 `json:"others"`
}

// NewHarness converts a calibration.
func NewHarness(c *bench.Calibration) *Harness {
	return &Harness{
		MaxRate: c.OpenRate, ClosedRate: c.ClosedRate,
		OverheadRate: c.OverheadRate, OverheadP50: c.Overhead.P50, OverheadP99: c.Overhead.P99, OverheadMax: c.Overhead.Max,
		CPUPerMillion: c.CPUPerCall * 1_000_000, OtherCPU: c.OtherCPU,
	}
}

// Above these values the calibration gets a remark.
const (
	maxOtherCPU = 0.1
	maxOverhead = time.Millisecond // see bench.Pacer.Late
)

// lines returns the summary, and a second line with a remark if there is one.
func (h *Harness) lines() []string {
	first := "sustains no schedule on this machine, not even 1,000 calls/s"
	if h.MaxRate > 0 {
		first = "sustains up to " + formatWhole(h.MaxRate) + " calls/s"
	}
	first += ", and adds " + formatDuration(h.OverheadP50) + " (p50), " + formatDuration(h.OverheadP99) + " (p99) to a latency"
	switch {
	case h.OtherCPU >= maxOtherCPU:
		return []string{first, "other programs used " + formatPercent(h.OtherCPU) + " of the processors during the calibration, which limits these values"}
	case h.OverheadP99 > maxOverhead || h.MaxRate == 0:
		return []string{first, "this is a large overhead: other load on this machine interfered"}
	}
	return []string{first}
}

// Summary returns the calibration as a sentence.
func (h *Harness) Summary() string { return strings.Join(h.lines(), "; ") }

func (v *validator) harness(h *Harness) {
	v.rate("harness.max_rate_per_second", h.MaxRate)
	v.rate("harness.closed_rate_per_second", h.ClosedRate)
	v.rate("harness.added_rate_per_second", h.OverheadRate)
	for _, d := range []time.Duration{h.OverheadP50, h.OverheadP99, h.OverheadMax, h.CPUPerMillion} {
		v.nonNegative("harness", int64(d))
	}
	if !(h.OtherCPU >= 0 && h.OtherCPU <= 1) {
		v.fail("harness.others", "must be 0 to 1, got %v", h.OtherCPU)
	}
}
