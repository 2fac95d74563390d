// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// percentOf returns a part of a limit in percent.
func percentOf(n, limit int64) float64 { return 100 * float64(n) / float64(limit) }

// table returns the costs as two tables in Markdown.
func (m *measuredCosts) table() string {
	var b strings.Builder
	b.WriteString("| holders | members: lent, not spent | from slices | clients: lent, not spent | from slices |\n|---:|---:|---:|---:|---:|\n")
	for _, c := range m.steady {
		fmt.Fprintf(&b, "| %d | %d ms | %d %% | %d ms | %d %% |\n", c.holders, c.members.Milliseconds(), c.membersAnswered, c.clients.Milliseconds(), c.clientsAnswered)
	}
	b.WriteString("\n| the limit lasts | members that answer the recall | clients | members that do not answer it | one of four members dies | of which lost for good |\n|---:|---:|---:|---:|---:|---:|\n")
	for _, c := range m.edges {
		fmt.Fprintf(&b, "| %v | %.1f %% | %.1f %% | %.1f %% | %.1f %% | %.1f %% |\n", c.lasts, percentOf(c.members.early, c.limit), percentOf(c.clients.early, c.limit),
			percentOf(c.silent.early, c.limit), percentOf(c.dead.early, c.limit), percentOf(c.dead.lost, c.limit))
	}
	return b.String()
}

// axes is a chart in a picture, with its place in it.
type axes struct {
	left, top, width, height float64
	x, y                     func(float64) float64 // from 0 to 1
}

func (a *axes) at(x, y float64) (px, py float64) {
	return a.left + a.x(x)*a.width, a.top + a.height - a.y(y)*a.height
}

// frame draws the title, the grid and the numbers at the axes.
func (a *axes) frame(b *strings.Builder, title, below string, xs, ys []float64, xText, yText func(float64) string) {
	fmt.Fprintf(b, `<text class="name" x="%.0f" y="%.0f">%s</text>`+"\n", a.left-40, a.top-14, title)
	for _, y := range ys {
		_, py := a.at(xs[0], y)
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/><text class="tick" text-anchor="end" x="%.1f" y="%.1f">%s</text>`+"\n", a.left, py, a.left+a.width, py, a.left-6, py+4, yText(y))
	}
	for _, x := range xs {
		px, _ := a.at(x, 0)
		fmt.Fprintf(b, `<text class="tick" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`+"\n", px, a.top+a.height+16, xText(x))
	}
	fmt.Fprintf(b, `<text class="tick" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`+"\n", a.left+a.width/2, a.top+a.height+34, below)
}

// line draws a line with a dot at each point, and its name beside the point with an index.
func (a *axes) line(b *strings.Builder, class, name string, named int, below bool, xs, ys []float64) {
	var points []string
	for i := range xs {
		px, py := a.at(xs[i], ys[i])
		points = append(points, fmt.Sprintf("%.1f,%.1f", px, py))
		fmt.Fprintf(b, `<circle class="%s dot" cx="%.1f" cy="%.1f" r="3"/>`, class, px, py)
	}
	fmt.Fprintf(b, `<polyline class="%s" points="%s"/>`, class, strings.Join(points, " "))
	px, py := a.at(xs[named], ys[named])
	if below {
		py += 22
	}
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f">%s</text>`+"\n", px+8, py-6, name)
}

func linear(most float64) func(float64) float64 { return func(v float64) float64 { return v / most } }

func logarithmic(least, most float64) func(float64) float64 {
	return func(v float64) float64 { return math.Log(v/least) / math.Log(most/least) }
}

// picture draws the costs.
func (m *measuredCosts) picture() string {
	const width, height = 720, 610
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-labelledby="title">`+"\n", width, height, width, height)
	b.WriteString(`<title id="title">When slices act, and what they cost</title>
<style>
svg { color-scheme: light dark; font: 12px system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; --card: #ffffff; --ink: #1a1f26; --muted: #59636f; --grid: #e3e7ec; --one: #1a66c8; --two: #17784c; --three: #b3400f; --four: #7c3fb8; }
@media (prefers-color-scheme: dark) { svg { --card: #181c23; --ink: #e9ecf0; --muted: #a2acb8; --grid: #2a313b; --one: #6cb0ff; --two: #58cf96; --three: #ff9a6b; --four: #c79bff; } }
.paper { fill: var(--card); stroke: var(--grid); } text { fill: var(--ink); } .tick { fill: var(--muted); } .heading { font-size: 17px; font-weight: 650; } .name { font-weight: 650; }
.grid { stroke: var(--grid); } polyline { fill: none; stroke-width: 2; } .lent { fill: var(--one); opacity: .35; }
.one { stroke: var(--one); } .two { stroke: var(--two); } .three { stroke: var(--three); } .four { stroke: var(--four); } .stop { stroke: var(--muted); stroke-dasharray: 4 4; }
.one.dot { fill: var(--one); } .two.dot { fill: var(--two); } .three.dot { fill: var(--three); } .four.dot { fill: var(--four); }
</style>
`)
	fmt.Fprintf(&b, `<rect class="paper" x="0.5" y="0.5" width="%d" height="%d" rx="12"/>`+"\n", width-1, height-1)
	b.WriteString(`<text class="heading" x="24" y="32">When slices act, and what they cost</text>` + "\n")
	m.drawCourse(&b)
	m.drawSteady(&b)
	m.drawEdges(&b)
	b.WriteString("</svg>\n")
	return b.String()
}

func (m *measuredCosts) drawCourse(b *strings.Builder) {
	a := axes{left: 64, top: 78, width: 620, height: 180, x: linear(10.5), y: linear(100)}
	percent := func(v float64) string { return fmt.Sprintf("%.0f %%", v) }
	a.frame(b, "A limit that four members use up in 10 s: lent is ahead of spent, until a fifth is left", "seconds",
		[]float64{0, 2, 4, 6, 8, 10}, []float64{0, 20, 40, 60, 80, 100}, func(v float64) string { return fmt.Sprintf("%.0f", v) }, percent)
	var spent, lent []string
	last := 0.0 // when something was lent last
	for _, c := range m.course {
		x := c.at.Seconds()
		px, py := a.at(x, percentOf(c.admitted, m.limit))
		spent = append(spent, fmt.Sprintf("%.1f,%.1f", px, py))
		px, py = a.at(x, percentOf(c.admitted+c.lent, m.limit))
		lent = append(lent, fmt.Sprintf("%.1f,%.1f", px, py))
		if c.lent > 0 {
			last = x
		}
	}
	area := strings.Join(lent, " ")
	for _, point := range slices.Backward(spent) {
		area += " " + point
	}
	fmt.Fprintf(b, `<polygon class="lent" points="%s"/><polyline class="one" points="%s"/>`+"\n", area, strings.Join(spent, " "))
	px, bottom := a.at(last, 0)
	_, top := a.at(last, 100)
	fmt.Fprintf(b, `<line class="stop" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"/><text class="tick" text-anchor="end" x="%.1f" y="%.1f">from here on, each call is decided by the owner</text>`+"\n", px, bottom, px, top, px-6, bottom-8)
	px, py := a.at(3, 52)
	fmt.Fprintf(b, `<text text-anchor="end" x="%.1f" y="%.1f">lent, and charged already</text>`+"\n", px, py)
	px, py = a.at(5.2, 40)
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f">spent</text>`+"\n", px, py)
}

func (m *measuredCosts) drawSteady(b *strings.Builder) {
	a := axes{left: 64, top: 356, width: 240, height: 180, x: logarithmic(1, 256), y: linear(1000)}
	a.frame(b, "Lent and not spent, in time of all calls", "holders", []float64{1, 4, 16, 64, 256}, []float64{0, 250, 500, 750, 1000},
		func(v float64) string { return fmt.Sprintf("%.0f", v) }, func(v float64) string { return fmt.Sprintf("%.0f ms", v) })
	var xs, members, clients []float64
	for _, c := range m.steady {
		xs = append(xs, float64(c.holders))
		members = append(members, float64(c.members/time.Millisecond))
		clients = append(clients, float64(c.clients/time.Millisecond))
	}
	a.line(b, "one", "members: lease of 1 s", 0, true, xs, members)
	a.line(b, "two", "clients: 0.25 s", 0, false, xs, clients)
}

func (m *measuredCosts) drawEdges(b *strings.Builder) {
	const most = 16
	a := axes{left: 404, top: 356, width: 280, height: 180, x: logarithmic(0.25, 20), y: linear(most)}
	a.frame(b, "Room at the first denial, of the limit", "seconds in which the calls use up the limit", []float64{0.25, 0.5, 1, 2, 5, 10, 20}, []float64{0, 4, 8, 12, most},
		func(v float64) string { return fmt.Sprintf("%g", v) }, func(v float64) string { return fmt.Sprintf("%.0f %%", v) })
	var xs, members, clients, silent, dead []float64
	for _, c := range m.edges {
		xs = append(xs, c.lasts.Seconds())
		members = append(members, percentOf(c.members.early, c.limit))
		clients = append(clients, percentOf(c.clients.early, c.limit))
		silent = append(silent, percentOf(c.silent.early, c.limit))
		dead = append(dead, percentOf(c.dead.early, c.limit))
	}
	a.line(b, "four", "members, recall not answered", 2, false, xs, silent)
	a.line(b, "three", "a member dies", 4, false, xs, dead)
	a.line(b, "two", "clients", 0, true, xs, clients)
	a.line(b, "one", "members", 0, false, xs, members)
}
