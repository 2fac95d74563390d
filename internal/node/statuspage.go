// SPDX-License-Identifier: Apache-2.0

package node

import (
	"time"

	"github.com/bucketring/bucketring/rpc/httpapi/statuspage"
	"github.com/bucketring/bucketring/rpc/peer"
)

// statusPage returns Status and the owners of all partitions for the status page.
func (n *Node) statusPage() statuspage.Status {
	s := n.Status()
	page := statuspage.Status{
		At: time.Now(), Name: s.Name, Boot: s.Cluster.Boot.String(), Version: s.Version,
		NotReady: s.NotReady, Uptime: time.Duration(s.UptimeSeconds) * time.Second,
		HTTP: s.HTTP, GRPC: s.GRPC, Gossip: s.Gossip,
		Policy: statuspage.Policy{
			Path: s.Policy.Path, Version: s.Policy.Version, Digest: s.Policy.Digest, LoadedAt: s.Policy.LoadedAt,
			LastError: s.Policy.LastError, LastErrorAt: s.Policy.LastErrorAt,
			Reloads: s.Policy.Reloads, Failures: s.Policy.Failures,
		},
		Cluster: pageCluster(s.Cluster),
		Keys:    s.State.Keys, Reservations: s.State.Reservations, RequestIDs: s.State.RequestIDs,
	}
	if r := s.Cluster.Replication; r != nil {
		page.Copies = &statuspage.Copies{
			NotSafe: r.NotSafe, Voters: r.Roster, Owned: r.Owned, Copied: r.Copies, WithoutOwner: r.WithoutOwner, WithoutHeir: r.WithoutHeir,
			Copying: r.Copying, Moving: r.Moving, Lag: time.Duration(r.LagMillis) * time.Millisecond,
		}
	}
	if j := s.Journal; j != nil {
		page.Journal = &statuspage.Journal{Bytes: j.JournalBytes, Failing: j.Failing}
		if j.LastSync != nil {
			page.Journal.LastSync = *j.LastSync
		}
	}
	for _, r := range n.router.Owners() {
		page.Owners = append(page.Owners, statuspage.Run(r))
	}
	for _, p := range s.Problems() {
		page.Problems = append(page.Problems, statuspage.Problem(p))
	}
	page.HotKeys, page.Waiting, page.Traffic = n.pageHotKeys()
	return page
}

func pageCluster(c ClusterStatus) statuspage.Cluster {
	page := statuspage.Cluster{
		Label: c.Label, State: c.State, Fenced: c.Fenced, View: c.View, RingDigest: c.RingDigest, Roster: c.Roster,
		Members: pageMembers(c.Members), Fencing: pageMembers(c.Fencing),
		Problem: c.Problem, LastContact: c.LastContact, HealthScore: c.HealthScore,
		Outbox: c.Outbox, Fallbacks: c.Fallbacks,
	}
	for _, d := range c.Departed {
		page.Departed = append(page.Departed, statuspage.Departure{Name: d.Name, Boot: d.Boot.String(), Fate: d.Fate, At: d.At})
	}
	for _, d := range c.Gone() {
		if d.Fate == "crashed" {
			page.Crashed = append(page.Crashed, d.Name)
		}
	}
	page.Skew, page.EnvoySkew = pageGroups(c.PolicySkew), pageGroups(c.EnvoySkew)
	for _, k := range c.Keys {
		page.Keys = append(page.Keys, k.String())
	}
	return page
}

func pageGroups(groups []DigestGroup) (page []statuspage.PolicyGroup) {
	for _, g := range groups {
		page = append(page, statuspage.PolicyGroup{Digest: g.Digest.String(), Members: g.Members})
	}
	return page
}

func pageMembers(members []MemberStatus) []statuspage.Member {
	page := make([]statuspage.Member, len(members))
	for i, m := range members {
		page[i] = statuspage.Member{
			Name: m.Name, Self: m.Self, State: m.State, Boot: m.Boot.String(), Started: m.Started,
			HTTP: m.HTTP, GRPC: m.GRPC, Gossip: m.Gossip,
			Partitions: m.Partitions, Policy: m.PolicyDigest.String(), Link: pageLink(m.Link),
		}
		if m.Replication != nil {
			page[i].Problem = m.Replication.Problem
		}
	}
	return page
}

func pageLink(l *peer.LinkStatus) *statuspage.Link {
	if l == nil {
		return nil
	}
	link := statuspage.Link(*l)
	return &link
}
