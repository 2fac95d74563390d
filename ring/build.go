// SPDX-License-Identifier: Apache-2.0

package ring

import (
	"errors"
	"fmt"
	"slices"

	"github.com/buraksezer/consistent"
)

// New returns the table of a set of members. Their order and duplicates do not
// matter. It fails, and the caller should keep its current table, if
//
//   - a name is empty,
//   - there are more than [MaxMembers], or
//   - two members hash to the same point of the circle. That happens for one in
//     10^11 sets of 100 members, and renaming either member fixes it.
//
// It takes 2 ms for 3 members, 3 ms for 10, 10 ms for 30 and 0.1 s for 100, and
// grows with the square of their number: 3 s for 512. Call it when the members
// change, never per request.
func New(members []string) (*Table, error) { return build(members, circleHash{}) }

// build is New with any hash.
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
		return nil, errors.New("build ring: a member has an empty name")
	}

	c, err := newCircle(members, hash)
	if err != nil {
		return nil, fmt.Errorf("build ring: %w", err)
	}
	t := &Table{members: members}
	if t.owners, err = libraryOwners(members, hash); err != nil {
		return nil, fmt.Errorf("build ring: %w", err)
	}
	if c.ownersWithout(noMember) != t.owners {
		return nil, fmt.Errorf("build ring: %s assigns partitions differently from package ring", library)
	}
	t.heirs = c.heirs(&t.owners)
	t.digest = t.computeDigest()
	return t, nil
}

// libraryOwners returns the owners that the library computes. A panic of the
// library is returned as an error.
//
// It builds a new instance from sorted names each time, because the result of
// Add and Remove depends on their order when two points are equal.
func libraryOwners(members []string, hash consistent.Hasher) (owners [Partitions]uint16, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %v", library, r)
		}
	}()
	ordinals := make(map[consistent.Member]uint16, len(members))
	nodes := make([]consistent.Member, len(members))
	for i, m := range members {
		nodes[i] = node(m)
		ordinals[nodes[i]] = uint16(i + 1)
	}
	c := consistent.New(nodes, libraryConfig(hash))
	for p := range owners {
		owners[p] = ordinals[c.GetPartitionOwner(p)]
	}
	return owners, nil
}

// libraryConfig returns the layout as the library's configuration.
func libraryConfig(hash consistent.Hasher) consistent.Config {
	return consistent.Config{
		Hasher:            hash,
		PartitionCount:    Partitions,
		ReplicationFactor: replicas,
		Load:              loadPercent / 100.0,
		ReplicaKey:        pointKey,
	}
}
