// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

// The usage series of a target are small charts side by side, with the same scale of time
// and the limit at the same height.
const (
	coursesPerRow = 3
	courseHeight  = 150.0 // including its texts
	courseGap     = 24.0
	// courseTop is the end of the axis, relative to the limit.
	courseTop = 2.5
	// drawnCourses is how many a page draws. Each takes about 9 KiB.
	drawnCourses = 12
)

// coursesEach returns how many are drawn for each target of a page, in whole rows.
func coursesEach(targets int) int {
	return max(1, drawnCourses/max(targets, 1)/coursesPerRow) * coursesPerRow
}

// coursesChart draws the usage of the busiest limits of a target over time. It returns
// nil if there are no series.
func coursesChart(id string, t *Target, most int) *chart {
	if t.Audit == nil || len(t.Audit.UsageSeries) == 0 {
		return nil
	}
	list := t.Audit.UsageSeries[:min(len(t.Audit.UsageSeries), most)]
	end, highest, fallback := t.Duration, 1.0, false
	for i := range list {
		k := &list[i]
		for _, p := range k.Points {
			end = max(end, p.At+k.Step)
			highest = max(highest, k.share(p.Used), k.share(p.WithFallback))
			fallback = fallback || p.WithFallback > p.Used
		}
	}
	highest = min(highest*1.08, courseTop)
	c := &canvas{width: chartWidth}
	entries := []entry{{"s1", "admitted"}, {"ink", "the limit"}, {"bad", "beyond the limit"}}
	if fallback {
		entries = append(entries, entry{"s2 dashed", "with what fallback admitted"})
	}
	legend := c.legend(0, chartWidth, entries)
	rows := (len(list) + coursesPerRow - 1) / coursesPerRow
	c.height = 16 + legend + float64(rows)*(courseHeight+courseGap)
	width := (float64(chartWidth) - (coursesPerRow-1)*courseGap) / coursesPerRow
	out := &chart{
		id: id, title: "What " + clean(t.Name, 60) + " admitted, and what its busiest limits allow", canvas: c,
		note: "Each picture is one limit of one key. Against the limit counts what the auditor is sure of: of a bucket its level, of a window what was admitted in it, of slots those that were held. " +
			"A line is drawn only where something was admitted.",
		table: table{head: []string{"key", "dimension", "limit", "allowed at once", "most at once", "admitted in all", "calls"}},
	}
	for i := range list {
		k := &list[i]
		x := axis{high: max(end.Seconds(), 1e-9), from: float64(i%coursesPerRow) * (width + courseGap)}
		x.to = x.from + width
		top := 16 + legend + float64(i/coursesPerRow)*(courseHeight+courseGap)
		y := axis{high: highest, from: top + courseHeight - 20, to: top + 36}
		c.course(k, &x, &y, end, t.Marks)
		out.table.rows = append(out.table.rows, []string{
			clean(k.Key, 120), clean(k.Dimension, 60), clean(k.Limit, 60),
			amount.Group(k.Allowed), amount.Group(k.most()), amount.Group(k.Admitted), amount.Group(k.Calls),
		})
		out.description += fmt.Sprintf("%s: at most %s of %s at once. ", k.label(), formatAmount(k.most()), formatAmount(k.Allowed))
	}
	if len(t.Marks) > 0 {
		out.description += "Faults: "
		for i, m := range t.Marks[:min(len(t.Marks), 20)] {
			if i > 0 {
				out.description += ", "
			}
			out.description += m.text() + " at " + formatElapsed(m.At)
		}
		out.description += "."
	}
	out.description = strings.TrimSpace(out.description)
	return out
}

// course draws one small chart.
func (c *canvas) course(k *UsageSeries, x, y *axis, end time.Duration, marks []Mark) {
	c.text("head", "start", x.from, y.to-20, clipTo(k.label(), x.to-x.from))
	value, class := fmt.Sprintf("at most %s of %s", formatAmount(k.most()), formatAmount(k.Allowed)), "tick"
	if beyond := k.most() - k.Allowed; beyond > 0 {
		value, class = value+", "+formatAmount(beyond)+" over", "value bad"
	}
	c.text(class, "start", x.from, y.to-5, value)
	c.line("axis", x.from, y.from, x.to, y.from)
	c.text("tick", "start", x.from, y.from+15, "0 s")
	c.text("tick", "end", x.to, y.from+15, formatElapsed(end))
	level := y.px(1)
	used := k.pieces(x, y, func(p *UsagePoint) (int64, bool) { return p.Used, true })
	c.fill("fill s1", used, y.from)
	c.path("line s1", used)
	c.path("line s2 dashed", k.pieces(x, y, func(p *UsagePoint) (int64, bool) { return p.WithFallback, p.WithFallback > p.Used }))
	for i := range k.Points {
		if p := &k.Points[i]; p.Used > k.Allowed {
			from, to := x.px(p.At.Seconds()), x.px((p.At + k.Step).Seconds())
			// At least a visible height: a single call too many must be seen.
			high := min(y.px(k.share(p.Used)), level-3)
			c.rect("bar bad", from, high, max(to-from, 2), level-high, 0)
		}
	}
	c.line("limit", x.from, level, x.to, level)
	for _, m := range marks[:min(len(marks), 50)] {
		at := x.px(m.At.Seconds())
		c.line("mark", at, y.from, at, y.to)
	}
	for i := range k.Points {
		p := &k.Points[i]
		text := fmt.Sprintf("%s\nused: %s of %s", formatElapsed(p.At), amount.Group(p.Used), amount.Group(k.Allowed))
		if p.WithFallback > p.Used {
			text += "\nwith fallback: " + amount.Group(p.WithFallback)
		}
		from := x.px(p.At.Seconds())
		c.area(from, y.to, max(x.px((p.At+k.Step).Seconds())-from, 1), y.from-y.to, text)
	}
	for _, m := range marks[:min(len(marks), 50)] {
		c.area(x.px(m.At.Seconds())-3, y.to, 6, y.from-y.to, formatElapsed(m.At)+": "+m.text())
	}
}

// pieces returns the parts of a line between gaps; of reports whether a point exists. A
// step ends where the next one begins.
func (k *UsageSeries) pieces(x, y *axis, of func(*UsagePoint) (int64, bool)) (out [][]point) {
	drawn := false
	var last time.Duration
	for i := range k.Points {
		p := &k.Points[i]
		n, ok := of(p)
		if !ok {
			drawn = false
			continue
		}
		if !drawn || p.At-last > 2*k.Step {
			out = append(out, nil)
		}
		drawn, last = true, p.At
		to := p.At + k.Step
		if i+1 < len(k.Points) && k.Points[i+1].At-p.At <= 2*k.Step {
			to = k.Points[i+1].At
		}
		high := y.px(k.share(n))
		piece := &out[len(out)-1]
		*piece = append(*piece, point{x.px(p.At.Seconds()), high}, point{x.px(to.Seconds()), high})
	}
	return out
}

// most returns the highest usage without fallback.
func (k *UsageSeries) most() (n int64) {
	for i := range k.Points {
		n = max(n, k.Points[i].Used)
	}
	return n
}

func (k *UsageSeries) label() string {
	return (&LimitResult{Key: k.Key, Dimension: k.Dimension, Limit: k.Limit}).label()
}

// share returns n relative to the limit, bounded by the end of the axis.
func (k *UsageSeries) share(n int64) float64 {
	return min((&LimitResult{Allowed: k.Allowed}).ratio(n), courseTop)
}
