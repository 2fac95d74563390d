// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"

	"github.com/buraksezer/consistent"
)

// A circle answers "who would own this without that member" for every member.
//
// Asking the library means a new table for each, and it takes 8 s for 100
// members, because it sorts all points once per member. But the points of a
// table without m are the points of the table, less those of m: sorting once
// and walking past m's points does for all. That takes 4 ms for 100 members.
//
// The walk repeats the library's rule, and build refuses a table for which the
// two disagree.
type circle struct {
	members int
	points  []point         // by ascending at; no two are equal
	starts  [Partitions]int // the point where the walk of a partition begins
}

// A point is one of the places of a member on the circle.
type point struct {
	at    uint64
	place uint16 // in members, from 1
}

// nobody is no member's place.
const nobody = 0

// newCircle places members and partitions. It fails if two points are equal:
// the library gives such a point to the one added last, and removing either
// removes it from both.
func newCircle(members []string, hash consistent.Hasher) (*circle, error) {
	c := &circle{members: len(members), points: make([]point, 0, len(members)*replicas)}
	for i, m := range members {
		name := node(m).String()
		for index := range replicas {
			c.points = append(c.points, point{at: hash.Sum64(pointKey(name, index)), place: uint16(i + 1)})
		}
	}
	slices.SortFunc(c.points, func(a, b point) int { return cmp.Compare(a.at, b.at) })
	for i := 1; i < len(c.points); i++ {
		if a, b := c.points[i-1], c.points[i]; a.at == b.at {
			return nil, fmt.Errorf("members %q and %q meet in a point: rename one", members[a.place-1], members[b.place-1])
		}
	}

	var id [8]byte
	for p := range c.starts {
		binary.LittleEndian.PutUint64(id[:], uint64(p))
		at := hash.Sum64(id[:])
		i := sort.Search(len(c.points), func(i int) bool { return c.points[i].at >= at })
		c.starts[p] = i % len(c.points)
	}
	return c, nil
}

// heirs returns who owns each partition in the table without its owner.
func (c *circle) heirs(owners *[Partitions]uint16) (heirs [Partitions]uint16) {
	if c.members < 2 {
		return heirs
	}
	for m := range c.members {
		place := uint16(m + 1)
		without := c.ownersWithout(place)
		for p, owner := range owners {
			if owner == place {
				heirs[p] = without[p]
			}
		}
	}
	return heirs
}

// ownersWithout gives the partitions out, in order, as if one member was not
// there: each to the first member clockwise that has room. There is room for
// all, since what the rest may own together is at least the whole.
func (c *circle) ownersWithout(gone uint16) (owners [Partitions]uint16) {
	rest := c.members
	if gone != nobody {
		rest--
	}
	room := make([]int, c.members+1)
	for i := range room {
		room[i] = capacity(rest)
	}
	room[gone] = 0

	for p, i := range c.starts {
		for room[c.points[i].place] == 0 {
			if i++; i == len(c.points) {
				i = 0
			}
		}
		owners[p] = c.points[i].place
		room[owners[p]]--
	}
	return owners
}
