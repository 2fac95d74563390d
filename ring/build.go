// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"slices"

	"github.com/buraksezer/consistent"
)

// New returns the table of a set of members, in whatever order and however
// often each is named. It fails, and the caller keeps the table it has, if
//
//   - a name is empty,
//   - there are more than [MaxMembers], or
//   - two members meet in one of their points on the circle, which 100 members
//     do once in 10^11 sets; renaming either helps.
//
// It takes 2 ms for 3 members, 3 ms for 10, 10 ms for 30 and 0.1 s for 100, and
// grows with the square of their number: 3 s for 512. So it belongs beside the
// calls that need the table, never into them.
func New(members []string) (*Table, error) { return build(members, circleHash{}) }

// build is New for any circle.
func build(members []string, hash consistent.Hasher) (*Table, error) {
	members = slices.Clone(members)
	slices.Sort(members)
	members = slices.Compact(members)
	switch {
	case len(members) == 0:
		return &Table{}, nil
	case len(members) > MaxMembers:
		return nil, fmt.Errorf("build ring: %d members, want at most %d", len(members), MaxMembers)
	case members[0] == "":
		return nil, errors.New("build ring: a member without a name")
	}

	c, err := newCircle(members, hash)
	if err != nil {
		return nil, fmt.Errorf("build ring: %w", err)
	}
	t := &Table{members: members}
	if t.owners, err = libraryOwners(members, hash); err != nil {
		return nil, fmt.Errorf("build ring: %w", err)
	}
	if c.ownersWithout(nobody) != t.owners {
		return nil, fmt.Errorf("build ring: %s does not place partitions the way their heirs are found", library)
	}
	t.heirs = c.heirs(&t.owners)
	t.digest = t.sum()
	return t, nil
}

// libraryOwners asks the library who owns what. The library panics when it
// can't go on; here that is an error.
//
// It always starts from nothing, with sorted names: an instance that lives on
// through Add and Remove would depend on their order if two points ever met.
func libraryOwners(members []string, hash consistent.Hasher) (owners [Partitions]uint16, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %v", library, r)
		}
	}()
	places := make(map[consistent.Member]uint16, len(members))
	nodes := make([]consistent.Member, len(members))
	for i, m := range members {
		nodes[i] = node(m)
		places[nodes[i]] = uint16(i + 1)
	}
	c := consistent.New(nodes, libraryConfig(hash))
	for p := range owners {
		owners[p] = places[c.GetPartitionOwner(p)]
	}
	return owners, nil
}

// libraryConfig is the layout in the library's terms.
func libraryConfig(hash consistent.Hasher) consistent.Config {
	return consistent.Config{
		Hasher:            hash,
		PartitionCount:    Partitions,
		ReplicationFactor: replicas,
		Load:              loadPercent / 100.0,
		ReplicaKey:        pointKey,
	}
}
