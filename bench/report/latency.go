// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency is the latency distribution of one kind of answer, from the due times.
type Latency struct {
	Op      string `json:"op,omitempty"`      // check, reserve, progress or settle; empty means all decisions
	Route   string `json:"route,omitempty"`   // empty means all
	Outcome string `json:"outcome,omitempty"` // empty means all
	// ServiceTime says that times are from when the request was sent, not from when it
	// was due.
	ServiceTime bool          `json:"service,omitempty"`
	Count       int64         `json:"count"`
	Min         time.Duration `json:"min_ns"`
	Mean        time.Duration `json:"mean_ns"`
	Max         time.Duration `json:"max_ns"`
	Percentiles []Percentile  `json:"percentiles"`
	// HDR is the histogram in nanoseconds: HdrHistogram V2, compressed, base64.
	HDR string `json:"hdr"`
}

// Percentile is one point of a distribution.
type Percentile struct {
	Percentile float64       `json:"percentile"` // 0 to 100
	Value      time.Duration `json:"value_ns"`
}

// percentiles are the percentiles in a document.
var percentiles = []float64{50, 75, 90, 95, 99, 99.9, 99.99, 100}

// NewLatency converts a histogram of nanoseconds. It keeps no reference to it.
func NewLatency(op, route, outcome string, h *hdrhistogram.Histogram) (Latency, error) {
	encoded, err := h.EncodeV2()
	if err != nil {
		return Latency{}, fmt.Errorf("encode the histogram of %q %q: %w", op, route, err)
	}
	l := Latency{
		Op: op, Route: route, Outcome: outcome,
		Count: h.TotalCount(), Min: time.Duration(h.Min()), Mean: time.Duration(h.Mean()), Max: time.Duration(h.Max()),
		HDR: string(encoded),
	}
	for i, v := range h.ValueAtPercentilesSlice(percentiles) {
		l.Percentiles = append(l.Percentiles, Percentile{percentiles[i], time.Duration(v)})
	}
	return l, nil
}

// Histogram decodes the histogram, in nanoseconds.
func (l *Latency) Histogram() (*hdrhistogram.Histogram, error) {
	if err := checkGeometry(l.HDR); err != nil {
		return nil, fmt.Errorf("hdr: %w", err)
	}
	h, err := hdrhistogram.Decode([]byte(l.HDR))
	if err != nil {
		return nil, fmt.Errorf("hdr: %w", err)
	}
	return h, nil
}

// checkGeometry rejects histograms that would need tens of megabytes of memory, which a
// hundred bytes of input can specify.
func checkGeometry(encoded string) error {
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return err
	}
	if len(raw) < 8 {
		return errors.New("too short")
	}
	z, err := zlib.NewReader(bytes.NewReader(raw[8:]))
	if err != nil {
		return err
	}
	var header [hdrhistogram.ENCODING_HEADER_SIZE]byte
	if _, err := io.ReadFull(z, header[:]); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if digits := binary.BigEndian.Uint32(header[12:]); digits > 4 {
		return fmt.Errorf("must have at most 4 significant digits, got %d", digits)
	}
	return nil
}

// name returns the name of the distribution in tables and legends.
func (l *Latency) name() string {
	name := l.Op
	if name == "" {
		name = "all decisions"
	}
	if l.Route != "" {
		name += ", " + l.Route
	}
	if l.Outcome != "" {
		name += ", " + l.Outcome
	}
	if l.ServiceTime {
		name += ", since sent"
	}
	return name
}

// isTotal reports whether l is of all routes and outcomes, from the due times.
func (l *Latency) isTotal() bool { return l.Route == "" && l.Outcome == "" && !l.ServiceTime }

// settles returns the distribution of settles, or nil if there are none.
func (t *Target) settles() *Latency {
	for i := range t.Latencies {
		if l := &t.Latencies[i]; l.Op == "settle" && l.isTotal() {
			return l
		}
	}
	return nil
}

// refusedOutcome is the outcome of refused calls, which are no answers.
const refusedOutcome = "refused"

// refused returns the distribution of refusals, from when the calls were sent, or nil if
// there are none.
func (t *Target) refused() *Latency {
	var parts []*Latency
	for i := range t.Latencies {
		if l := &t.Latencies[i]; l.Op != "" && l.Outcome == refusedOutcome && l.ServiceTime && l.Route == "" {
			parts = append(parts, l)
		}
	}
	return sumOf(parts)
}

// Overall returns the distribution of all decisions of a target. If the document lacks
// it, that is the sum of checks and reserves. It is nil if there are none.
func (t *Target) Overall() *Latency {
	for i := range t.Latencies {
		if l := &t.Latencies[i]; l.Op == "" && l.isTotal() {
			return l
		}
	}
	var parts []*Latency
	for i := range t.Latencies {
		if l := &t.Latencies[i]; (l.Op == "check" || l.Op == "reserve") && l.isTotal() {
			parts = append(parts, l)
		}
	}
	return sumOf(parts)
}

// sumOf adds distributions. It returns nil if there are none.
func sumOf(parts []*Latency) *Latency {
	if len(parts) < 2 {
		if len(parts) == 1 {
			return parts[0]
		}
		return nil
	}
	sum := hdrhistogram.New(1, int64(time.Hour), 3)
	for _, l := range parts {
		h, err := l.Histogram()
		if err != nil {
			return nil // Validate reports the error
		}
		sum.Merge(h)
	}
	all, err := NewLatency("", "", "", sum)
	if err != nil {
		return nil
	}
	return &all
}

// at returns the value at a percentile of the document, or zero.
func (l *Latency) at(percentile float64) time.Duration {
	if l == nil {
		return 0
	}
	for _, p := range l.Percentiles {
		if p.Percentile == percentile {
			return p.Value
		}
	}
	return 0
}

// WriteHGRM writes a distribution in the text format of HdrHistogram's plotters, in
// milliseconds.
func WriteHGRM(w io.Writer, l *Latency) error {
	h, err := l.Histogram()
	if err != nil {
		return err
	}
	_, err = h.PercentilesPrint(w, 5, float64(time.Millisecond))
	return err
}
