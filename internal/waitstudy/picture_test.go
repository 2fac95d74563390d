// SPDX-License-Identifier: Apache-2.0

package waitstudy

import (
	"fmt"
	"slices"
	"strings"
)

// axes is a chart in a picture, with its place in it. Both axes begin at 0.
type axes struct {
	left, top, width, height float64
	mostX, mostY             float64
}

func (a *axes) at(x, y float64) (px, py float64) {
	return a.left + x/a.mostX*a.width, a.top + a.height - y/a.mostY*a.height
}

// frame draws the title, the grid and the numbers at the axes.
func (a *axes) frame(b *strings.Builder, title, below string, stepX, stepY float64, formatX, formatY string) {
	fmt.Fprintf(b, `<text class="name" x="%.0f" y="%.0f">%s</text>`+"\n", a.left-40, a.top-14, title)
	for y := 0.0; y <= a.mostY; y += stepY {
		px, py := a.at(0, y)
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/><text class="tick" text-anchor="end" x="%.1f" y="%.1f">`+formatY+"</text>\n", px, py, px+a.width, py, px-6, py+4, y)
	}
	for x := 0.0; stepX > 0 && x <= a.mostX; x += stepX {
		px, py := a.at(x, 0)
		fmt.Fprintf(b, `<text class="tick" text-anchor="middle" x="%.1f" y="%.1f">`+formatX+"</text>\n", px, py+16, x)
	}
	fmt.Fprintf(b, `<text class="tick" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`+"\n", a.left+a.width/2, a.top+a.height+34, below)
}

// line draws a line.
func (a *axes) line(b *strings.Builder, class string, xs, ys []float64) {
	var points []string
	for i := range xs {
		px, py := a.at(xs[i], ys[i])
		points = append(points, fmt.Sprintf("%.1f,%.1f", px, py))
	}
	fmt.Fprintf(b, `<polyline class="%s" points="%s"/>`+"\n", class, strings.Join(points, " "))
}

// classes are the colours of the runs.
var classes = []string{"three", "four", "one", "two"}

// picture draws the results of the runs of a workload.
func picture(w *workload, results []*result) string {
	const width, height = 760, 640
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-labelledby="title">`+"\n", width, height, width, height)
	b.WriteString(`<title id="title">A burst of three times the limit: refused, retried, and queued</title>
<style>
svg { color-scheme: light dark; font: 12px system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; --card: #ffffff; --ink: #1a1f26; --muted: #59636f; --grid: #e3e7ec; --one: #1a66c8; --two: #17784c; --three: #b3400f; --four: #7c3fb8; }
@media (prefers-color-scheme: dark) { svg { --card: #181c23; --ink: #e9ecf0; --muted: #a2acb8; --grid: #2a313b; --one: #6cb0ff; --two: #58cf96; --three: #ff9a6b; --four: #c79bff; } }
.paper { fill: var(--card); stroke: var(--grid); } text { fill: var(--ink); } .tick { fill: var(--muted); } .heading { font-size: 17px; font-weight: 650; } .name { font-weight: 650; }
.grid { stroke: var(--grid); } polyline { fill: none; stroke-width: 2; } .limit { stroke: var(--muted); stroke-dasharray: 4 4; }
.one { stroke: var(--one); } .two { stroke: var(--two); } .three { stroke: var(--three); } .four { stroke: var(--four); }
.one.dot { fill: var(--one); } .two.dot { fill: var(--two); } .three.dot { fill: var(--three); } .four.dot { fill: var(--four); } .dot { fill-opacity: .45; }
</style>
`)
	fmt.Fprintf(&b, `<rect class="paper" x="0.5" y="0.5" width="%d" height="%d" rx="12"/>`+"\n", width-1, height-1)
	b.WriteString(`<text class="heading" x="24" y="32">A burst of three times the limit: refused, retried, and queued</text>` + "\n")
	x := 24
	for i, r := range results {
		fmt.Fprintf(&b, `<circle class="%s dot" cx="%d" cy="52" r="4"/><text x="%d" y="56">%s</text>`+"\n", classes[i], x+4, x+14, r.name)
		x += 40 + 7*len(r.name)
	}
	drawCourse(&b, w, results)
	drawShares(&b, results)
	drawTimes(&b, w, results)
	b.WriteString("</svg>\n")
	return b.String()
}

// drawCourse draws how many of the tokens were admitted until when.
func drawCourse(b *strings.Builder, w *workload, results []*result) {
	longest := 0.0
	for _, r := range results {
		longest = max(longest, courseStep.Seconds()*float64(len(r.course)))
	}
	longest = float64(int(longest/5)+1) * 5
	a := axes{left: 64, top: 100, width: 660, height: 200, mostX: longest, mostY: 100}
	percent := func(tokens float64) float64 { return 100 * tokens / float64(w.asked()) }
	a.frame(b, "Tokens admitted, of those asked for", "seconds since the start of the burst", 5, 20, "%.0f", "%.0f %%")
	until := min(longest, float64(w.asked()-w.burst)/float64(w.rate))
	a.line(b, "limit", []float64{0, until}, []float64{percent(float64(w.burst)), percent(float64(w.burst) + float64(w.rate)*until)})
	px, py := a.at(until*0.55, percent(float64(w.burst)+float64(w.rate)*until*0.55))
	fmt.Fprintf(b, `<text class="tick" text-anchor="end" x="%.1f" y="%.1f">the limit</text>`+"\n", px-8, py-8)
	px, bottom := a.at(w.length.Seconds(), 0)
	_, top := a.at(0, 100)
	fmt.Fprintf(b, `<line class="limit" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/><text class="tick" x="%.1f" y="%.1f">end of the burst</text>`+"\n", px, bottom, px, top, px+6, top+12)
	for i, r := range results {
		xs, ys := []float64{0}, []float64{0}
		for step, tokens := range r.course {
			xs, ys = append(xs, courseStep.Seconds()*float64(step+1)), append(ys, percent(tokens))
		}
		a.line(b, classes[i], append(xs, longest), append(ys, ys[len(ys)-1])) // nothing more comes
	}
}

// drawShares draws a dot for each user: what the user got of the fair share.
func drawShares(b *strings.Builder, results []*result) {
	const most = 400
	a := axes{left: 64, top: 380, width: 300, height: 200, mostX: float64(len(results)), mostY: most}
	a.frame(b, "Each user: tokens of the fair share by weight", "Jain's index", 0, 100, "", "%.0f %%")
	for i, r := range results {
		ratios := slices.Sorted(slices.Values(r.ratios))
		for j, ratio := range ratios {
			px, py := a.at(float64(i)+0.2+0.6*float64(j)/float64(len(ratios)), min(100*ratio, most))
			fmt.Fprintf(b, `<circle class="%s dot" cx="%.1f" cy="%.1f" r="3"/>`, classes[i], px, py)
		}
		px, py := a.at(float64(i)+0.5, 0)
		fmt.Fprintf(b, `<text text-anchor="middle" x="%.1f" y="%.1f">%.2f</text>`+"\n", px, py+17, r.jain)
	}
	a.line(b, "limit", []float64{0, a.mostX}, []float64{100, 100})
}

// drawTimes draws how many calls were answered within which time.
func drawTimes(b *strings.Builder, w *workload, results []*result) {
	longest := 0.0
	for _, r := range results {
		longest = max(longest, r.percentile(100).Seconds())
	}
	longest = float64(int(longest/5)+1) * 5
	a := axes{left: 444, top: 380, width: 280, height: 200, mostX: longest, mostY: 100}
	a.frame(b, "Calls served within a time", "seconds from the call to its answer", 5, 20, "%.0f", "%.0f %%")
	for i, r := range results {
		xs, ys := []float64{0}, []float64{0}
		for n, d := range r.times {
			if n%5 == 4 || n == len(r.times)-1 {
				xs, ys = append(xs, d.Seconds()), append(ys, 100*float64(n+1)/float64(len(w.calls)))
			}
		}
		a.line(b, classes[i], append(xs, longest), append(ys, ys[len(ys)-1])) // the others are refused
	}
}
