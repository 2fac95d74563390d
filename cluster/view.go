// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Member is one boot of a name, with the metadata that it announced last.
type Member struct {
	Name  string
	Boot  Boot
	State State
	// Gossip is the address of the member's gossip. GRPC and HTTP are on the same
	// host, and invalid if the member does not offer them.
	Gossip, GRPC, HTTP netip.AddrPort
	TLS                bool // GRPC takes TLS
	Ring               ID   // digest of the ring configuration
	Policy             ID   // digest of the policy in force
	Rules              ID   // digest of the rules of Envoy's rate limit service; 0: none
}

func (m Member) gossipName() string { return gossipName(m.Name, m.Boot.ID) }

// Fate says how a boot departed.
type Fate uint8

// The fates of a boot.
const (
	Crashed Fate = iota + 1 // stopped answering, or was replaced by a newer boot
	Left                    // announced that it was leaving
)

func (f Fate) String() string {
	if f == Left {
		return "left"
	}
	return "crashed"
}

// Departure is a boot that was a member and is not any more.
type Departure struct {
	Member
	Fate Fate
	At   time.Time // of the first view without it, by this node's clock
}

// View is the set of members as one node sees it. It is immutable once
// published; readers must not modify its slices.
type View struct {
	// Number increases by one with each view of this process. Nodes number their
	// views independently. It is 0, and the view is empty, until gossip has started.
	Number uint64
	// Members are the newest live boots of all names, sorted by name.
	Members []Member
	// Fenced are live boots whose name a newer boot at another address has. Their
	// decisions must not count.
	Fenced []Member
	// Departed are the boots that departed within [Options.DepartedTTL], oldest
	// first. A boot that returns, for example after a split, is removed from it.
	Departed []Departure

	self    string           // name of this node
	fenced  bool             // see SelfFenced
	boot    Boot             // of this node
	missing []netip.AddrPort // of crashed members to contact again, the latest crash first
}

// Member returns the member with a name.
func (v *View) Member(name string) (Member, bool) {
	i, ok := slices.BinarySearchFunc(v.Members, name, func(m Member, name string) int { return strings.Compare(m.Name, name) })
	if !ok {
		return Member{}, false
	}
	return v.Members[i], true
}

// Serving returns the names of the members that make up the ring, sorted.
func (v *View) Serving() []string {
	names := make([]string, 0, len(v.Members))
	for _, m := range v.Members {
		if m.State == Serving {
			names = append(names, m.Name)
		}
	}
	return names
}

// SelfFenced reports whether a newer boot has or had the name of this node, which must then
// stop deciding until it is started again: the others do not trust what it holds any more,
// even if the newer boot departs.
func (v *View) SelfFenced() bool { return v.fenced }

// Roster returns the number of names that may be deciding somewhere: live members
// and those in Departed that crashed.
func (v *View) Roster() int {
	names := make(map[string]bool, len(v.Members))
	for _, m := range v.Members {
		names[m.Name] = true
	}
	for _, d := range v.Departed {
		if d.Fate == Crashed {
			names[d.Name] = true
		}
	}
	return len(names)
}

// DigestGroup lists the members that have the same policy or the same rules in
// force.
type DigestGroup struct {
	Digest  ID       `json:"digest"`
	Members []string `json:"members"` // sorted names
}

// PolicySkew groups the members by policy, the largest group first. It returns
// nil if all have the same policy.
func (v *View) PolicySkew() []DigestGroup {
	return v.skew(func(m *Member) (ID, bool) { return m.Policy, true })
}

// RulesSkew groups the members that have rules of Envoy's rate limit service by
// their rules, the largest group first. It returns nil if all have the same rules.
func (v *View) RulesSkew() []DigestGroup {
	return v.skew(func(m *Member) (ID, bool) { return m.Rules, m.Rules != 0 })
}

// skew groups members by digest. It ignores members for which ok is false.
func (v *View) skew(digest func(*Member) (id ID, ok bool)) []DigestGroup {
	var groups []DigestGroup
	for k := range v.Members {
		m := &v.Members[k]
		id, ok := digest(m)
		if !ok {
			continue
		}
		i := slices.IndexFunc(groups, func(g DigestGroup) bool { return g.Digest == id })
		if i < 0 {
			i = len(groups)
			groups = append(groups, DigestGroup{Digest: id})
		}
		groups[i].Members = append(groups[i].Members, m.Name)
	}
	if len(groups) < 2 {
		return nil
	}
	slices.SortFunc(groups, func(a, b DigestGroup) int {
		return cmp.Or(cmp.Compare(len(b.Members), len(a.Members)), cmp.Compare(a.Digest, b.Digest))
	})
	return groups
}

// live returns the addresses of the boots that are alive.
func (v *View) live() map[netip.AddrPort]bool {
	live := make(map[netip.AddrPort]bool, len(v.Members)+len(v.Fenced)+1)
	for _, m := range v.Members {
		live[m.Gossip] = true
	}
	for _, m := range v.Fenced {
		live[m.Gossip] = true
	}
	return live
}

// left reports whether the latest departed boot at an address left, rather than
// crashed.
func (v *View) left(gossip netip.AddrPort) bool {
	for _, d := range slices.Backward(v.Departed) {
		if d.Gossip == gossip {
			return d.Fate == Left
		}
	}
	return false
}

// sameAs compares everything but the number.
func (v *View) sameAs(other *View) bool {
	return v.fenced == other.fenced && slices.Equal(v.Members, other.Members) && slices.Equal(v.Fenced, other.Fenced) &&
		slices.Equal(v.Departed, other.Departed) && slices.Equal(v.missing, other.missing)
}
