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

// view is all that a call needs to know of the cluster. It is never changed once
// it is published; a call loads it once. What follows a call that failed loads
// it again, to see whether the topology has changed.
type view struct {
	// number counts topologies. Views with the same number differ in terms only.
	number uint64
	roles  *ownership.State
	// alone: nobody serves, and nobody else has this node's slot. It decides
	// everything, as a node does that starts or is the last to leave.
	alone  bool
	roster int
	// members that serve, by the index that the table gives them. The one that
	// is this process has no peer.
	members []*memberAt
	// others are alive and serve nothing.
	others []*memberAt
	feed   *feed
}

// memberAt is a member and the way there.
type memberAt struct {
	Member
	peer *peer // nil: this process
}

// mine reports whether this process decides for a partition.
func (v *view) mine(partition int) bool {
	return v.alone || v.roles.Role(partition) == ownership.Active
}

// owner returns who owns a partition; nil if nobody does.
func (v *view) owner(partition int) *memberAt {
	if i := v.roles.Table().OwnerIndex(partition); i >= 0 {
		return v.members[i]
	}
	return nil
}

// member returns a member by name; nil if there is none. Of two runs of this
// process's slot, it is the one that serves.
func (v *view) member(name string) *memberAt {
	i, found := slices.BinarySearchFunc(v.members, name, func(m *memberAt, name string) int { return strings.Compare(m.Name, name) })
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
func (v *view) all() []*memberAt { return slices.Concat(v.members, v.others) }

// SetTopology makes the router follow t. It is for one goroutine: it takes as
// long as it takes to compute the ring, while calls go on with the view before.
// After an error that view stays. Links to members that stay are kept; those to
// members that went are closed when their calls have ended, by [Router.Run].
func (r *Router) SetTopology(t Topology) error {
	old := r.view.Load()
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
	next := &view{
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
	place := func(members []Member) ([]*memberAt, error) {
		placed := make([]*memberAt, len(members))
		for i, m := range members {
			placed[i] = &memberAt{Member: m}
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
		slices.SortFunc(placed, func(a, b *memberAt) int { return strings.Compare(a.Name, b.Name) })
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

// peerOf returns the way to one run of a member; nil if there is none.
func (v *view) peerOf(m Member) *peer {
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

// publish makes next the view, with the roles that follow from e.
func (r *Router) publish(next *view, e ownership.RingChange) {
	r.step.Lock()
	defer r.step.Unlock()
	old := r.view.Load()
	var fx ownership.Effects
	next.roles, fx = ownership.Step(old.roles, e)
	next.feed = old.feed.follow(next)
	r.view.Store(next)
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
	r.step.Lock()
	defer r.step.Unlock()
	now := r.view.Load()
	roles, fx := ownership.Step(now.roles, reports)
	if roles == now.roles {
		return
	}
	next := *now
	next.roles = roles
	r.view.Store(&next)
	r.metrics.moved(fx)
}

// owned counts the partitions that this process decides for.
func (v *view) owned() int {
	if v.alone {
		return ring.Partitions
	}
	return v.roles.Count(ownership.Active)
}
