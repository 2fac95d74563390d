// SPDX-License-Identifier: Apache-2.0

package report

import (
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench"
)

// Harness is what the bench itself costs on the machine of the run: what it
// measured of a target that does nothing, before the run.
type Harness struct {
	// MaxRate is the highest rate of an open loop that it kept; 0: none.
	MaxRate float64 `json:"max_rate_per_second"`
	// ClosedRate is that of a closed loop with a caller per core.
	ClosedRate float64 `json:"closed_rate_per_second"`
	// What it adds to a latency, at AddedRate.
	AddedRate     float64       `json:"added_rate_per_second"`
	AddedP50      time.Duration `json:"added_p50_ns"`
	AddedP99      time.Duration `json:"added_p99_ns"`
	AddedMax      time.Duration `json:"added_max_ns"`
	CPUPerMillion time.Duration `json:"cpu_per_million_ns"` // calls, at MaxRate
	// Others is the share of the processors, of 1, that other programs used
	// meanwhile.
	Others float64 `json:"others"`
}

// FromCalibration takes over what the bench measured of itself.
func FromCalibration(c *bench.Calibration) *Harness {
	return &Harness{
		MaxRate: c.OpenRate, ClosedRate: c.ClosedRate,
		AddedRate: c.OverheadRate, AddedP50: c.Overhead.P50, AddedP99: c.Overhead.P99, AddedMax: c.Overhead.Max,
		CPUPerMillion: c.CPUPerCall * 1_000_000, Others: c.OtherCPU,
	}
}

// What of the machine others may use, and what the bench may add, before it is
// said that its numbers are not what they could be.
const (
	busy  = 0.1
	added = time.Millisecond // see bench.Pacer.Late
)

// lines say it in one line, and a second one where the machine was busy.
func (h *Harness) lines() []string {
	first := "keeps no schedule at all here, not even of 1,000 calls/s"
	if h.MaxRate > 0 {
		first = "keeps a schedule of up to " + whole(h.MaxRate) + " calls/s"
	}
	first += ", and adds " + duration(h.AddedP50) + " (p50), " + duration(h.AddedP99) + " (p99) to a latency"
	switch {
	case h.Others >= busy:
		return []string{first, "other programs used " + percent(h.Others) + " of the processors meanwhile: this says more of them than of the bench"}
	case h.AddedP99 > added || h.MaxRate == 0:
		return []string{first, "that is much: something on this machine got in its way"}
	}
	return []string{first}
}

// Words says it in a sentence.
func (h *Harness) Words() string { return strings.Join(h.lines(), "; ") }

func (v *validator) harness(h *Harness) {
	v.rate("harness.max_rate_per_second", h.MaxRate)
	v.rate("harness.closed_rate_per_second", h.ClosedRate)
	v.rate("harness.added_rate_per_second", h.AddedRate)
	for _, d := range []time.Duration{h.AddedP50, h.AddedP99, h.AddedMax, h.CPUPerMillion} {
		v.nonNegative("harness", int64(d))
	}
	if !(h.Others >= 0 && h.Others <= 1) {
		v.fail("harness.others", "%v is not between 0 and 1", h.Others)
	}
}
