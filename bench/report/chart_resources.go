// SPDX-License-Identifier: Apache-2.0

package report

import (
	"slices"
	"time"
)

// cpuChart draws the CPU time per decision, of the servers and of the harness. It
// returns nil if it is unknown.
func cpuChart(r *Run) *chart {
	out := &chart{
		id: "cpu", title: "CPU time per decision",
		note:  "User and system time. Servers on other machines are not seen from here.",
		table: table{head: []string{"target", "process", "CPU time", "CPU per decision", "peak memory"}},
	}
	type row struct {
		label, class string
		value        time.Duration
	}
	var rows []row
	most := time.Duration(0)
	for i := range r.Targets {
		t := &r.Targets[i]
		res := t.Resources
		if res == nil {
			continue
		}
		name := clean(t.Name, 30)
		if res.ServerCPUPerMillion > 0 {
			rows = append(rows, row{name + ", servers", "s1", res.ServerCPUPerMillion / 1e6})
		}
		if res.ClientCPUPerMillion > 0 {
			rows = append(rows, row{name + ", the bench", "s2", res.ClientCPUPerMillion / 1e6})
		}
		for _, p := range append([]Process{named(res.Client, "the bench")}, res.Servers...) {
			perDecision := "-"
			if t.Completed > 0 {
				perDecision = formatDuration(nanoseconds(float64(p.CPU) / float64(t.Completed)))
			}
			out.table.rows = append(out.table.rows, []string{name, clean(p.Name, 40), formatDuration(p.CPU), perDecision, formatBytes(float64(p.PeakRSS))})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	const rowHeight, left, right = 30, 240, 110
	c := &canvas{width: chartWidth, height: 34 + rowHeight*float64(len(rows)) + 8}
	for _, r := range rows {
		most = max(most, r.value)
	}
	x := linear(float64(most), left, chartWidth-right, 10, func(v float64) string { return tickDuration(v) })
	for _, t := range x.ticks {
		at := x.px(t.at)
		c.line("grid", at, 24, at, c.height-8)
		c.text("tick", "middle", at, 16, t.label)
	}
	for i, r := range rows {
		y := 28 + rowHeight*float64(i)
		c.text("label", "end", left-10, y+19, clipTo(r.label, left-14))
		c.rect("bar "+r.class, left, y+5, max(x.px(float64(r.value))-left, 2), rowHeight-10, 2)
		c.text("value", "start", x.px(float64(r.value))+8, y+19, formatDuration(r.value))
		out.description += r.label + ": " + formatDuration(r.value) + ". "
	}
	out.canvas = c
	return out
}

// memoryChart draws the resident memory of a target's processes over time, and coresChart
// the number of cores that they used.
func memoryChart(id string, t *Target) *chart {
	return processChart(timeline{
		id: id, title: "Memory of " + clean(t.Name, 60), yTitle: "resident", base: 1024,
		label: func(v float64) string { return formatBytes(v) }, merge: highestOf,
	}, t, func(_, s *Sample) (float64, bool) { return float64(s.RSS), true })
}

func coresChart(id string, t *Target) *chart {
	return processChart(timeline{
		id: id, title: "Cores used by " + clean(t.Name, 60), yTitle: "busy cores", base: 10,
		label: func(v float64) string { return trimZeros(threeDigits(v)) }, merge: average,
	}, t, func(before, s *Sample) (float64, bool) {
		if before == nil || s.At <= before.At {
			return 0, false
		}
		// A restarted process counts from zero.
		return float64(max(s.CPU-before.CPU, 0)) / float64(s.At-before.At), true
	})
}

func processChart(tl timeline, t *Target, of func(before, s *Sample) (float64, bool)) *chart {
	if t.Resources == nil {
		return nil
	}
	tl.end, tl.marks = t.Duration, t.Marks
	for i, p := range append(slices.Clone(t.Resources.Servers), named(t.Resources.Client, "the bench")) {
		tr := track{name: clean(p.Name, 40), class: seriesClass(i)}
		var before *Sample
		for j := range p.Samples {
			s := &p.Samples[j]
			if v, ok := of(before, s); ok {
				tr.moments = append(tr.moments, moment{s.At, v})
			}
			if before != nil && tl.step == 0 {
				tl.step = s.At - before.At
			}
			before = s
		}
		if len(tr.moments) > 0 && len(tl.tracks) < maxSeries {
			tl.tracks = append(tl.tracks, tr)
		}
	}
	return tl.chart()
}

func named(p Process, name string) Process {
	if p.Name == "" {
		p.Name = name
	}
	return p
}
