// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strings"
)

// The width of every chart, and the margins of its plot.
const (
	chartWidth  = 960
	marginLeft  = 76
	marginRight = 24
)

// chart is a picture with a table of its numbers.
type chart struct {
	id, title, description string
	note                   string // how to read it
	canvas                 *canvas
	table                  table
}

// table has the numbers of a chart as text.
type table struct {
	head []string
	rows [][]string
}

// svg returns the picture for a page that has the style sheet.
func (c *chart) svg() string { return c.canvas.svg(c.id, c.title, c.description, "") }

// seriesClass returns the CSS class of the i-th line. Lines also differ in their dashes.
func seriesClass(i int) string {
	class := fmt.Sprintf("s%d", i%6+1)
	if i >= 6 {
		class += " dashed"
	}
	return class
}

// maxSeries is the maximum number of lines of a readable chart.
const maxSeries = 8

func list(items []string) string {
	switch len(items) {
	case 0:
		return "nothing"
	case 1:
		return items[0]
	}
	return strings.Join(items[:len(items)-1], ", ") + " and " + items[len(items)-1]
}
