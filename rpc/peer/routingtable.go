// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/cluster/ownership"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
)

// routingTable is all that a call needs to know of the cluster. It is immutable once
// it is published. A call loads it once, and again only after a failed attempt, to
// see whether the topology has changed.
type routingTable struct {
	// number counts topologies. Tables with the same number differ in terms only.
	number uint64
	roles  *ownership.State
	// alone: no member serves, and no other boot has this node's name. The node
	// decides all calls, as when it starts or is the last to leave.
	alone  bool
	roster int
	// members that serve, by the index that the table gives them. The one that
	// is this process has no peer.
	members []*memberConn
	// others are alive and own nothing.
	others []*memberConn
	feed   *feed
}

// memberConn is a member and the connection to it.
type memberConn struct {
	Member
	peer *peer // nil: this process
}

// mine reports whether this process decides for a partition.
func (v *routingTable) mine(partition int) bool {
	return v.alone || v.roles.Role(partition) == ownership.Active
}

// owner returns the owner of a partition; nil if it has none.
func (v *routingTable) owner(partition int) *memberConn {
	if i := v.roles.Table().OwnerIndex(partition); i >= 0 {
		return v.members[i]
	}
	return nil
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
	table := old.roles.Table()
	if !slices.Equal(names, table.Members()) {
		var err error
		if table, err = ring.New(names); err != nil {
			return fmt.Errorf("set topology: %w", err)
		}
	}
	next := &routingTable{
		number: old.number + 1,
		alone:  len(names) == 0 && !t.Fenced,
		roster: t.Roster,
		feed:   old.feed,
	}
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
	next.others, err2 = place(t.Others)
	if err := errors.Join(err, err2); err != nil {
		for m, p := range known {
			if o := old.peerOf(m); o != p {
				p.close()
			}
		}
		return fmt.Errorf("set topology: %w", err)
	}
	r.publish(next, ownership.RingChange{Table: table, Fenced: t.Fenced})
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

func (t *Topology) validate() error {
	if t.Roster < 1 {
		return fmt.Errorf("roster: must be at least 1, got %d", t.Roster)
	}
	seen := map[string]bool{}
	for _, m := range slices.Concat(t.Serving, t.Others) {
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

// publish makes next the routing table, with the roles that follow from e.
func (r *Router) publish(next *routingTable, e ownership.RingChange) {
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	old := r.table.Load()
	var fx ownership.Effects
	next.roles, fx = ownership.Step(old.roles, e)
	next.feed = old.feed.follow(next)
	r.table.Store(next)
	if next.feed != old.feed {
		close(old.feed.changed)
	}
	r.metrics.moved(fx)
	if next.roles != old.roles {
		r.log.Info("ring changed", "ring_digest", hex(e.Table.Digest()), "serving", len(next.members),
			"fenced", e.Fenced, "gained", len(fx.Gained), "lost", len(fx.Lost))
	}
}

// learn takes terms that a member knows of.
func (r *Router) learn(reports ownership.TermReports) {
	r.tableMu.Lock()
	defer r.tableMu.Unlock()
	now := r.table.Load()
	roles, fx := ownership.Step(now.roles, reports)
	if roles == now.roles {
		return
	}
	next := *now
	next.roles = roles
	r.table.Store(&next)
	r.metrics.moved(fx)
}

// owned counts the partitions that this process decides for.
func (v *routingTable) owned() int {
	if v.alone {
		return ring.Partitions
	}
	return v.roles.Count(ownership.Active)
}
