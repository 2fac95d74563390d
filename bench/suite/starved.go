// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
)

// starvation describes what busy processes did to a target: its goodput and the CPU time
// that nodes and bench got, in cores, before the processes, beside them and after them.
// It returns "" if there is nothing to compare.
func starvation(t *report.Target, processes []report.Process, f *local.Fault) string {
	end := f.At + f.Duration
	// The second in which they start or end belongs to neither side.
	before, beside, after := span{0, f.At}, span{f.At + time.Second, end}, span{end + time.Second, t.Duration}
	if before.length() < time.Second || beside.length() < time.Second {
		return ""
	}
	text := fmt.Sprintf("answered %s/s with %.2f cores, before %s/s with %.2f cores",
		formatRate(beside.answered(t)), beside.cores(processes), formatRate(before.answered(t)), before.cores(processes))
	if after.length() >= time.Second {
		text += fmt.Sprintf(", and afterwards %s/s with %.2f cores", formatRate(after.answered(t)), after.cores(processes))
	}
	return text
}

// span is a part of a run.
type span struct{ from, to time.Duration }

func (s span) length() time.Duration { return s.to - s.from }

// answered returns the decisions per second in whole intervals of the span.
func (s span) answered(t *report.Target) float64 {
	var n int64
	var length time.Duration
	for i := range t.Series {
		if iv := &t.Series[i]; iv.At >= s.from && iv.At+iv.Length <= s.to {
			n, length = n+iv.Achieved, length+iv.Length
		}
	}
	if length == 0 {
		return 0
	}
	return float64(n) / length.Seconds()
}

// cores returns the CPU time that processes used in the span, divided by its length.
func (s span) cores(processes []report.Process) float64 {
	sum := 0.0
	for i := range processes {
		var first, last *report.Sample
		for j := range processes[i].Samples {
			sample := &processes[i].Samples[j]
			if sample.At < s.from || sample.At > s.to+100*time.Millisecond { // samples are a little late
				continue
			}
			if first == nil {
				first = sample
			}
			last = sample
		}
		if first != nil && last.At > first.At {
			sum += float64(last.CPU-first.CPU) / float64(last.At-first.At)
		}
	}
	return sum
}

// addStarvation adds what busy processes did to the marks of a run, and returns it.
func (s *measuredTarget) addStarvation(faults []local.Fault) (texts []string) {
	t := &s.totals.total
	processes := append([]report.Process{{Samples: s.totals.samples}}, s.totals.servers...)
	next := 0
	faults = slices.SortedStableFunc(slices.Values(faults), func(a, b local.Fault) int { return cmp.Compare(a.At, b.At) }) // as the marks are
	for i := range faults {
		if faults[i].Kind != local.Busy {
			continue
		}
		for next < len(t.Marks) && t.Marks[next].Kind != string(local.Busy) {
			next++
		}
		if next == len(t.Marks) {
			return texts
		}
		if text := starvation(t, processes, &faults[i]); text != "" {
			t.Marks[next].Detail += ": " + text
			texts = append(texts, t.Marks[next].Detail)
		}
		next++
	}
	return texts
}
