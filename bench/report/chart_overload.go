// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"slices"

	"github.com/bucketring/bucketring/internal/amount"
)

// overloadChart draws goodput against the offered load, with the capacity of each target,
// and the peak and the least goodput of the first. It returns nil if there are no steps.
func overloadChart(r *Run) *chart {
	out := &chart{
		id: "overload", title: "Goodput under overload",
		note: "Goodput is what was answered in time. The dot with a ring is the knee: the highest rate at which 99 % of the calls were answered in time. " +
			"The dashed line is the offered load itself. The harness runs beside the target, so what it needs for a load is not left for the target. " +
			"The hollow dots are controls: the same load, of which only the peak is sent to the target and the harness refuses the rest.",
		table: table{head: []string{"", "load", "offered/s", "sent/s", "answered/s", "of the peak", "p50", "p99", "p99 since sent", "refused", "p50 of refusals", "p99 of refusals", "failed", "back to normal", "CPU, servers", "CPU, bench", "control/s", "of the control", "cores, bench and servers", "in the control", "bare refusals/s", "p99 of bare refusals"}},
	}
	var shown []*Target
	lowest, highest, top := math.Inf(1), 0.0, 0.0
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Overload == nil || len(t.Overload.Steps) == 0 || len(shown) == maxSeries {
			continue
		}
		shown = append(shown, t)
		for j := range t.Overload.Steps {
			s := &t.Overload.Steps[j]
			if s.Offered > 0 {
				lowest, highest = min(lowest, s.Offered), max(highest, s.Offered)
			}
			top = max(top, s.Answered)
			if s.Control != nil {
				top = max(top, s.Control.Answered)
			}
		}
		if c := t.Overload.Capacity; c > 0 {
			lowest, highest, top = min(lowest, c), max(highest, c), max(top, c)
		}
	}
	if len(shown) == 0 {
		return nil
	}
	const height = 400
	c := &canvas{width: chartWidth}
	entries := make([]entry, 0, len(shown)+1)
	for i, t := range shown {
		entries = append(entries, entry{seriesClass(i), clean(t.Name, 40)})
	}
	legend := c.legend(marginLeft, chartWidth-marginLeft, append(entries, entry{"ink dashed", "offered"}))
	c.height = height + legend
	x := logarithmic(lowest, highest, marginLeft, chartWidth-marginRight, formatShort)
	y := linear(top, c.height-48, 16+legend+20, 10, formatShort)
	c.grid(&x, &y, "offered per second (log)", "answered per second")
	c.path("line ink dashed", [][]point{offeredLine(&x, &y)})
	first := shown[0].Overload
	for _, l := range []struct {
		name  string
		value float64
	}{{"peak", first.Peak()}, {formatPercent(MinGoodput) + " of the peak", MinGoodput * first.Peak()}} {
		c.line("mark", x.from, y.px(l.value), x.to, y.px(l.value))
		c.text("marked", "start", x.from+6, y.px(l.value)-4, l.name)
	}
	for i, t := range slices.Backward(shown) { // the first target is drawn last, on top
		drawOverload(c, &x, &y, seriesClass(i), t)
	}
	for _, t := range shown {
		out.table.rows = append(out.table.rows, overloadRows(t)...)
		out.description += clean(t.Name, 40) + ": capacity " + formatRate(t.Overload.Capacity) + " calls per second; "
		for j := range t.Overload.Steps {
			s := &t.Overload.Steps[j]
			out.description += fmt.Sprintf("%s answers of %s offered, ", formatRate(s.Answered), formatRate(s.Offered))
		}
		out.description += t.Overload.Summary() + ". "
	}
	out.canvas = c
	return out
}

// offeredLine is the line on which everything is answered, up to the end of an axis. It is
// curved, since only one axis is logarithmic.
func offeredLine(x, y *axis) []point {
	const pieces = 64
	end := min(x.high, y.high)
	var line []point
	for i := range pieces + 1 {
		v := x.low * math.Pow(end/x.low, float64(i)/pieces)
		if v < x.low || v > end*1.0001 {
			continue
		}
		line = append(line, point{x.px(v), y.px(v)})
	}
	return line
}

// drawOverload draws the line of a target and its knee.
func drawOverload(c *canvas, x, y *axis, class string, t *Target) {
	o := t.Overload
	line := make([]point, 0, len(o.Steps))
	for i := range o.Steps {
		line = append(line, point{x.px(o.Steps[i].Offered), y.px(o.Steps[i].Answered)})
	}
	c.path("line "+class, [][]point{line})
	for i, p := range line {
		s := &o.Steps[i]
		c.circle("dot "+class, p.x, p.y, 4, fmt.Sprintf("%s at %s\noffered %s/s, answered %s/s\np99 %s, refused %s",
			clean(t.Name, 40), s.load(), formatRate(s.Offered), formatRate(s.Answered), formatDuration(s.P99),
			formatPercent(share(s.Calls.Refused, s.due()))))
		if s.Control != nil {
			c.circle("line "+class, p.x, y.px(s.Control.Answered), 4, fmt.Sprintf("%s, control at %s\nanswered %s/s of %s/s that were sent to it",
				clean(t.Name, 40), s.load(), formatRate(s.Control.Answered), formatRate(s.Control.ToTarget)))
		}
	}
	if o.Capacity > 0 {
		at := point{x.px(o.Capacity), y.px(o.Capacity)}
		c.circle("line "+class, at.x, at.y, 9, "the knee of "+clean(t.Name, 40)+": "+formatRate(o.Capacity)+" calls/s")
		c.text("value", "middle", at.x, at.y-16, formatShort(o.Capacity))
	}
}

// overloadRows has all numbers of a target.
func overloadRows(t *Target) [][]string {
	peak := t.Overload.Peak()
	var rows [][]string
	for i := range t.Overload.Steps {
		s := &t.Overload.Steps[i]
		rows = append(rows, append(append([]string{
			clean(t.Name, 40), s.load(), formatRate(s.Offered), formatRate(s.Sent), formatRate(s.Answered), formatPercent(ratio(s.Answered, peak)),
			formatDuration(s.P50), formatDuration(s.P99), formatDuration(s.SentP99),
			amount.Group(s.Calls.Refused), formatDuration(s.RefusedP50), formatDuration(s.RefusedP99),
			amount.Group(s.failed()), s.recovery(), formatDuration(s.ServersCPU), formatDuration(s.ClientCPU),
		}, s.control()...), s.bare()...))
	}
	return rows
}
