// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/ring"
)

// Status is what a router knows of the cluster. It is shown to people and as JSON.
type Status struct {
	// View counts the topologies that this node has followed.
	View uint64 `json:"view"`
	// Ring is the digest of the ring: the same at members that agree.
	Ring string `json:"ring_digest"`
	// Fenced: another boot of this member serves.
	Fenced bool `json:"fenced,omitempty"`
	Roster int  `json:"roster"`
	// Owned is how many partitions this node decides for.
	Owned int `json:"partitions_owned"`
	// Moving counts the partitions of all members that the ring gives to others than their
	// owners.
	Moving  int            `json:"partitions_moving"`
	Members []MemberStatus `json:"members"`
	// Outbox is the number of calls that wait for delivery to their owner.
	Outbox int `json:"outbox"`
	// Fallbacks counts the calls decided without their owner, by cause.
	Fallbacks map[string]uint64 `json:"fallbacks"`
	Slices    SliceStatus       `json:"slices"`
}

// SliceStatus counts slices of hot keys.
type SliceStatus struct {
	Held int `json:"held"` // by this node, of keys of other members
	Lent int `json:"lent"` // by this node, and neither returned nor over
	// PendingReturns are those that ended here and that their owners have not acknowledged.
	PendingReturns int `json:"pending_returns"`
}

// MemberStatus is one member. Serving members come first, sorted by name.
type MemberStatus struct {
	Name string `json:"name"`
	Boot string `json:"boot"`
	GRPC string `json:"grpc"`
	// Self: it is this node, and has no link.
	Self       bool        `json:"self,omitempty"`
	Serving    bool        `json:"serving"`
	Partitions int         `json:"partitions"` // that it owns
	Link       *LinkStatus `json:"link,omitempty"`
}

// LinkStatus is the state of the link to a member.
type LinkStatus struct {
	Connected   bool `json:"connected"`
	BreakerOpen bool `json:"breaker_open"`
	Queued      int  `json:"queued"`    // calls
	InFlight    int  `json:"in_flight"` // batches
	// Refused counts the calls that were refused because the member would not answer
	// them in time.
	Refused int `json:"refused"`
	// RefusedInMinute are those of the last minute.
	RefusedInMinute int `json:"refused_in_minute"`
}

// Status returns the state of the router. It is safe for concurrent use.
func (r *Router) Status() Status {
	v := r.table.Load()
	s := Status{
		View: v.number, Ring: hex(v.ring.Digest()), Fenced: v.fenced, Roster: r.Roster(), Owned: r.owned(),
		Members: []MemberStatus{}, Outbox: r.outbox.Len(), Fallbacks: r.metrics.causes(),
		Slices: r.sliceStatus(),
	}
	partitions := map[continuity.ID]int{}
	for p := range ring.Partitions {
		owner := r.owners.Place(p).Owner
		partitions[owner]++
		if v.ring.Owner(p) != owner.Name {
			s.Moving++
		}
	}
	for i, m := range v.all() {
		shown := MemberStatus{Name: m.Name, Boot: hex(m.Boot), GRPC: m.GRPC, Self: m.peer == nil, Serving: i < len(v.members)}
		shown.Partitions = partitions[continuity.ID{Name: m.Name, Boot: m.Boot}]
		if m.peer != nil {
			l := m.peer.link.Status()
			shown.Link = &LinkStatus{Connected: l.Connected, BreakerOpen: l.BreakerOpen, Queued: l.Queued, InFlight: l.InFlight, Refused: int(l.Refused), RefusedInMinute: int(l.RefusedInMinute)}
		}
		s.Members = append(s.Members, shown)
	}
	return s
}

func (r *Router) sliceStatus() SliceStatus {
	held, returns := r.holder.Status()
	return SliceStatus{Held: held, Lent: int(r.lender.outstanding.Load()), PendingReturns: returns}
}

// OwnerRun is a run of consecutive partitions with one owner.
type OwnerRun struct {
	Owner      string // "": no owner
	Partitions int
}

// Owners returns the owners of all partitions in order. Consecutive runs have
// different owners. It is safe for concurrent use.
func (r *Router) Owners() []OwnerRun {
	var runs []OwnerRun
	for p := range ring.Partitions {
		name := r.owners.Place(p).Owner.Name
		if len(runs) == 0 || runs[len(runs)-1].Owner != name {
			runs = append(runs, OwnerRun{Owner: name})
		}
		runs[len(runs)-1].Partitions++
	}
	return runs
}

// owned counts the partitions that this process decides for.
func (r *Router) owned() (n int) {
	v, now := r.table.Load(), r.owners.Clock()
	for p := range ring.Partitions {
		if r.mine(v, p, now) {
			n++
		}
	}
	return n
}

func hex(n uint64) string { return fmt.Sprintf("%016x", n) }
