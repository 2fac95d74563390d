// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// maxSteps is the maximum number of points of a line over time. Longer runs are shown in
// coarser steps.
const maxSteps = 120

// moment is one value of a line.
type moment struct {
	at    time.Duration
	value float64
}

// track is one line over time. A gap longer than two steps interrupts it.
type track struct {
	name, class string
	filled      bool // fill the area below it
	moments     []moment
}

// timeline is a chart of tracks over the time of a run.
type timeline struct {
	id, title, note string
	yTitle          string
	log             bool    // logarithmic axis of values
	base            float64 // of the ticks of values, 10 or 1024
	highest         float64 // minimum of the end of the axis, to make charts comparable
	label           func(float64) string
	tracks          []track
	marks           []Mark
	end             time.Duration
	// merge combines several values for coarser steps.
	merge func([]float64) float64
	step  time.Duration // of the moments
	// spansStep says that a moment is the value of the whole step that it begins, not of
	// one instant.
	spansStep bool
}

// chart draws the timeline. It returns nil if there are no moments.
func (t timeline) chart() *chart {
	highest, lowest := t.highest, math.Inf(1)
	count := 0
	for i := range t.tracks {
		for _, m := range t.tracks[i].moments {
			highest = max(highest, m.value)
			if m.value > 0 {
				lowest = min(lowest, m.value)
			}
			t.end = max(t.end, m.at)
			if t.spansStep {
				t.end = max(t.end, m.at+t.step)
			}
			count++
		}
	}
	if count == 0 {
		return nil
	}
	coarse := t.coarsen()
	c := &canvas{width: chartWidth}
	entries := make([]entry, len(t.tracks))
	for i, k := range t.tracks {
		entries[i] = entry{k.class, k.name}
	}
	legend := c.legend(marginLeft, chartWidth-marginLeft, entries)
	marksHeight := 0.0
	if len(t.marks) > 0 {
		marksHeight = 16
	}
	top := 16 + legend + 20 + marksHeight
	c.height = top + 220 + 48
	x := axis{high: max(t.end.Seconds(), 1e-9), from: marginLeft, to: chartWidth - marginRight}
	x.ticks = timeTicks(t.end)
	var y axis
	if t.log {
		y = logarithmic(lowest, highest, c.height-48, top, t.label)
	} else {
		y = linear(highest, c.height-48, top, t.base, t.label)
	}
	c.grid(&x, &y, "time since the warm-up", "")
	c.text("title", "start", 0, 16+legend+8, t.yTitle)
	for i := range t.tracks {
		k := &t.tracks[i]
		pieces := t.pieces(k.moments, &x, &y)
		if k.filled {
			c.fill("fill "+k.class, pieces, y.from)
		}
		c.path("line "+k.class, pieces)
	}
	t.drawMarks(c, &x, &y)
	t.drawHits(c, &x, &y)
	return &chart{
		id: t.id, title: t.title, canvas: c, table: t.table(),
		description: t.describe(),
		note:        strings.TrimSpace(t.note + " " + coarse),
	}
}

// coarsen merges moments so that no track has more than maxSteps. It returns a note.
func (t *timeline) coarsen() string {
	longest := 0
	for i := range t.tracks {
		longest = max(longest, len(t.tracks[i].moments))
	}
	if longest <= maxSteps {
		return ""
	}
	width := t.end/maxSteps + 1
	// A round number of steps reads better.
	if t.step > 0 {
		width = (width + t.step - 1) / t.step * t.step
	}
	for i := range t.tracks {
		in := t.tracks[i].moments
		var out []moment
		for len(in) > 0 {
			index := in[0].at / width
			var values []float64
			for len(in) > 0 && in[0].at/width == index {
				values = append(values, in[0].value)
				in = in[1:]
			}
			out = append(out, moment{index * width, t.merge(values)})
		}
		t.tracks[i].moments = out
	}
	t.step = width
	return "Drawn in steps of " + formatElapsed(width) + "."
}

// pieces returns the parts of a track between gaps.
func (t *timeline) pieces(moments []moment, x, y *axis) [][]point {
	var out [][]point
	var last time.Duration
	for i, m := range moments {
		p := point{x.px(m.at.Seconds()), y.px(m.value)}
		if i == 0 || t.step > 0 && m.at-last > 2*t.step {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], p)
		if t.spansStep {
			end := m.at + t.step
			if i+1 < len(moments) && moments[i+1].at-m.at <= 2*t.step {
				end = moments[i+1].at
			}
			out[len(out)-1] = append(out[len(out)-1], point{x.px(end.Seconds()), p.y})
		}
		last = m.at
	}
	return out
}

// drawMarks draws the marks. Labels that would overlap are only in the tooltip and the
// list.
func (t *timeline) drawMarks(c *canvas, x, y *axis) {
	free := 0.0
	for i, m := range t.marks {
		if i >= 50 {
			return
		}
		at, text := x.px(m.At.Seconds()), m.text()
		c.line("mark", at, y.from, at, y.to)
		c.area(at-4, y.to, 8, y.from-y.to, formatElapsed(m.At)+": "+text)
		anchor, left, width := "middle", at-textWidth(text)/2, textWidth(text)
		if left+width > x.to {
			anchor, left = "end", at-width
		}
		if left >= free {
			c.text("marked", anchor, at, y.to-6, text)
			free = left + width + 8
		}
	}
}

func (m *Mark) text() string {
	text := m.Detail
	if !strings.Contains(text, m.Kind) { // details of faults name them
		text = strings.TrimSpace(m.Kind + " " + text)
	}
	return clean(text, 60)
}

// drawHits adds tooltips with the values.
func (t *timeline) drawHits(c *canvas, x, y *axis) {
	rows := t.byTime()
	for i, row := range rows {
		from := x.px(row.at.Seconds())
		to := x.to
		if i+1 < len(rows) {
			to = x.px(rows[i+1].at.Seconds())
		}
		text := []string{formatElapsed(row.at)}
		for j, v := range row.values {
			if v != nil {
				text = append(text, t.tracks[j].name+": "+t.label(*v))
			}
		}
		c.area(from, y.to, to-from, y.from-y.to, strings.Join(text, "\n"))
	}
}

// instant is the values of all tracks at one time, nil where there is none.
type instant struct {
	at     time.Duration
	values []*float64
}

func (t *timeline) byTime() []instant {
	byTime := make(map[time.Duration][]*float64)
	for i := range t.tracks {
		for j := range t.tracks[i].moments {
			m := &t.tracks[i].moments[j]
			if byTime[m.at] == nil {
				byTime[m.at] = make([]*float64, len(t.tracks))
			}
			byTime[m.at][i] = &m.value
		}
	}
	out := make([]instant, 0, len(byTime))
	for at, values := range byTime {
		out = append(out, instant{at, values})
	}
	slices.SortFunc(out, func(a, b instant) int { return int(min(max(a.at-b.at, -1), 1)) })
	return out
}

func (t *timeline) table() table {
	out := table{head: []string{"time"}}
	for i := range t.tracks {
		out.head = append(out.head, t.tracks[i].name)
	}
	for _, row := range t.byTime() {
		cells := []string{formatElapsed(row.at)}
		for _, v := range row.values {
			if v == nil {
				cells = append(cells, "-")
			} else {
				cells = append(cells, t.label(*v))
			}
		}
		out.rows = append(out.rows, cells)
	}
	return out
}

func (t *timeline) describe() string {
	out := []string{t.title + ", over " + formatElapsed(t.end) + "."}
	for i := range t.tracks {
		values := make([]float64, 0, len(t.tracks[i].moments))
		for _, m := range t.tracks[i].moments {
			values = append(values, m.value)
		}
		if len(values) > 0 {
			out = append(out, fmt.Sprintf("%s: from %s to %s.", t.tracks[i].name, t.label(slices.Min(values)), t.label(slices.Max(values))))
		}
	}
	for i := range t.marks {
		if i == 20 {
			break
		}
		out = append(out, fmt.Sprintf("At %s: %s.", formatElapsed(t.marks[i].At), t.marks[i].text()))
	}
	return strings.Join(out, " ")
}

func timeTicks(end time.Duration) []tick {
	steps := []time.Duration{
		time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second,
		time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
		time.Hour, 2 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
	}
	step := time.Second
	for _, s := range steps {
		if step = s; end/s <= 10 {
			break
		}
	}
	if end < time.Second {
		step = max(end, 1)
	}
	for end/step > 20 {
		step *= 10
	}
	var out []tick
	for at := time.Duration(0); at <= end; at += step {
		out = append(out, tick{at.Seconds(), formatElapsed(at)})
	}
	return out
}

func highestOf(v []float64) float64 { return slices.Max(v) }
