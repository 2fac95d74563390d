// SPDX-License-Identifier: Apache-2.0

package statuspage

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDraw(t *testing.T) {
	for _, tt := range []struct {
		name   string
		runs   []Run
		paths  []string
		legend string
	}{
		{"nothing", nil, nil, ""},
		{"one owner", []Run{{"a", 512}}, []string{"M0 .5m0 0h256m-256 1h256"}, "a 512 12.5 %"},
		{
			"over the end of a row",
			[]Run{{"b", 250}, {"a", 10}, {"b", 1}},
			[]string{"M0 .5m250 0h6m-256 1h4", "M0 .5m0 0h250m-246 1h1"},
			"a 10 0.3 %, b 251 6.1 %",
		},
		{"no owner", []Run{{"", 10}, {"a", 1}, {"", 5}}, []string{"M0 .5m10 0h1"}, "a 1 0.0 %,  15 0.4 %"},
		{"too many", []Run{{"a", 4095}, {"b", 99}, {"c", 1}}, nil, "a 4095 100.0 %, b 1 0.0 %"},
		{"not a number of partitions", []Run{{"a", 1}, {"b", -5}, {"a", 1}}, []string{"M0 .5m0 0h1m0 0h1"}, "a 2 0.0 %"},
	} {
		bands, shares := draw(tt.runs, coloursOf(Status{Owners: tt.runs}))
		var paths, legend []string
		for _, b := range bands {
			paths = append(paths, b.Path)
		}
		for _, s := range shares {
			legend = append(legend, fmt.Sprintf("%s %d %s", s.Name, s.Partitions, s.Percent()))
		}
		if tt.paths != nil && !cmp.Equal(paths, tt.paths) {
			t.Errorf("%s: paths %q, want %q", tt.name, paths, tt.paths)
		}
		if got := strings.Join(legend, ", "); got != tt.legend {
			t.Errorf("%s: legend %q, want %q", tt.name, got, tt.legend)
		}
	}
}

// TestPathsCoverOwnedPartitions parses the paths again.
func TestPathsCoverOwnedPartitions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var runs []Run
		var want [rows * columns]string
		for at := 0; at < len(want); {
			r := Run{rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "owner"), rapid.IntRange(1, 700).Draw(t, "partitions")}
			runs = append(runs, r)
			for range min(r.Partitions, len(want)-at) {
				want[at] = r.Owner
				at++
			}
		}
		var got [rows * columns]string
		bands, _ := draw(runs, coloursOf(Status{Owners: runs}))
		for _, b := range bands {
			x, y := 0, 0
			for move := range strings.SplitSeq(strings.TrimPrefix(b.Path, "M0 .5m"), "m") {
				var dx, dy, width int
				if _, err := fmt.Sscanf(move, "%d %dh%d", &dx, &dy, &width); err != nil {
					t.Fatalf("path %q: move %q: %v", b.Path, move, err)
				}
				x, y = x+dx, y+dy
				for range width {
					if x >= columns || y >= rows || got[y*columns+x] != "" {
						t.Fatalf("path of %s marks %d,%d, which is outside or marked", b.Name, x, y)
					}
					got[y*columns+x] = b.Name
					x++
				}
			}
		}
		if got != want {
			t.Fatal("paths do not mark the owned partitions")
		}
	})
}

// TestColoursStay when a member crashes or leaves.
func TestColoursStay(t *testing.T) {
	before := Status{Cluster: Cluster{Members: []Member{{Name: "b"}, {Name: "a"}, {Name: "c"}}}, Owners: []Run{{"a", 1}, {"b", 1}, {"c", 1}}}
	after := Status{Cluster: Cluster{Members: []Member{{Name: "b"}, {Name: "c"}}, Departed: []Departure{{Name: "a"}}}, Owners: []Run{{"c", 2}, {"b", 1}}}
	want := map[string]int{"a": 0, "b": 1, "c": 2}
	for _, s := range []Status{before, after} {
		if diff := cmp.Diff(want, coloursOf(s)); diff != "" {
			t.Errorf("colours (-want +got):\n%s", diff)
		}
	}
}

// TestManyMembers: colours repeat in paler shades.
func TestManyMembers(t *testing.T) {
	s := Status{}
	for i := range 40 {
		s.Owners = append(s.Owners, Run{fmt.Sprintf("node-%02d", i), 100})
	}
	_, legend := draw(s.Owners, coloursOf(s))
	seen := map[[2]int]string{}
	for i, l := range legend {
		key := [2]int{l.Colour, l.Shade}
		if l.Colour >= hues || l.Shade >= shades || (i < hues*shades && seen[key] != "") {
			t.Errorf("%s has colour %v, as %q", l.Name, key, seen[key])
		}
		seen[key] = l.Name
	}
}
