// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/cluster/continuity"
)

// formationPoll is the time between two looks at a cluster that forms.
const formationPoll = 50 * time.Millisecond

// enterRoster waits until the votes of this member count. If there is no cluster yet, it
// proposes one of the members that are there. If there is one, its members add this one.
//
// A new cluster begins when all expected members are there. After the join timeout more
// than half of them suffice, since another half cannot begin one then. A node that
// expects one other member, or none, begins alone after that timeout.
func (n *Node) enterRoster(ctx context.Context) error {
	expected, explicit := n.expected()
	timeout := time.NewTimer(n.config.JoinTimeout)
	defer timeout.Stop()
	poll := time.NewTicker(formationPoll)
	defer poll.Stop()
	late, warned := false, false
	if expected == 1 && !explicit && len(n.config.Join) > 0 {
		n.log.Warn("--join names this node only: when it starts again while others run, it begins a cluster of its own and counts anew until they find it",
			"hint", "name the other members, too")
	}
	for {
		status, err := n.replication.Status(ctx)
		switch {
		case err != nil:
			return err
		case status.Voter:
			return nil
		case len(status.Roster.Names) == 0:
			names, exists := n.founders()
			enough := len(names) >= expected
			if late && !enough {
				enough = len(names) > expected/2 || !explicit && expected <= 2
				if !warned {
					n.log.Warn("expected members are missing", "expected", expected, "present", names, "begin_without_them", enough)
					warned = true
				}
			}
			if enough && !exists {
				n.replication.Bootstrap(names)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timeout.C:
			late = true
		case <-poll.C:
		}
	}
}

// founders returns the members that may begin a cluster, sorted, and whether there is one
// already.
func (n *Node) founders() (names []string, exists bool) {
	for _, m := range n.cluster.View().Members {
		if m.State == cluster.Joining {
			names = append(names, m.Name)
		}
		exists = exists || m.State == cluster.Serving && m.Name != n.config.Name
	}
	slices.Sort(names)
	return names, exists
}

// expected returns how many members a new cluster is to have, and whether someone has
// said so. By default that is this node and those in --join.
func (n *Node) expected() (members int, explicit bool) {
	if n.expectedMembers > 0 {
		return n.expectedMembers, true
	}
	if n.config.BootstrapExpect > 0 {
		return n.config.BootstrapExpect, true
	}
	self := 1
	addresses := slices.Compact(slices.Sorted(slices.Values(n.config.Join)))
	for _, a := range addresses {
		host, _, err := net.SplitHostPort(a)
		if a == n.config.Advertise || a == n.config.Gossip || a == n.GossipAddr() || err == nil && host == n.config.Name {
			self = 0
		}
	}
	return len(addresses) + self, false
}

// awaitOwners waits until every partition has an owner and, if there are other members, an
// heir, and this node the leases of its own, so that calls from now on need not wait for any
// of them.
func (n *Node) awaitOwners(ctx context.Context) error {
	poll := time.NewTicker(formationPoll)
	defer poll.Stop()
	for {
		status, err := n.replication.Status(ctx)
		heirs := len(status.Roster.Names) < 2 || status.WithoutHeir == 0
		if err != nil || status.Voter && status.WithoutOwner == 0 && heirs && status.Roles[continuity.Fenced] == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-poll.C:
		}
	}
}
