// SPDX-License-Identifier: Apache-2.0

package cluster

import "fmt"

// ChangeKind is what happened to a member between two views.
type ChangeKind uint8

// The kinds of changes.
const (
	MemberJoined  ChangeKind = iota + 1 // with nothing, as far as its slot's earlier boots go
	MemberLeft                          // see [Left]
	MemberCrashed                       // see [Crashed]
	MemberUpdated                       // same boot, other state, address or policy
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

// Diff says how to get from one view to a later one of the same node, in order
// of slots. A slot with a new boot is two changes: the old boot went, and the
// new one joined. Views in between need not have been seen.
func Diff(from, to *View) []Change {
	var changes []Change
	fates := make(map[ID]Fate, len(to.Departed))
	for _, d := range to.Departed {
		fates[d.Boot.ID] = d.Fate
	}
	gone := func(m Member) {
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
		case len(after) == 0 || len(before) > 0 && before[0].Slot < after[0].Slot:
			gone(before[0])
			before = before[1:]
			continue
		case len(before) == 0 || after[0].Slot < before[0].Slot:
			joined(after[0])
			after = after[1:]
			continue
		case before[0].Boot.ID != after[0].Boot.ID:
			gone(before[0])
			joined(after[0])
		case before[0] != after[0]:
			changes = append(changes, Change{Kind: MemberUpdated, Before: before[0], After: after[0]})
		}
		before, after = before[1:], after[1:]
	}
	return changes
}
