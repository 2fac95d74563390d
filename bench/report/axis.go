// SPDX-License-Identifier: Apache-2.0

package report

import "math"

// axis maps values to pixels.
type axis struct {
	low, high float64 // values, low < high
	from, to  float64 // pixels
	log       bool    // then low > 0
	ticks     []tick
}

type tick struct {
	at    float64
	label string
}

// px returns the position of a value, clamped to the axis.
func (a *axis) px(v float64) float64 {
	low, high := a.low, a.high
	if a.log {
		low, high, v = math.Log(low), math.Log(high), math.Log(max(v, a.low))
	}
	share := (v - low) / (high - low)
	return a.from + min(max(share, 0), 1)*(a.to-a.from)
}

// linear returns an axis from zero to at least the highest value, with about five
// ticks at 1, 2 or 5 times a power of the base (10, or 1024 for bytes).
func linear(highest float64, from, to, base float64, label func(float64) string) axis {
	if !(highest > 1e-300) || !finite(highest) {
		highest = 1
	}
	step := niceStep(highest/5, base)
	count := int(math.Ceil(highest/step - 1e-9))
	a := axis{high: step * float64(count), from: from, to: to}
	for i := range count + 1 {
		v := step * float64(i)
		a.ticks = append(a.ticks, tick{v, label(v)})
	}
	return a
}

func niceStep(about, base float64) float64 {
	power := math.Pow(base, math.Floor(math.Log(about)/math.Log(base)))
	nice := []float64{1, 2, 5, 10}
	if base == 1024 {
		nice = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}
	}
	for _, m := range nice {
		if m*power >= about*0.999 {
			return m * power
		}
	}
	return base * power
}

// logarithmic returns an axis around both values, with ticks at 1, 2 and 5 times
// powers of ten, or only at powers if those are many.
func logarithmic(lowest, highest, from, to float64, label func(float64) string) axis {
	if !(lowest > 0) || !finite(lowest) {
		lowest = 1
	}
	if !finite(highest) {
		highest = lowest
	}
	highest = max(highest, lowest*1.2)
	if highest/lowest < 5 {
		return narrow(lowest, highest, from, to, label)
	}
	steps := []float64{1, 2, 5}
	if highest/lowest > 2000 {
		steps = []float64{1}
	}
	a := axis{log: true, from: from, to: to}
	first, last := math.Floor(math.Log10(lowest)), math.Ceil(math.Log10(highest))
	var all []float64
	for p := first; p <= last; p++ {
		for _, s := range steps {
			all = append(all, s*math.Pow(10, p))
		}
	}
	// From the last tick below the lowest value to the first above the highest.
	begin, end := 0, len(all)-1
	for begin+1 < len(all) && all[begin+1] <= lowest*1.0001 {
		begin++
	}
	for end > begin+1 && all[end-1] >= highest*0.9999 {
		end--
	}
	a.low, a.high = all[begin], all[end]
	for _, v := range all[begin : end+1] {
		a.ticks = append(a.ticks, tick{v, label(v)})
	}
	return a
}

// narrow returns a logarithmic axis for values close to each other, with ticks at equal
// differences.
func narrow(lowest, highest, from, to float64, label func(float64) string) axis {
	step := niceStep((highest-lowest)/6, 10)
	first, last := math.Floor(lowest/step+1e-9), math.Ceil(highest/step-1e-9)
	if first < 1 { // zero has no logarithm
		first, step = 1, lowest
		last = math.Ceil(highest / step)
	}
	a := axis{log: true, low: first * step, high: last * step, from: from, to: to}
	for i := first; i <= last; i++ {
		a.ticks = append(a.ticks, tick{i * step, label(i * step)})
	}
	return a
}

// grid draws both axes: their lines, ticks and titles.
func (c *canvas) grid(x, y *axis, xTitle, yTitle string) {
	for _, t := range y.ticks {
		at := y.px(t.at)
		c.line("grid", x.from, at, x.to, at)
		c.text("tick", "end", x.from-8, at+4, t.label)
	}
	c.line("axis", x.from, y.from, x.to, y.from)
	for _, t := range x.ticks {
		at := x.px(t.at)
		c.line("axis", at, y.from, at, y.from+5)
		c.text("tick", "middle", at, y.from+19, t.label)
	}
	c.text("title", "start", 0, y.to-12, yTitle)
	c.text("title", "end", x.to, y.from+38, xTitle)
}
