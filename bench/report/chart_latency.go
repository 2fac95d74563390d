// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

// curve is one line of the latency chart.
type curve struct {
	name    string
	latency *Latency
	points  []bracket
}

// bracket is a point of a distribution: a share of answers took at most value.
type bracket struct {
	inverse float64 // 1/(1-share)
	value   float64 // ns
}

// newCurve returns false for distributions without answers.
func newCurve(name string, l *Latency) (curve, bool) {
	if l == nil || l.Count == 0 {
		return curve{}, false
	}
	h, err := l.Histogram()
	if err != nil {
		return curve{}, false // Validate reports the error
	}
	c := curve{name: name, latency: l}
	// The percentile of the slowest answer is at 1/(1-p) = count, where the line ends.
	last := max(float64(l.Count), 1)
	var at []float64
	for i := 0; ; i++ {
		inverse := math.Pow(10, float64(i)/40)
		if inverse >= last {
			break
		}
		c.points = append(c.points, bracket{inverse: inverse})
		at = append(at, 100*(1-1/inverse))
	}
	c.points = append(c.points, bracket{inverse: last})
	for i, v := range h.ValueAtPercentilesSlice(append(at, 100)) {
		c.points[i].value = max(float64(v), 1)
	}
	return c, true
}

// quick returns the start of the axis, the first percentile. The minimum is not
// meaningful and would take most of the room.
func (c *curve) quick() float64 {
	for _, p := range c.points {
		if p.inverse >= 1.01 {
			return p.value
		}
	}
	return c.points[len(c.points)-1].value
}

// overallCurves has one line per target.
func overallCurves(r *Run) []curve {
	var out []curve
	for i := range r.Targets {
		if c, ok := newCurve(clean(r.Targets[i].Name, 40), r.Targets[i].Overall()); ok && len(out) < maxSeries {
			out = append(out, c)
		}
	}
	return out
}

// partCurves has one line per operation, route and outcome of a target.
func partCurves(t *Target) []curve {
	var out []curve
	for i := range t.Latencies {
		l := &t.Latencies[i]
		if l.Op == "" && l.isTotal() || l.ServiceTime || l.Outcome != "" {
			continue // the total has its own chart, the others are in the table
		}
		if c, ok := newCurve(clean(l.name(), 40), l); ok && len(out) < maxSeries {
			out = append(out, c)
		}
	}
	return out
}

// latencyChart draws latency by percentile: the axis of percentiles is
// logarithmic in 1/(1-p), as HdrHistogram's plots are, so that the tail has as
// much room as the rest. It returns nil if there is nothing to draw.
func latencyChart(id, title string, curves []curve) *chart {
	if len(curves) == 0 {
		return nil
	}
	lowest, highest, most := math.Inf(1), 0.0, 10.0
	for _, c := range curves {
		lowest = min(lowest, c.quick())
		highest = max(highest, c.points[len(c.points)-1].value)
		most = max(most, c.points[len(c.points)-1].inverse)
	}
	const height = 420
	c := &canvas{width: chartWidth, height: height}
	entries := make([]entry, len(curves))
	for i := range curves {
		entries[i] = entry{seriesClass(i), curves[i].name}
	}
	legend := c.legend(marginLeft, chartWidth-marginLeft, entries)
	top := 16 + legend + 20
	c.height = height + legend

	x := axis{log: true, low: 1, high: most, from: marginLeft, to: chartWidth - marginRight}
	x.ticks = []tick{{1, "0"}, {2, "50 %"}}
	for nines := 1; ; nines++ {
		inverse := math.Pow(10, float64(nines))
		if inverse > most*1.001 {
			break
		}
		x.ticks = append(x.ticks, tick{inverse, percentileName(nines)})
	}
	y := logarithmic(lowest, highest, c.height-48, top, func(v float64) string { return tickDuration(v) })
	c.grid(&x, &y, "percentile", "latency from the intended send time (log)")
	for i, k := range slices.Backward(curves) { // the first curve is drawn last, on top
		line := make([]point, 0, len(k.points))
		for _, p := range k.points {
			line = append(line, point{x.px(p.inverse), y.px(p.value)})
		}
		c.path("line "+seriesClass(i), [][]point{line})
	}
	out := &chart{
		id: id, title: title, canvas: c,
		note: "Latency runs from the time at which a call was due, so a stall counts for every call that it kept waiting.",
	}
	out.table.head = latencyHead
	for i := range curves {
		l := curves[i].latency
		out.table.rows = append(out.table.rows, l.row(curves[i].name))
		// One dot with a tooltip per common percentile.
		for _, p := range []float64{50, 90, 99, 99.9, 99.99} {
			if inverse := 1 / (1 - p/100); inverse <= curves[i].points[len(curves[i].points)-1].inverse*1.001 && l.at(p) > 0 {
				c.circle("dot "+seriesClass(i), x.px(inverse), y.px(float64(l.at(p))), 3.5,
					fmt.Sprintf("%s: p%s %s", curves[i].name, strconv.FormatFloat(p, 'f', -1, 64), formatDuration(l.at(p))))
			}
		}
	}
	out.description = describeLatency(curves)
	return out
}

var latencyHead = []string{"", "answers", "min", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"}

func (l *Latency) row(name string) []string {
	row := []string{name, amount.Group(l.Count), formatDuration(l.Min), formatDuration(l.Mean)}
	for _, p := range []float64{50, 90, 99, 99.9, 99.99} {
		row = append(row, formatDuration(l.at(p)))
	}
	return append(row, formatDuration(l.Max))
}

// partsChart draws the operations and routes of a target. Its table also has the outcomes
// and service times. It returns nil if there is only the overall distribution.
func partsChart(id, title string, t *Target) *chart {
	curves := partCurves(t)
	if len(curves) < 2 {
		return nil
	}
	c := latencyChart(id, title, curves)
	c.table.rows = nil
	for i := range t.Latencies {
		l := &t.Latencies[i]
		c.table.rows = append(c.table.rows, l.row(clean(l.name(), 60)))
	}
	return c
}

func describeLatency(curves []curve) string {
	var out []string
	for _, c := range curves {
		out = append(out, fmt.Sprintf("%s: p50 %s, p99 %s, p99.9 %s, max %s.", c.name,
			formatDuration(c.latency.at(50)), formatDuration(c.latency.at(99)), formatDuration(c.latency.at(99.9)), formatDuration(c.latency.Max)))
	}
	return strings.Join(out, " ")
}

// percentileName returns 90 %, 99 %, 99.9 % and so on.
func percentileName(nines int) string {
	switch nines {
	case 1:
		return "90 %"
	case 2:
		return "99 %"
	}
	return "99." + "99999999999999999999"[:min(nines-2, 20)] + " %"
}

// tickDuration formats durations of ticks without trailing zeros.
func tickDuration(ns float64) string {
	if ns <= 0 {
		return "0"
	}
	for _, u := range []struct {
		unit float64
		name string
	}{{float64(time.Second), "s"}, {float64(time.Millisecond), "ms"}, {float64(time.Microsecond), "µs"}} {
		if ns >= u.unit*0.999 {
			return trimZeros(threeDigits(ns/u.unit)) + " " + u.name
		}
	}
	return trimZeros(threeDigits(ns)) + " ns"
}
