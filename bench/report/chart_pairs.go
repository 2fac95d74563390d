// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"

	"github.com/bucketring/bucketring/internal/amount"
)

// pairsChart draws the ratios of targets to the baseline, with a dot per round. It returns
// nil if there are no ratios.
func pairsChart(ratios []Ratio) *chart {
	if len(ratios) == 0 {
		return nil
	}
	out := &chart{
		id: "pairs", title: "Against " + clean(ratios[0].Baseline, 60) + ", round by round",
		note:  "A dot is one round, the bar is where the mean may be with 95 % confidence (Student's t over rounds). The axis is logarithmic: twice and half are equally far from 1.",
		table: table{head: []string{"target", "metric", "better is", "mean ratio", "95 % low", "95 % high", "least", "most", "rounds"}},
	}
	lowest, highest := 0.9, 1.1
	for _, r := range ratios {
		lowest, highest = min(lowest, r.Min), max(highest, r.Max)
		if r.Low > 0 {
			lowest, highest = min(lowest, r.Low), max(highest, r.High)
		}
	}
	const rowHeight, left, right = 34, 240, 130
	c := &canvas{width: chartWidth, height: 40 + rowHeight*float64(len(ratios)) + 28}
	times := func(v float64) string { return trimZeros(threeDigits(v)) + "x" }
	x := logarithmic(max(lowest, 1e-6), min(highest, 1e6), left, chartWidth-right, times)
	for _, t := range x.ticks {
		at := x.px(t.at)
		c.line("grid", at, 24, at, c.height-24)
		c.text("tick", "middle", at, 16, t.label)
	}
	c.line("limit", x.px(1), 24, x.px(1), c.height-24)
	c.text("title", "middle", x.px(1), c.height-8, "same as "+clean(ratios[0].Baseline, 40))
	for i, r := range ratios {
		y := 28 + rowHeight*float64(i) + rowHeight/2
		label := clean(r.Target, 24) + ", " + r.Metric
		c.text("label", "end", left-10, y+4, clipTo(label, left-14))
		class := r.class()
		low, high := "-", "-"
		if r.Low > 0 {
			c.rect("span "+class, x.px(r.Low), y-7, max(x.px(r.High)-x.px(r.Low), 2), 14, 3)
			low, high = times(r.Low), times(r.High)
		}
		for j, v := range r.Rounds {
			if j < 200 {
				c.circle("dot "+class, x.px(v), y, 3.5, fmt.Sprintf("%s, round %d: %s", label, j+1, times(v)))
			}
		}
		c.line("line ink", x.px(r.Mean), y-10, x.px(r.Mean), y+10)
		c.text("value", "start", chartWidth-right+12, y+4, times(r.Mean)+" "+r.verdict())
		out.table.rows = append(out.table.rows, []string{
			clean(r.Target, 40), r.Metric, string(r.Better), times(r.Mean), low, high, times(r.Min), times(r.Max), amount.Group(int64(len(r.Rounds))),
		})
		out.description += fmt.Sprintf("%s: %s of %s (%s to %s over %s). ", label, times(r.Mean), clean(r.Baseline, 40), times(r.Min), times(r.Max), amount.Plural(int64(len(r.Rounds)), "round"))
	}
	out.canvas = c
	return out
}

// verdict returns whether the target is better, or "" if the interval includes 1.
func (r *Ratio) verdict() string {
	switch r.class() {
	case "good":
		return "better"
	case "bad":
		return "worse"
	}
	return ""
}

func (r *Ratio) class() string {
	if r.Low <= 0 || r.Low <= 1 && r.High >= 1 || math.Abs(r.Mean-1) < 1e-9 {
		return "s6"
	}
	if (r.Mean > 1) == (r.Better == HigherIsBetter) {
		return "good"
	}
	return "bad"
}
