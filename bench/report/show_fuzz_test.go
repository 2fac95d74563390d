// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// numbers gives the numbers of a fuzzed input, and zeros at its end.
type numbers struct{ data []byte }

// next returns a number from zero to the most that a document may hold, of any
// magnitude.
func (n *numbers) next() int64 {
	var b [8]byte
	shift := uint(0)
	if len(n.data) > 0 {
		shift = uint(n.data[0] % 54)
		n.data = n.data[1+copy(b[:], n.data[1:]):]
	}
	return int64(binary.LittleEndian.Uint64(b[:]) % (1<<53 + 1) >> shift)
}

func (n *numbers) duration() time.Duration { return time.Duration(n.next()) }

func (n *numbers) counts() Counts {
	return Counts{n.next(), n.next(), n.next(), n.next(), n.next(), n.next(), n.next()}
}

// overload returns nil at the end of the input.
func (n *numbers) overload() *Overload {
	steps := n.next() % 6
	if steps == 0 {
		return nil
	}
	o := &Overload{Capacity: float64(n.next())}
	for i := range steps {
		o.Steps = append(o.Steps, OverloadStep{
			Times: float64(i + 1), Offered: float64(n.next()), Sent: float64(n.next()), Answered: float64(n.next()), Calls: n.counts(),
			P50: n.duration(), P99: n.duration(), RefusedP99: n.duration(), LateP99: n.duration(), Missed: n.next(), Watched: n.duration(), Recovery: n.duration() - 1,
			Control: &OverloadControl{ToTarget: float64(n.next()), Sent: float64(n.next()), Answered: float64(n.next()), ClientCPU: n.duration()},
			Bare:    &OverloadBare{Refused: float64(n.next()), P99: n.duration()},
		})
	}
	return o
}

func (n *numbers) target(name string) Target {
	t := Target{Name: name, Duration: n.duration(), Counts: n.counts(), Completed: n.next()}
	h := hdrhistogram.New(1, 1<<52, 2)
	for range n.next() % 5 {
		_ = h.RecordValues(n.next(), n.next()/8)
	}
	if l, err := NewLatency("", "", "", h); err == nil && l.Count <= maxValue {
		t.Latencies = append(t.Latencies, l)
	}
	at := time.Duration(0)
	for range n.next() % 30 {
		iv := Interval{At: at + n.duration()/64, Length: 1 + n.duration()/64, Counts: n.counts(), P50: n.duration(), P99: n.duration()}
		t.Series = append(t.Series, iv)
		at = iv.At + iv.Length
	}
	for range n.next() % 4 {
		t.Marks = append(t.Marks, Mark{n.duration(), "kill", "node"})
		t.Errors = append(t.Errors, ErrorCount{"e", n.next()})
	}
	t.Audit = &Audit{Verdict: Violated, OverAdmitted: n.next(), Margin: n.duration()}
	for range n.next() % 4 {
		t.Audit.Worst = append(t.Audit.Worst, LimitResult{"k", "d", "l", n.next(), n.next(), n.next(), n.next(), n.next()})
	}
	for range n.next() % 5 {
		k := UsageSeries{Key: "k", Dimension: "d", Allowed: n.next(), Calls: n.next(), Admitted: n.next(), Step: 1 + n.duration()/64}
		at = 0
		for range n.next() % 20 {
			used := n.next() / 2
			k.Points = append(k.Points, UsagePoint{at + n.duration()/64, used, used + n.next()/2})
			at = k.Points[len(k.Points)-1].At + k.Step
		}
		t.Audit.UsageSeries = append(t.Audit.UsageSeries, k)
	}
	t.Overload = n.overload()
	p := Process{CPU: n.duration(), PeakRSS: n.next()}
	at = 0
	for range n.next() % 9 {
		at += n.duration() / 16
		p.Samples = append(p.Samples, Sample{at, n.duration(), n.next()})
	}
	t.Resources = &Resources{Client: p, Servers: []Process{p}, ServerCPUPerMillion: n.duration(), ClientCPUPerMillion: n.duration()}
	return t
}

// FuzzShow: whatever numbers a valid run has, it can be shown, the pictures are
// well-formed, and no number is missing.
func FuzzShow(f *testing.F) {
	f.Add([]byte{}, []byte{1, 2, 3})
	f.Add(bytes.Repeat([]byte{0xff}, 900), bytes.Repeat([]byte{0, 1}, 700))
	f.Add(bytes.Repeat([]byte{50, 9, 200}, 300), bytes.Repeat([]byte{20, 1, 77}, 200))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		n := &numbers{two}
		r := &Run{FormatVersion: FormatVersion, Targets: []Target{(&numbers{one}).target("a"), n.target("b")}, Pairing: &Pairing{Baseline: "a"}}
		for range n.next() % 8 {
			r.Pairing.Rounds = append(r.Pairing.Rounds, Round{[]Turn{
				{"a", float64(n.next()), n.duration(), n.duration(), n.duration()},
				{"b", float64(n.next()), n.duration(), n.duration(), n.duration()},
			}})
		}
		if r.Validate() != nil {
			t.Skip()
		}
		var b bytes.Buffer
		if err := WriteHTML(&b, r); err != nil {
			t.Fatalf("HTML: %v", err)
		}
		for _, kind := range []Picture{LatencyPicture, AdmittedPicture, OverloadPicture} {
			var svg bytes.Buffer
			if err := SVG(&svg, r, kind); err == nil {
				wellFormed(t, svg.String())
			}
		}
		if err := WriteSummary(&b, r, TextOptions{}); err != nil {
			t.Fatalf("Summary: %v", err)
		}
		c, err := Compare(r, r, CompareOptions{FailOver: 1, Resamples: 100})
		if err != nil || len(c.Regressions) > 0 {
			t.Fatalf("Compare with itself: %v, %v", c, err)
		}
		if err := c.WriteJSON(&b); err != nil {
			t.Fatalf("WriteJSON: %v", err)
		}
		for _, bad := range []string{"NaN", "-9,223,372", "9,223,372,036,854,775,807"} {
			if i := strings.Index(b.String(), bad); i >= 0 {
				t.Fatalf("%s in the output: …%s…", bad, b.String()[max(0, i-200):min(b.Len(), i+100)])
			}
		}
		live := NewLive(io.Discard, LiveOptions{Terminal: true, Total: r.Targets[0].Duration})
		for _, iv := range r.Targets[0].Series {
			live.Update(iv)
		}
		live.Close()
		if err := c.WriteText(io.Discard, TextOptions{}); err != nil {
			t.Fatalf("WriteText: %v", err)
		}
	})
}
