// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"strconv"

	"github.com/bucketring/bucketring/internal/amount"
)

// maxLimits is how many limits of a target are drawn. The document and the table have
// more.
const maxLimits = 10

// auditGroup has the limits of one target.
type auditGroup struct {
	name  string
	audit *Audit
}

// auditGroups returns the targets that were audited.
func auditGroups(r *Run) []auditGroup {
	var out []auditGroup
	for i := range r.Targets {
		if a := r.Targets[i].Audit; a != nil && a.Verdict != NotAudited {
			out = append(out, auditGroup{clean(r.Targets[i].Name, 40), a})
		}
	}
	return out
}

// auditChart draws what was admitted relative to what the limits allow, for the limits
// with the worst findings. It returns nil if there are none.
func auditChart(id, title string, groups []auditGroup, each int) *chart {
	type row struct {
		account *LimitResult
		header  string
		class   string
	}
	var rows []row
	widest, most := 0, 1.0
	for _, g := range groups {
		if len(groups) > 1 {
			rows = append(rows, row{header: g.name + ": " + g.audit.headline(), class: g.audit.class()})
		}
		for i := range g.audit.Worst[:min(each, len(g.audit.Worst))] {
			a := &g.audit.Worst[i]
			rows = append(rows, row{account: a})
			widest = max(widest, len([]rune(a.label())))
			most = max(most, a.ratio(a.Admitted), a.ratio(a.Allowed+a.Margin))
		}
	}
	if widest == 0 {
		return nil
	}
	// Values beyond ten times the limit are drawn at the end.
	most = min(most, 10)
	left := min(20+textWidth(string(make([]rune, widest))), 300)
	const rowHeight, right = 26, 230
	c := &canvas{width: chartWidth}
	legend := c.legend(left, chartWidth-left, []entry{{"thick good", "admitted"}, {"thick bad", "beyond the limit"}, {"dashed under", "denied although there was room"}})
	top := 16 + legend + 24
	c.height = top + rowHeight*float64(len(rows)) + 16
	x := linear(most, left, chartWidth-right, 10, func(v float64) string { return trimZeros(strconv.FormatFloat(v*100, 'f', 1, 64)) + " %" })
	x.high = max(most*1.02, 1.02)
	for _, t := range x.ticks {
		if t.at > x.high {
			continue
		}
		at := x.px(t.at)
		c.line("grid", at, top, at, c.height-12)
		c.text("tick", "middle", at, top-6, t.label)
	}
	y := top
	for _, r := range rows {
		if r.account == nil {
			c.rect("card", 0, y+1, chartWidth, rowHeight-2, 0)
			c.text("head "+r.class, "start", 0, y+17, r.header)
		} else {
			c.account(r.account, &x, left, y, rowHeight)
		}
		y += rowHeight
	}
	limit := x.px(1)
	c.line("limit", limit, top, limit, c.height-12)
	out := &chart{
		id: id, title: title, canvas: c,
		note: "100 % is what a limit allows during the run: its burst and its refill. The accounts shown are those nearest to a violation, the worst first.",
		table: table{
			head: []string{"key", "dimension", "limit", "allowed", "clock margin", "admitted", "over", "under"},
		},
	}
	if len(groups) > 1 {
		out.table.head = append([]string{"target"}, out.table.head...)
	}
	for _, g := range groups {
		out.description += g.name + ": " + g.audit.headline() + ". "
		for i := range g.audit.Worst[:min(100, len(g.audit.Worst))] {
			a := &g.audit.Worst[i]
			cells := []string{
				clean(a.Key, 120), clean(a.Dimension, 60), clean(a.Limit, 60),
				amount.Group(a.Allowed), amount.Group(a.Margin), amount.Group(a.Admitted), amount.Group(a.Over), amount.Group(a.Under),
			}
			if len(groups) > 1 {
				cells = append([]string{g.name}, cells...)
			}
			out.table.rows = append(out.table.rows, cells)
		}
	}
	return out
}

// account draws one bar.
func (c *canvas) account(a *LimitResult, x *axis, left, y, height float64) {
	c.text("label", "end", left-10, y+17, clipTo(a.label(), left-14))
	bar, thick := y+5, height-10
	within := a.ratio(a.Admitted - a.Over)
	c.rect("bar good", x.px(0), bar, x.px(within)-x.px(0), thick, 2)
	if a.Over > 0 {
		// At least a visible width: a single call too many must be seen.
		from, to := x.px(within), x.px(a.ratio(a.Admitted))
		c.rect("bar bad", from, bar, max(to-from, 4), thick, 2)
	}
	if a.Under > 0 {
		from, to := x.px(within), x.px(a.ratio(a.Admitted+a.Under))
		c.rect("hollow", from, bar, max(to-from, 4), thick, 2)
	}
	value := fmt.Sprintf("%s of %s", formatAmount(a.Admitted), formatAmount(a.Allowed))
	class := "value"
	switch {
	case a.Over > 0:
		value += ", " + formatAmount(a.Over) + " over"
		class = "value bad"
	case a.Under > 0:
		value += ", " + formatAmount(a.Under) + " under"
	}
	c.text(class, "start", x.to+10, y+17, value)
	c.area(0, y, chartWidth, height, fmt.Sprintf("%s: admitted %s of %s allowed (margin %s), over %s, under %s",
		a.label(), amount.Group(a.Admitted), amount.Group(a.Allowed), amount.Group(a.Margin), amount.Group(a.Over), amount.Group(a.Under)))
}

func (a *LimitResult) label() string {
	s := clean(a.Key, 60) + " " + clean(a.Dimension, 30)
	if a.Limit != "" && a.Limit != a.Dimension {
		s += " (" + clean(a.Limit, 30) + ")"
	}
	return s
}

// ratio returns n relative to what is allowed. With a limit of zero, anything is a large
// ratio.
func (a *LimitResult) ratio(n int64) float64 {
	switch {
	case n <= 0:
		return 0
	case a.Allowed <= 0:
		return math.Inf(1)
	}
	return float64(n) / float64(a.Allowed)
}

// formatAmount formats exactly where there is room, because a single call too many matters.
func formatAmount(n int64) string {
	if n < 1_000_000 {
		return amount.Group(n)
	}
	return formatShort(float64(n))
}

// headline returns the verdict in a few words.
func (a *Audit) headline() string {
	switch a.Verdict {
	case Exact:
		return "exact"
	case WithinMargin:
		return "within the clock margin"
	case Violated:
		return fmt.Sprintf("violated: %s over-admitted, %s", amount.Plural(a.OverAdmitted, "limit"), amount.Plural(a.DoubleCharges, "double charge"))
	}
	return "not audited"
}

func (a *Audit) class() string {
	if a == nil {
		return "unknown"
	}
	switch a.Verdict {
	case Exact, WithinMargin:
		return "good"
	case Violated:
		return "bad"
	}
	return "unknown"
}

func clipTo(s string, width float64) string { return clean(s, max(int(width/6.6), 4)) }
