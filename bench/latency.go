// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency is the distribution of one kind of answer. Failures are in it, with
// the time that their callers waited; calls that were dropped are not.
type Latency struct {
	Op      Op      `json:"op,omitzero"`
	Route   string  `json:"route,omitempty"`  // empty: all
	Outcome Outcome `json:"outcome,omitzero"` // 0: all; a progress or settle that was taken is allowed
	// Service: since the question was really sent, instead of since it was due.
	Service bool `json:"service,omitempty"`

	Count int64         `json:"count"`
	Min   time.Duration `json:"min_ns"`
	Mean  time.Duration `json:"mean_ns"`
	P50   time.Duration `json:"p50_ns"`
	P90   time.Duration `json:"p90_ns"`
	P99   time.Duration `json:"p99_ns"`
	P999  time.Duration `json:"p999_ns"`
	Max   time.Duration `json:"max_ns"`
	// HDR is the whole histogram, in nanoseconds: HdrHistogram V2, compressed,
	// base64.
	HDR string `json:"hdr"`

	histogram *hdrhistogram.Histogram
}

// Histograms go from a nanosecond to an hour with three digits, those of short
// intervals with two.
const (
	highest        = int64(time.Hour)
	digits         = 3
	intervalDigits = 2
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, highest, digits) }

// recordIn adds a time to h; what is beyond its ends counts as the end.
func recordIn(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(int64(d), 0), highest)) // it fails beyond the ends only
}

// newLatency describes h and keeps it.
func newLatency(h *hdrhistogram.Histogram) (Latency, error) {
	encoded, err := h.EncodeV2()
	if err != nil {
		return Latency{}, fmt.Errorf("bench: encode a histogram: %w", err)
	}
	v := h.ValueAtPercentilesSlice([]float64{50, 90, 99, 99.9})
	return Latency{
		Count: h.TotalCount(),
		Min:   time.Duration(h.Min()), Mean: time.Duration(h.Mean()),
		P50: time.Duration(v[0]), P90: time.Duration(v[1]), P99: time.Duration(v[2]), P999: time.Duration(v[3]),
		Max:       time.Duration(h.Max()),
		HDR:       string(encoded),
		histogram: h,
	}, nil
}

// Histogram returns the whole distribution, in nanoseconds. It is shared and
// must not be changed.
func (l *Latency) Histogram() (*hdrhistogram.Histogram, error) {
	if l.histogram != nil {
		return l.histogram, nil
	}
	h, err := hdrhistogram.Decode([]byte(l.HDR))
	if err != nil {
		return nil, fmt.Errorf("bench: histogram: %w", err)
	}
	return h, nil
}
