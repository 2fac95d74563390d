// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency is a latency distribution. It includes failed requests, with the time
// that the caller waited, and leaves out dropped calls. Refused calls are only in those
// with the outcome Refused.
type Latency struct {
	Op      Op      `json:"op,omitzero"`
	Route   string  `json:"route,omitempty"`  // empty means all routes
	Outcome Outcome `json:"outcome,omitzero"` // zero means all outcomes; progress and settle succeed as Allowed
	// ServiceTime says that times are from when the request was sent. Otherwise they
	// are from when it was due.
	ServiceTime bool `json:"service,omitempty"`

	Count int64         `json:"count"`
	Min   time.Duration `json:"min_ns"`
	Mean  time.Duration `json:"mean_ns"`
	P50   time.Duration `json:"p50_ns"`
	P90   time.Duration `json:"p90_ns"`
	P99   time.Duration `json:"p99_ns"`
	P999  time.Duration `json:"p999_ns"`
	Max   time.Duration `json:"max_ns"`
	// HDR is the whole histogram, in nanoseconds, in the HdrHistogram V2 format:
	// compressed and base64-encoded.
	HDR string `json:"hdr"`

	histogram *hdrhistogram.Histogram
}

// Histograms range from 1 ns to an hour, with three significant digits, or two for
// intervals.
const (
	maxLatency     = int64(time.Hour)
	digits         = 3
	intervalDigits = 2
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxLatency, digits) }

// recordValue adds d to h, clamped to the range of h.
func recordValue(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(int64(d), 0), maxLatency)) // fails only out of range
}

// newLatency summarizes h and keeps it.
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

// Histogram returns the whole distribution, in nanoseconds. It is shared and must
// not be changed.
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
