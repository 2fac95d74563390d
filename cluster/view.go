// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Member is one boot of a slot, as it last described itself.
type Member struct {
	Slot  string `json:"slot"`
	Boot  Boot   `json:"boot"`
	State State  `json:"state"`
	// Gossip is where the member was seen; GRPC and HTTP are on the same host,
	// and invalid if it does not offer them.
	Gossip netip.AddrPort `json:"gossip"`
	GRPC   netip.AddrPort `json:"grpc"`
	HTTP   netip.AddrPort `json:"http"`
	Ring   ID             `json:"ring_digest"`
	Policy ID             `json:"policy_digest"`
	Rules  ID             `json:"rules_digest"` // of Envoy's rate limit service; 0: none
}

func (m Member) name() string { return nodeName(m.Slot, m.Boot.ID) }

// Fate is how a boot went.
type Fate uint8

// The fates of a boot.
const (
	Crashed Fate = iota + 1 // was not heard of any more, or replaced by a newer boot
	Left                    // said that it was leaving, and went
)

func (f Fate) String() string {
	if f == Left {
		return "left"
	}
	return "crashed"
}

// MarshalText implements [encoding.TextMarshaler].
func (f Fate) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// Departure is a boot that was a member and is not any more.
type Departure struct {
	Member           // as it last described itself
	Fate   Fate      `json:"fate"`
	At     time.Time `json:"at"` // of the first view without it, by this node's clock
}

// View is who is in the cluster, as one node sees it. It is never changed after
// it was published, and its slices must not be changed by readers.
type View struct {
	// Number grows by one with each view of this process, and only when
	// something is different. Two nodes number their views on their own. It is
	// 0, and the view is empty, until gossip has begun.
	Number uint64 `json:"number"`
	// Members are sorted by slot: for each slot its newest live boot.
	Members []Member `json:"members"`
	// Fenced are live boots that have lost their slot to a newer one elsewhere.
	// What they still decide must not count.
	Fenced []Member `json:"fenced,omitempty"`
	// Departed are boots that are gone and not forgotten yet, oldest first. A
	// boot that comes back, after a split say, is not among them.
	Departed []Departure `json:"departed,omitempty"`

	self   string           // slot of this node
	boot   Boot             // of this node
	absent []netip.AddrPort // peers to ask again: slots without a live boot, last lost first
}

// Member returns the member that holds a slot.
func (v *View) Member(slot string) (Member, bool) {
	i, ok := slices.BinarySearchFunc(v.Members, slot, func(m Member, slot string) int { return strings.Compare(m.Slot, slot) })
	if !ok {
		return Member{}, false
	}
	return v.Members[i], true
}

// Serving returns the sorted slots that the ring is made of.
func (v *View) Serving() []string {
	slots := make([]string, 0, len(v.Members))
	for _, m := range v.Members {
		if m.State == Serving {
			slots = append(slots, m.Slot)
		}
	}
	return slots
}

// SelfFenced reports whether a newer boot holds the slot of this node. A node
// that is fenced must stop deciding. Should the newer boot go away, the node
// holds its slot again, but nothing of what it held before counts any more.
func (v *View) SelfFenced() bool {
	m, ok := v.Member(v.self)
	return ok && m.Boot.Compare(v.boot) > 0
}

// Roster is the number of slots that may be deciding somewhere: the live ones
// and those that crashed and are not forgotten.
func (v *View) Roster() int {
	slots := make(map[string]bool, len(v.Members))
	for _, m := range v.Members {
		slots[m.Slot] = true
	}
	for _, d := range v.Departed {
		if d.Fate == Crashed {
			slots[d.Slot] = true
		}
	}
	return len(slots)
}

// PolicyGroup are the members that have one policy, or the same rules, in force.
type PolicyGroup struct {
	Digest ID       `json:"digest"`
	Slots  []string `json:"slots"` // sorted
}

// PolicySkew groups the members by policy, the largest group first. It is nil
// if all have the same.
func (v *View) PolicySkew() []PolicyGroup {
	return v.skew(func(m *Member) (ID, bool) { return m.Policy, true })
}

// RulesSkew is PolicySkew for the rules of Envoy's rate limit service, among the
// members that have any: the others are not asked.
func (v *View) RulesSkew() []PolicyGroup {
	return v.skew(func(m *Member) (ID, bool) { return m.Rules, m.Rules != 0 })
}

// skew groups the members that count by a digest.
func (v *View) skew(digest func(*Member) (id ID, counts bool)) []PolicyGroup {
	var groups []PolicyGroup
	for k := range v.Members {
		m := &v.Members[k]
		id, counts := digest(m)
		if !counts {
			continue
		}
		i := slices.IndexFunc(groups, func(g PolicyGroup) bool { return g.Digest == id })
		if i < 0 {
			i = len(groups)
			groups = append(groups, PolicyGroup{Digest: id})
		}
		groups[i].Slots = append(groups[i].Slots, m.Slot)
	}
	if len(groups) < 2 {
		return nil
	}
	slices.SortFunc(groups, func(a, b PolicyGroup) int {
		return cmp.Or(cmp.Compare(len(b.Slots), len(a.Slots)), cmp.Compare(a.Digest, b.Digest))
	})
	return groups
}

// left reports whether the latest of the departed at an address said goodbye.
func (v *View) left(gossip netip.AddrPort) bool {
	for _, d := range slices.Backward(v.Departed) {
		if d.Gossip == gossip {
			return d.Fate == Left
		}
	}
	return false
}

// sameAs compares all but the number.
func (v *View) sameAs(other *View) bool {
	return slices.Equal(v.Members, other.Members) && slices.Equal(v.Fenced, other.Fenced) &&
		slices.Equal(v.Departed, other.Departed) && slices.Equal(v.absent, other.absent)
}
