// SPDX-License-Identifier: Apache-2.0

package statuspage

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/bucketring/bucketring/internal/amount"
)

// The ring is drawn as a grid of partitions, each one unit high and wide. Adjacent
// partitions rarely have the same owner, so a single row would be unreadable.
const (
	columns = 256
	rows    = 16
)

// hues is how many colours page.css has. Further members get them in paler shades.
const (
	hues   = 12
	shades = 3
)

// share is the part of the ring that one member owns.
type share struct {
	Name       string
	Colour     int // 0 to hues-1
	Shade      int // 0 to shades-1
	Partitions int
	PerMille   int // of all partitions; rounded so that all together are 1000
}

// Percent formats the share with one decimal.
func (s share) Percent() string {
	return strconv.Itoa(s.PerMille/10) + "." + strconv.Itoa(s.PerMille%10) + " %"
}

// band is a share and the data of the SVG path that draws its partitions.
type band struct {
	share
	Path string
}

// coloursOf numbers all members of a status. It includes those that crashed, so that
// the others keep their colours.
func coloursOf(s Status) map[string]int {
	var names []string
	for _, m := range slices.Concat(s.Cluster.Members, s.Cluster.Fencing) {
		names = append(names, m.Name)
	}
	for _, d := range s.Cluster.Departed {
		names = append(names, d.Name)
	}
	for _, r := range s.Owners {
		names = append(names, r.Owner)
	}
	slices.Sort(names)
	numbers := map[string]int{}
	for _, name := range slices.Compact(names) {
		if name != "" {
			numbers[name] = len(numbers)
		}
	}
	return numbers
}

// draw returns a band per owner and the legend, both sorted by name. Partitions
// without an owner are only in the legend, as its last share.
func draw(runs []Run, colours map[string]int) ([]band, []share) {
	pens := map[string]*pen{}
	at, unowned := 0, 0
	for _, r := range runs {
		n := min(r.Partitions, rows*columns-at)
		if n <= 0 {
			continue
		}
		if r.Owner == "" {
			unowned += n
		} else {
			if pens[r.Owner] == nil {
				pens[r.Owner] = &pen{path: []byte("M0 .5")}
			}
			pens[r.Owner].mark(at, n)
		}
		at += n
	}
	var bands []band
	var legend []share
	for name, p := range pens {
		number := colours[name]
		s := share{name, number % hues, number / hues % shades, p.marked, 0}
		bands = append(bands, band{s, string(p.path)})
	}
	slices.SortFunc(bands, func(a, b band) int { return cmp.Compare(a.Name, b.Name) })
	for _, b := range bands {
		legend = append(legend, b.share)
	}
	if unowned > 0 {
		legend = append(legend, share{Partitions: unowned})
	}
	partitions := make([]float64, len(legend), len(legend)+1)
	for i := range legend {
		partitions[i] = float64(legend[i].Partitions)
	}
	partitions = append(partitions, float64(rows*columns-at)) // that no run is about
	shares := amount.Shares(1000, partitions)
	for i := range legend {
		legend[i].PerMille = int(shares[i])
	}
	for i := range bands {
		bands[i].PerMille = int(shares[i])
	}
	return bands, legend
}

// pen writes horizontal strokes as path data, with relative moves.
type pen struct {
	path   []byte
	x, y   int // position
	marked int // partitions so far
}

// mark adds the n partitions that begin at at. Calls must be in ascending order.
// Each row takes one stroke.
func (p *pen) mark(at, n int) {
	p.marked += n
	for n > 0 {
		x, y := at%columns, at/columns
		width := min(n, columns-x)
		p.path = append(p.path, 'm')
		p.path = strconv.AppendInt(p.path, int64(x-p.x), 10)
		p.path = append(p.path, ' ')
		p.path = strconv.AppendInt(p.path, int64(y-p.y), 10)
		p.path = append(p.path, 'h')
		p.path = strconv.AppendInt(p.path, int64(width), 10)
		p.x, p.y = x+width, y
		at, n = at+width, n-width
	}
}
