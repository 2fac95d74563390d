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

// chart is a picture and the numbers behind it.
type chart struct {
	id, title, description string
	note                   string // about how to read it
	canvas                 *canvas
	table                  table
}

// table is numbers for people who do not see the picture, or want to know.
type table struct {
	head []string
	rows [][]string
}

// svg is the picture for a page that has the style already.
func (c *chart) svg() string { return c.canvas.svg(c.id, c.title, c.description, "") }

// seriesClass names the colour of the i-th of several lines; the dashes make
// them differ without colour, too.
func seriesClass(i int) string {
	class := fmt.Sprintf("s%d", i%6+1)
	if i >= 6 {
		class += " dashed"
	}
	return class
}

// maxSeries is how many lines a chart has at most: nobody can follow more.
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
