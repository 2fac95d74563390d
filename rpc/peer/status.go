// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"

	"github.com/bucketring/bucketring/ring"
)

// Status is what a router knows of the cluster, for people and programs.
type Status struct {
	// View counts the topologies that this node has had.
	View uint64 `json:"view"`
	// Ring is the digest of the ring: the same at members that agree.
	Ring string `json:"ring_digest"`
	// Fenced: another run of this node's slot serves.
	Fenced bool `json:"fenced,omitempty"`
	Roster int  `json:"roster"`
	// Owned is how many partitions this node decides for.
	Owned   int            `json:"partitions_owned"`
	Members []MemberStatus `json:"members"`
	// Outbox is how many calls wait for their owner to be told of them.
	Outbox int `json:"outbox"`
	// Fallbacks counts the calls decided without their owner, by cause.
	Fallbacks map[string]uint64 `json:"fallbacks"`
}

// MemberStatus is one member. Those that serve come first, sorted by name.
type MemberStatus struct {
	Name string `json:"name"`
	Boot string `json:"boot"`
	GRPC string `json:"grpc"`
	// Self: it is this node, and has no link.
	Self       bool        `json:"self,omitempty"`
	Serving    bool        `json:"serving"`
	Partitions int         `json:"partitions"` // that the ring gives it
	Link       *LinkStatus `json:"link,omitempty"`
}

// LinkStatus is how the way to a member does. It connects when it is first used.
type LinkStatus struct {
	Connected   bool `json:"connected"`
	BreakerOpen bool `json:"breaker_open"`
	Queued      int  `json:"queued"`    // calls
	InFlight    int  `json:"in_flight"` // batches
}

// Status may be asked at any time.
func (r *Router) Status() Status {
	v := r.view.Load()
	table := v.roles.Table()
	s := Status{
		View: v.number, Ring: hex(table.Digest()), Fenced: v.roles.Fenced(), Roster: v.roster, Owned: v.owned(),
		Members: []MemberStatus{}, Outbox: r.outbox.Len(), Fallbacks: r.metrics.causes(),
	}
	partitions := make([]int, len(v.members))
	for p := range ring.Partitions {
		if i := table.OwnerIndex(p); i >= 0 {
			partitions[i]++
		}
	}
	for i, m := range v.all() {
		shown := MemberStatus{Name: m.Name, Boot: hex(m.Boot), GRPC: m.GRPC, Self: m.peer == nil, Serving: i < len(v.members)}
		if shown.Serving {
			shown.Partitions = partitions[i]
		}
		if m.peer != nil {
			l := m.peer.link.Status()
			shown.Link = &LinkStatus{Connected: l.Connected, BreakerOpen: l.BreakerOpen, Queued: l.Queued, InFlight: l.InFlight}
		}
		s.Members = append(s.Members, shown)
	}
	return s
}

// OwnerRun is a number of partitions that follow each other and have one owner.
type OwnerRun struct {
	Owner      string // "": nobody owns them
	Partitions int
}

// Owners returns who decides for each partition, from 0 on. Runs that follow
// each other have different owners. It may be asked at any time.
func (r *Router) Owners() []OwnerRun {
	v := r.view.Load()
	if v.alone {
		return []OwnerRun{{r.name, ring.Partitions}}
	}
	var runs []OwnerRun
	for p := range ring.Partitions {
		name := ""
		if m := v.owner(p); m != nil {
			name = m.Name
		}
		if len(runs) == 0 || runs[len(runs)-1].Owner != name {
			runs = append(runs, OwnerRun{Owner: name})
		}
		runs[len(runs)-1].Partitions++
	}
	return runs
}

func hex(n uint64) string { return fmt.Sprintf("%016x", n) }
