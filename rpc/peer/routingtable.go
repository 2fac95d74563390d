// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/replication"
)

// routingTable is what a call needs to know of the members. It is immutable once it is
// published. A call loads it once, and again only after a failed attempt, to see whether
// the topology has changed. Who owns what is known to [Owners].
type routingTable struct {
	number uint64      // counts topologies
	ring   *ring.Table // whom the members that serve make the owners in the end
	fenced bool        // a newer run of this member serves
	roster int
	// members that serve, sorted by name. The one that is this process has no peer.
	members []*memberConn
	// others are alive and not on the ring.
	others []*memberConn
}

// memberConn is a member and the connection to it.
type memberConn struct {
	Member
	peer *peer // nil: this process
}

// member returns a member by name; nil if there is none. Of two boots of this
// member, it is the one that serves.
func (v *routingTable) member(name string) *memberConn {
	i, found := slices.BinarySearchFunc(v.members, name, func(m *memberConn, name string) int { return strings.Compare(m.Name, name) })
	if found {
		return v.members[i]
	}
	for _, m := range v.others {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// all lists the members that serve, then the others.
func (v *routingTable) all() []*memberConn { return slices.Concat(v.members, v.others) }

// SetTopology makes the router follow t. Only one goroutine may call it. It computes
// the ring, which takes some milliseconds; calls meanwhile use the previous routing
// table, which stays in use after an error. Links to members that stay are kept. Links
// to members that left are closed by [Router.Run], when their calls have ended.
func (r *Router) SetTopology(t Topology) error {
	old := r.table.Load()
	if err := t.validate(); err != nil {
		return fmt.Errorf("set topology: %w", err)
	}
	names := make([]string, len(t.Serving))
	for i, m := range t.Serving {
		names[i] = m.Name
	}
	slices.Sort(names)
	table := old.ring
	if !slices.Equal(names, table.Members()) {
		var err error
		if table, err = ring.New(names); err != nil {
			return fmt.Errorf("set topology: %w", err)
		}
	}
	next := &routingTable{number: old.number + 1, ring: table, fenced: t.Fenced, roster: t.Roster}
	known := map[Member]*peer{}
	for _, m := range old.all() {
		if m.peer != nil {
			known[m.Member] = m.peer
		}
	}
	kept := map[*peer]bool{}
	place := func(members []Member) ([]*memberConn, error) {
		placed := make([]*memberConn, len(members))
		for i, m := range members {
			placed[i] = &memberConn{Member: m}
			if m.Name == r.name && m.Boot == r.boot {
				continue
			}
			if placed[i].peer = known[m]; placed[i].peer == nil {
				p, err := r.newPeer(m)
				if err != nil {
					return nil, err
				}
				known[m], placed[i].peer = p, p
			}
			kept[placed[i].peer] = true
		}
		slices.SortFunc(placed, func(a, b *memberConn) int { return strings.Compare(a.Name, b.Name) })
		return placed, nil
	}
	var err, err2 error
	next.members, err = place(t.Serving)
	next.others, err2 = place(slices.Concat(t.Joining, t.Leaving))
	if err := errors.Join(err, err2); err != nil {
		for m, p := range known {
			if o := old.peerOf(m); o != p {
				p.close()
			}
		}
		return fmt.Errorf("set topology: %w", err)
	}
	r.table.Store(next)
	if table != old.ring || t.Fenced != old.fenced {
		r.log.Info("ring changed", "ring_digest", hex(table.Digest()), "serving", len(next.members), "fenced", t.Fenced)
	}
	view, addresses := t.view(table)
	r.owners.SetView(view, addresses)
	r.OwnersChanged()
	r.outbox.RetryNow()
	for _, p := range known {
		if !kept[p] {
			r.retire(p)
		}
	}
	if r.ended() {
		r.closePeers() // also those that are new
	}
	return nil
}

// peerOf returns the connection to one boot of a member; nil if there is none.
func (v *routingTable) peerOf(m Member) *peer {
	for _, known := range v.all() {
		if known.Member == m {
			return known.peer
		}
	}
	return nil
}

// view returns a topology in the form of the ownership protocol.
func (t *Topology) view(targets *ring.Table) (continuity.View, map[string]replication.Address) {
	v, addresses := continuity.View{Targets: targets}, map[string]replication.Address{}
	for state, members := range map[continuity.MemberState][]Member{continuity.Joining: t.Joining, continuity.Serving: t.Serving, continuity.Leaving: t.Leaving} {
		for _, m := range members {
			v.Members = append(v.Members, continuity.Member{ID: continuity.ID{Name: m.Name, Boot: m.Boot}, State: state})
			addresses[m.Name] = replication.Address{GRPC: m.GRPC, TLS: m.TLS, Gossip: m.Gossip}
		}
	}
	slices.SortFunc(v.Members, func(a, b continuity.Member) int { return strings.Compare(a.Name, b.Name) })
	return v, addresses
}

func (t *Topology) validate() error {
	if t.Roster < 1 {
		return fmt.Errorf("roster: must be at least 1, got %d", t.Roster)
	}
	seen := map[string]bool{}
	for _, m := range slices.Concat(t.Serving, t.Joining, t.Leaving) {
		switch {
		case m.Name == "" || strings.Contains(m.Name, requestid.Separator):
			return fmt.Errorf("member: name must not be empty or contain %q, got %q", requestid.Separator, m.Name)
		case m.GRPC == "":
			return fmt.Errorf("member %s: must have a gRPC address", m.Name)
		case seen[m.Name]:
			return fmt.Errorf("member %s: is there twice", m.Name)
		}
		seen[m.Name] = true
	}
	return nil
}
