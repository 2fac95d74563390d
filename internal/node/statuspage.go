// SPDX-License-Identifier: Apache-2.0

package node

import (
	"time"

	"github.com/bucketring/bucketring/rpc/httpapi/statuspage"
	"github.com/bucketring/bucketring/rpc/peer"
)

// statusPage is Status for people, and the owners of the ring.
func (n *Node) statusPage() statuspage.Status {
	s := n.Status()
	shown := statuspage.Status{
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
	for _, r := range n.router.Owners() {
		shown.Owners = append(shown.Owners, statuspage.Run(r))
	}
	return shown
}

func pageCluster(c ClusterStatus) statuspage.Cluster {
	shown := statuspage.Cluster{
		Label: c.Label, State: c.State, Fenced: c.Fenced, View: c.View, RingDigest: c.RingDigest, Roster: c.Roster,
		Members: pageMembers(c.Members), Fencing: pageMembers(c.Fencing),
		Problem: c.Problem, LastContact: c.LastContact, HealthScore: c.HealthScore,
		Outbox: c.Outbox, Fallbacks: c.Fallbacks,
	}
	for _, d := range c.Departed {
		shown.Departed = append(shown.Departed, statuspage.Departure{Name: d.Name, Boot: d.Boot.String(), Fate: d.Fate, At: d.At})
	}
	shown.Skew, shown.EnvoySkew = pageGroups(c.PolicySkew), pageGroups(c.EnvoySkew)
	for _, k := range c.Keys {
		shown.Keys = append(shown.Keys, k.String())
	}
	return shown
}

func pageGroups(groups []PolicyGroup) (shown []statuspage.PolicyGroup) {
	for _, g := range groups {
		shown = append(shown, statuspage.PolicyGroup{Digest: g.Digest.String(), Members: g.Members})
	}
	return shown
}

func pageMembers(members []MemberStatus) []statuspage.Member {
	shown := make([]statuspage.Member, len(members))
	for i, m := range members {
		shown[i] = statuspage.Member{
			Name: m.Name, Self: m.Self, State: m.State, Boot: m.Boot.String(), Started: m.Started,
			HTTP: m.HTTP, GRPC: m.GRPC, Gossip: m.Gossip,
			Partitions: m.Partitions, Policy: m.PolicyDigest.String(), Link: pageLink(m.Link),
		}
	}
	return shown
}

func pageLink(l *peer.LinkStatus) *statuspage.Link {
	if l == nil {
		return nil
	}
	link := statuspage.Link(*l)
	return &link
}
