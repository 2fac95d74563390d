// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"slices"
	"time"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/rpc/peer"
)

// ClusterStatus is the cluster as this node sees it.
type ClusterStatus struct {
	Label  string     `json:"label"`
	Boot   cluster.ID `json:"boot"`  // of this node
	State  string     `json:"state"` // of this node, as it has said
	Fenced bool       `json:"fenced"`
	// View numbers what this node has seen, on its own; nodes with the same ring
	// digest have the same owners.
	View       uint64 `json:"view"`
	RingDigest string `json:"ring_digest"`
	// Roster is how many members may be deciding somewhere, those included that
	// crashed and are not forgotten.
	Roster     int            `json:"roster"`
	Members    []MemberStatus `json:"members"`
	Fencing    []MemberStatus `json:"fencing,omitempty"` // see [cluster.View.Fenced]
	Departed   []Departure    `json:"departed,omitempty"`
	PolicySkew []PolicyGroup  `json:"policy_skew,omitempty"` // none: all have the same
	// EnvoySkew groups the members that have rules of Envoy's rate limit service;
	// none: all of them have the same.
	EnvoySkew []PolicyGroup `json:"envoy_skew,omitempty"`
	// Problem is why members that are missing could not be reached lately.
	Problem     string    `json:"problem,omitempty"`
	LastContact time.Time `json:"last_contact,omitzero"`
	HealthScore int       `json:"health_score"` // 0: this node keeps up with gossip
	// Outbox is how many calls that were decided without their owner it was not
	// told of yet, Fallbacks how many were decided so, by cause.
	Outbox    int               `json:"outbox"`
	Fallbacks map[string]uint64 `json:"fallbacks"`
	// Keys are fingerprints of the cluster keys, the one in use first. None:
	// gossip is plaintext, and members need no key.
	Keys []cluster.ID `json:"keys,omitempty"`
}

// MemberStatus is one member.
type MemberStatus struct {
	Name         string     `json:"name"`
	Self         bool       `json:"self,omitempty"`
	State        string     `json:"state"` // joining, serving or leaving
	Boot         cluster.ID `json:"boot"`
	Started      time.Time  `json:"started"`
	HTTP         string     `json:"http"`
	GRPC         string     `json:"grpc"`
	Gossip       string     `json:"gossip"`
	Partitions   int        `json:"partitions"`
	PolicyDigest cluster.ID `json:"policy_digest"`
	EnvoyDigest  cluster.ID `json:"envoy_digest,omitzero"` // the beginning of [EnvoyStatus.Digest]; 0: no rules
	// Link is how calls get there from this node; nil for itself.
	Link *peer.LinkStatus `json:"link,omitempty"`
}

// Departure is a member that is gone and not forgotten.
type Departure struct {
	Name string     `json:"name"`
	Boot cluster.ID `json:"boot"`
	Fate string     `json:"fate"` // left or crashed
	At   time.Time  `json:"at"`
}

// PolicyGroup are the members that have one policy, or the same rules of Envoy's
// rate limit service, in force.
type PolicyGroup struct {
	Digest  cluster.ID `json:"digest"`
	Members []string   `json:"members"`
}

func (n *Node) clusterStatus(routed peer.Status) ClusterStatus {
	c := n.cluster.Status()
	s := ClusterStatus{
		Label: n.config.Cluster, Boot: c.Boot.ID, State: c.State.String(), Fenced: c.Fenced,
		View: c.View.Number, RingDigest: routed.Ring, Roster: routed.Roster,
		Outbox: routed.Outbox, Fallbacks: routed.Fallbacks,
		Problem: c.Problem, LastContact: c.LastContact, HealthScore: c.HealthScore, Keys: c.Keys,
	}
	member := func(m cluster.Member) MemberStatus {
		return MemberStatus{
			Name: m.Slot, Self: m.Boot.ID == n.boot.ID, State: m.State.String(), Boot: m.Boot.ID, Started: m.Boot.Started,
			HTTP: addressText(m.HTTP), GRPC: addressText(m.GRPC), Gossip: addressText(m.Gossip), PolicyDigest: m.Policy, EnvoyDigest: m.Rules,
		}
	}
	for _, m := range c.View.Members {
		shown := member(m)
		if i := slices.IndexFunc(routed.Members, func(r peer.MemberStatus) bool { return r.Boot == m.Boot.ID.String() }); i >= 0 {
			shown.Partitions, shown.Link = routed.Members[i].Partitions, routed.Members[i].Link
		}
		s.Members = append(s.Members, shown)
	}
	for _, m := range c.View.Fenced {
		s.Fencing = append(s.Fencing, member(m))
	}
	for _, d := range c.View.Departed {
		s.Departed = append(s.Departed, Departure{Name: d.Slot, Boot: d.Boot.ID, Fate: d.Fate.String(), At: d.At})
	}
	s.PolicySkew, s.EnvoySkew = groupsOf(c.PolicySkew), groupsOf(c.RulesSkew)
	return s
}

func groupsOf(from []cluster.PolicyGroup) (groups []PolicyGroup) {
	for _, g := range from {
		groups = append(groups, PolicyGroup{Digest: g.Digest, Members: g.Slots})
	}
	return groups
}

func addressText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
