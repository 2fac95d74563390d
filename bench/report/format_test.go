// SPDX-License-Identifier: Apache-2.0

package report

import (
	"math"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

func TestFormat(t *testing.T) {
	for _, test := range []struct{ got, want string }{
		{formatDuration(0), "0"},
		{formatDuration(999), "999 ns"},
		{formatDuration(142 * time.Microsecond), "142 µs"},
		{formatDuration(999_600), "1.00 ms"},
		{formatDuration(1_834_000), "1.83 ms"},
		{formatDuration(17_640_000), "17.6 ms"},
		{formatDuration(2500 * time.Millisecond), "2.50 s"},
		{formatDuration(2 * time.Hour), "7,200 s"},
		{formatElapsed(0), "0 s"},
		{formatElapsed(1500 * time.Millisecond), "1.5 s"},
		{formatElapsed(90 * time.Second), "90 s"},
		{formatElapsed(5 * time.Minute), "5 min"},
		{formatElapsed(time.Hour + 5*time.Minute), "1 h 5 min"},
		{amount.Group(1234567), "1,234,567"},
		{amount.Group(-1234), "-1,234"},
		{amount.Group(math.MinInt64), "-9,223,372,036,854,775,808"},
		{formatShort(950), "950"},
		{formatShort(54100), "54.1k"},
		{formatShort(999_960), "1M"},
		{formatPercent(0), "0 %"},
		{formatPercent(0.00001), "< 0.01 %"},
		{formatPercent(0.0042), "0.42 %"},
		{formatPercent(0.9999), "> 99.9 %"},
		{formatPercent(1), "100 %"},
		{formatBytes(24 << 30), "24 GiB"},
		{clean("a\x1b[31mb\nc", 20), "a\uFFFD[31mb c"},
		{clean("abcdef", 4), "abc…"},
		{(*Audit)(nil).Summary(), "not audited"},
	} {
		if test.got != test.want {
			t.Errorf("got %q, want %q", test.got, test.want)
		}
	}
}

func TestAxesHoldTheirValues(t *testing.T) {
	label := func(float64) string { return "" }
	for _, highest := range []float64{0, 1e-320, 1e-9, 0.3, 1, 7, 999, 1e6, 9e15, 1e24, math.Inf(1), math.NaN()} {
		for _, base := range []float64{10, 1024} {
			a := linear(highest, 0, 100, base, label)
			if len(a.ticks) < 2 || len(a.ticks) > 14 || finite(highest) && a.high < highest {
				t.Errorf("linear(%v, base %v) ends at %v with %d ticks", highest, base, a.high, len(a.ticks))
			}
		}
		for _, lowest := range []float64{0, 1e-6, 1, 999, 9e15} {
			a := logarithmic(lowest, max(highest, lowest), 0, 100, label)
			if len(a.ticks) < 2 || len(a.ticks) > 60 || !(a.low > 0) || a.high <= a.low {
				t.Errorf("logarithmic(%v, %v) is %v to %v with %d ticks", lowest, highest, a.low, a.high, len(a.ticks))
			}
		}
	}
}

func TestCaptureEnvironment(t *testing.T) {
	e := CaptureEnvironment()
	if e.Cores < 1 || e.Go == "" || e.OS == "" || e.Version == "" {
		t.Errorf("CaptureEnvironment = %+v, want what every system knows", e)
	}
	if got := field([]byte("a: 1\nMemTotal:   24 kB\n"), "MemTotal", ":"); got != "24 kB" {
		t.Errorf("field = %q", got)
	}
}

func TestLongRunsAreDrawnCoarser(t *testing.T) {
	r := noisy(1, 7200, 1, 1000)
	c := throughputChart("x", &r.Targets[0], 0)
	if n := len(c.table.rows); n < 100 || n > maxSteps+1 {
		t.Errorf("%d rows for two hours", n)
	}
	if c.note == "" || c.canvas.b.Len() > 200_000 {
		t.Errorf("note %q, %d bytes", c.note, c.canvas.b.Len())
	}
}
