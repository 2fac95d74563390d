// SPDX-License-Identifier: Apache-2.0

package statuspage

import (
	"strconv"
	"strings"
	"time"
)

// The chart has a bar for each interval, barWidth wide with a gap, and is chartHeight high.
const (
	barStep     = 10
	barWidth    = 8
	chartHeight = 100
	// fewestBars is how many bars there is room for: those of five minutes.
	fewestBars = 60
)

// chart draws decisions by their outcome, one path for each.
type chart struct {
	Width  int
	Layers []layer
	Most   float64 // decisions per second of the highest bar
	Span   time.Duration
}

// layer is one outcome. Class is one of page.css.
type layer struct{ Class, Path string }

// total returns all decisions.
func (d Decisions) total() int64 { return d.Allowed + d.FromSlices + d.Degraded + d.Denied }

func (d Decisions) plus(o Decisions) Decisions {
	return Decisions{d.Allowed + o.Allowed, d.Degraded + o.Degraded, d.Denied + o.Denied, d.FromSlices + o.FromSlices}
}

// AllAllowed returns those that were allowed, from slices or not.
func (d Decisions) AllAllowed() int64 { return d.Allowed + d.FromSlices }

// Rate returns the decisions per second of the last interval that is over.
func (m MemberTraffic) Rate() float64 {
	if len(m.Intervals) == 0 || m.Interval <= 0 {
		return 0
	}
	return float64(m.Intervals[len(m.Intervals)-1].total()) / m.Interval.Seconds()
}

// Span returns the time that all intervals take.
func (m MemberTraffic) Span() time.Duration { return m.Interval * time.Duration(len(m.Intervals)) }

// Chart draws what one member has decided.
func (m MemberTraffic) Chart() chart { return drawChart([]MemberTraffic{m}) }

// Chart draws what all members have decided.
func (t Traffic) Chart() chart { return drawChart(t.Members) }

// Sum returns what all members have decided.
func (t Traffic) Sum() (sum Decisions) {
	for _, m := range t.Members {
		sum = sum.plus(m.Decisions)
	}
	return sum
}

// Rate returns the decisions per second of all members.
func (t Traffic) Rate() (rate float64) {
	for _, m := range t.Members {
		rate += m.Rate()
	}
	return rate
}

// drawChart adds the intervals of members up from the last one on, because those that started
// later have fewer.
func drawChart(members []MemberTraffic) chart {
	var bars []Decisions
	c := chart{Layers: []layer{{Class: "allowed"}, {Class: "degraded"}, {Class: "denied"}}}
	interval := time.Duration(0)
	for _, m := range members {
		interval = max(interval, m.Interval)
		for len(bars) < len(m.Intervals) {
			bars = append([]Decisions{{}}, bars...)
		}
		for i, d := range m.Intervals {
			at := len(bars) - len(m.Intervals) + i
			bars[at] = bars[at].plus(d)
		}
	}
	most := int64(0)
	for _, b := range bars {
		most = max(most, b.total())
	}
	first := max(0, fewestBars-len(bars)) // the latest bar is on the right
	c.Width, c.Span = (first+len(bars))*barStep, interval*time.Duration(len(bars))
	if most == 0 || interval <= 0 {
		return c
	}
	c.Most = float64(most) / interval.Seconds()
	paths := make([]strings.Builder, len(c.Layers))
	for i, b := range bars {
		below := int64(0)
		for l, n := range []int64{b.AllAllowed(), b.Degraded, b.Denied} {
			bottom, top := height(below, most), height(below+n, most)
			below += n
			if n > 0 {
				top = max(top, bottom+1) // visible
				paths[l].WriteString("M" + strconv.Itoa((first+i)*barStep) + " " + strconv.Itoa(chartHeight-bottom) + "h" + strconv.Itoa(barWidth) + "V" + strconv.Itoa(chartHeight-top) + "h-" + strconv.Itoa(barWidth) + "z")
			}
		}
	}
	for l := range c.Layers {
		c.Layers[l].Path = paths[l].String()
	}
	return c
}

// height returns how high n of most decisions are drawn.
func height(n, most int64) int { return int(float64(n) / float64(most) * chartHeight) }
