// SPDX-License-Identifier: Apache-2.0

package cluster

import "fmt"

// ChangeKind says how a member changed between two views.
type ChangeKind uint8

// The kinds of changes.
const (
	MemberJoined  ChangeKind = iota + 1 // a new boot, without the state of earlier boots
	MemberLeft                          // see [Left]
	MemberCrashed                       // see [Crashed]
	MemberUpdated                       // same boot; another state, address or digest
)

var changeNames = [...]string{MemberJoined: "joined", MemberLeft: "left", MemberCrashed: "crashed", MemberUpdated: "updated"}

func (k ChangeKind) String() string {
	if k < MemberJoined || k > MemberUpdated {
		return fmt.Sprintf("change %d", uint8(k))
	}
	return changeNames[k]
}

// Change is one difference between two views. Before is zero for a member that
// joined, After is zero for one that left or crashed.
type Change struct {
	Kind          ChangeKind
	Before, After Member
}

// Diff returns the changes from one view to a later one of the same node, in
// order of names. A name with a new boot gives two changes: the departure of the
// old boot and the join of the new one. Views in between may have been skipped.
func Diff(from, to *View) []Change {
	var changes []Change
	fates := make(map[ID]Fate, len(to.Departed))
	for _, d := range to.Departed {
		fates[d.Boot.ID] = d.Fate
	}
	departed := func(m Member) {
		kind := MemberCrashed
		if fates[m.Boot.ID] == Left {
			kind = MemberLeft
		}
		changes = append(changes, Change{Kind: kind, Before: m})
	}
	joined := func(m Member) { changes = append(changes, Change{Kind: MemberJoined, After: m}) }

	before, after := from.Members, to.Members
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && before[0].Name < after[0].Name:
			departed(before[0])
			before = before[1:]
			continue
		case len(before) == 0 || after[0].Name < before[0].Name:
			joined(after[0])
			after = after[1:]
			continue
		case before[0].Boot.ID != after[0].Boot.ID:
			departed(before[0])
			joined(after[0])
		case before[0] != after[0]:
			changes = append(changes, Change{Kind: MemberUpdated, Before: before[0], After: after[0]})
		}
		before, after = before[1:], after[1:]
	}
	return changes
}
