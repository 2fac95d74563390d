// SPDX-License-Identifier: Apache-2.0

package report

// throughputChart draws the offered load of a target and its outcomes over time. highest is
// the minimum end of the axis, to make charts comparable.
func throughputChart(id string, t *Target, highest float64) *chart {
	kinds := []struct {
		name, class string
		filled      bool
		of          func(*Interval) int64
		always      bool
	}{
		{"achieved", "s1", true, func(i *Interval) int64 { return i.Achieved }, true},
		{"offered", "ink dashed", false, func(i *Interval) int64 { return i.Offered }, true},
		{"denied", "s2", false, func(i *Interval) int64 { return i.Denied }, true},
		{"degraded", "s5", false, func(i *Interval) int64 { return i.Degraded }, false},
		{"refused", "s4", false, func(i *Interval) int64 { return i.Refused }, false},
		{"failed", "bad", false, func(i *Interval) int64 { return i.Failed }, false},
		{"dropped", "bad dashed", false, func(i *Interval) int64 { return i.Dropped }, false},
	}
	tl := timeline{
		spansStep: true,
		id:        id, title: "Throughput of " + clean(t.Name, 60), yTitle: "per second",
		note:  "Offered is what the schedule asked for; achieved is what got a decision, denials included.",
		label: func(v float64) string { return formatShort(v) }, base: 10, highest: highest,
		marks: t.Marks, end: t.Duration, merge: average,
	}
	if len(t.Series) > 0 {
		tl.step = t.Series[0].Length
	}
	for _, k := range kinds {
		tr := track{name: k.name, class: k.class, filled: k.filled}
		any := k.always
		for i := range t.Series {
			n := k.of(&t.Series[i])
			any = any || n > 0
			tr.moments = append(tr.moments, moment{t.Series[i].At, perSecond(n, t.Series[i].Length)})
		}
		if any {
			tl.tracks = append(tl.tracks, tr)
		}
	}
	return tl.chart()
}

// highestRate returns the highest value of all throughput charts of a run.
func highestRate(r *Run) float64 {
	highest := 0.0
	for i := range r.Targets {
		for j := range r.Targets[i].Series {
			s := &r.Targets[i].Series[j]
			highest = max(highest, perSecond(max(s.Offered, s.Achieved), s.Length))
		}
	}
	return highest
}
