// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"slices"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
)

// Two processes use two cores and half a core beside busy processes from 5 s to 10 s.
func TestStarvation(t *testing.T) {
	s := &measuredTarget{}
	total := &s.totals.total
	total.Duration = 15 * time.Second
	var cpu time.Duration
	server := report.Process{}
	for second := range 15 {
		at := time.Duration(second) * time.Second
		starved := second >= 5 && second < 10
		iv := report.Interval{At: at, Length: time.Second, Counts: report.Counts{Achieved: 3_000}}
		if starved {
			iv.Achieved = 800
		}
		total.Series = append(total.Series, iv)
		sample := report.Sample{At: at, CPU: cpu}
		s.totals.samples, server.Samples = append(s.totals.samples, sample), append(server.Samples, sample)
		if cpu += time.Second; starved {
			cpu -= 750 * time.Millisecond
		}
	}
	s.totals.servers = []report.Process{server}
	total.Marks = []report.Mark{{Kind: "kill"}, {Kind: "busy", Detail: "8 busy processes"}}
	got := s.addStarvation([]local.Fault{{Kind: local.Kill, Node: 1}, {Kind: local.Busy, Processes: 8, At: 5 * time.Second, Duration: 5 * time.Second}})
	want := []string{"8 busy processes: answered 800/s with 0.50 cores, before 3,000/s with 2.00 cores, and afterwards 3,000/s with 2.00 cores"}
	if !slices.Equal(got, want) || total.Marks[1].Detail != want[0] {
		t.Errorf("got %q, want %q", got, want)
	}
	// Without a time before them there is nothing to compare.
	if got := s.addStarvation([]local.Fault{{Kind: local.Busy, Processes: 8, Duration: 5 * time.Second}}); got != nil {
		t.Errorf("got %q, want nothing", got)
	}
}
