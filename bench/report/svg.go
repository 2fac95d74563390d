// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// canvas collects the elements of one picture. Colours and fonts are classes of style.css,
// so that one file serves light and dark mode.
type canvas struct {
	b             strings.Builder
	width, height float64
}

// escape escapes text for XML. Characters that XML does not allow become replacement
// characters.
func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder never fails
	return b.String()
}

// num formats a coordinate to a tenth of a pixel.
func num(f float64) string {
	s := strconv.FormatFloat(f, 'f', 1, 64)
	return strings.TrimSuffix(s, ".0")
}

func (c *canvas) add(format string, args ...any) { fmt.Fprintf(&c.b, format, args...) }

func (c *canvas) line(class string, x1, y1, x2, y2 float64) {
	c.add(`<line class="%s" x1="%s" y1="%s" x2="%s" y2="%s"/>`+"\n", class, num(x1), num(y1), num(x2), num(y2))
}

func (c *canvas) rect(class string, x, y, w, h, radius float64) {
	c.add(`<rect class="%s" x="%s" y="%s" width="%s" height="%s" rx="%s"/>`+"\n", class, num(x), num(y), num(max(w, 0)), num(max(h, 0)), num(radius))
}

func (c *canvas) circle(class string, x, y, r float64, title string) {
	c.add(`<circle class="%s" cx="%s" cy="%s" r="%s">%s</circle>`+"\n", class, num(x), num(y), num(r), tooltip(title))
}

// text draws text anchored at start, middle or end.
func (c *canvas) text(class, anchor string, x, y float64, s string) {
	c.add(`<text class="%s" text-anchor="%s" x="%s" y="%s">%s</text>`+"\n", class, anchor, num(x), num(y), escape(s))
}

// area draws an invisible rectangle with a tooltip.
func (c *canvas) area(x, y, w, h float64, title string) {
	c.add(`<rect class="hit" x="%s" y="%s" width="%s" height="%s">%s</rect>`+"\n", num(x), num(y), num(max(w, 0)), num(max(h, 0)), tooltip(title))
}

func tooltip(s string) string { return "<title>" + escape(s) + "</title>" }

// point is a position on the canvas, in pixels.
type point struct{ x, y float64 }

// path draws pieces of a line. A piece of one point is drawn as a dot.
func (c *canvas) path(class string, pieces [][]point) {
	var d strings.Builder
	for _, piece := range pieces {
		for i, p := range piece {
			letter := "L"
			if i == 0 {
				letter = "M"
			}
			d.WriteString(letter + num(p.x) + " " + num(p.y))
		}
		if len(piece) == 1 {
			d.WriteString("h0.1")
		}
	}
	if d.Len() > 0 {
		c.add(`<path class="%s" d="%s"/>`+"\n", class, d.String())
	}
}

// fill draws the area between pieces of a line and a base.
func (c *canvas) fill(class string, pieces [][]point, base float64) {
	var d strings.Builder
	for _, piece := range pieces {
		d.WriteString("M" + num(piece[0].x) + " " + num(base))
		for _, p := range piece {
			d.WriteString("L" + num(p.x) + " " + num(p.y))
		}
		d.WriteString("L" + num(piece[len(piece)-1].x) + " " + num(base) + "Z")
	}
	if d.Len() > 0 {
		c.add(`<path class="%s" d="%s"/>`+"\n", class, d.String())
	}
}

// textWidth estimates the width of text of 12 pixels.
func textWidth(s string) float64 { return 6.6 * float64(utf8.RuneCountInString(s)) }

// entry is one item of a legend.
type entry struct{ class, name string }

// legend draws entries at the top, from x on, and returns their height.
func (c *canvas) legend(x, width float64, entries []entry) float64 {
	const y = 16.0
	at, line := x, y
	for _, e := range entries {
		w := 24 + textWidth(e.name) + 20
		if at > x && at+w > x+width {
			at, line = x, line+20
		}
		c.line("line "+e.class, at, line-4, at+18, line-4)
		c.text("label", "start", at+24, line, e.name)
		at += w
	}
	return line - y + 20
}

// svg returns the picture. The id makes the ids of its title and description unique in a
// page.
func (c *canvas) svg(id, title, description, extra string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" role="img" aria-labelledby="%s-t %s-d" class="chart"%s>
<title id="%s-t">%s</title>
<desc id="%s-d">%s</desc>
%s</svg>
`, num(c.width), num(c.height), id, id, extra, id, escape(title), id, escape(description), c.b.String())
}
