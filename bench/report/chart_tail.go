// SPDX-License-Identifier: Apache-2.0

package report

import "time"

// tailChart draws p99 of every target over time, and also p50 if there is only one target.
func tailChart(r *Run) *chart {
	tl := timeline{
		spansStep: true,
		id:        "tail", title: "p99 over time", yTitle: "latency (log)", log: true, base: 10,
		label: func(v float64) string { return tickDuration(v) },
		merge: highestOf,
		note:  "Of the answers to calls that were due in each interval.",
	}
	line := func(name, class string, t *Target, of func(*Interval) time.Duration) {
		tr := track{name: name, class: class}
		for i := range t.Series {
			if d := of(&t.Series[i]); d > 0 {
				tr.moments = append(tr.moments, moment{t.Series[i].At, float64(d)})
			}
		}
		if len(tr.moments) > 0 && len(tl.tracks) < maxSeries {
			tl.tracks = append(tl.tracks, tr)
		}
	}
	p50 := func(i *Interval) time.Duration { return i.P50 }
	p99 := func(i *Interval) time.Duration { return i.P99 }
	for i := range r.Targets {
		t := &r.Targets[i]
		tl.end = max(tl.end, t.Duration)
		if len(t.Series) > 0 {
			tl.step = max(tl.step, t.Series[0].Length)
		}
		if len(r.Targets) == 1 {
			line("p99", "s1", t, p99)
			line("p50", "s3", t, p50)
			tl.marks = t.Marks
			continue
		}
		line(clean(t.Name, 40), seriesClass(i), t, p99)
	}
	return tl.chart()
}
