// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"slices"
	"time"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/peer"
)

// ClusterStatus is the cluster as this node sees it.
type ClusterStatus struct {
	Label  string     `json:"label"`
	Boot   cluster.ID `json:"boot"`  // of this node
	State  string     `json:"state"` // of this node
	Fenced bool       `json:"fenced"`
	// View is the number of the view. Each node numbers its views independently;
	// nodes with the same ring digest agree on all owners.
	View       uint64 `json:"view"`
	RingDigest string `json:"ring_digest"`
	// Roster is the number of members that may be deciding somewhere, including those
	// that crashed and are not forgotten.
	Roster int `json:"roster"`
	// Replication is nil if it did not answer in time.
	Replication *ReplicationStatus `json:"replication,omitempty"`
	Members     []MemberStatus     `json:"members"`
	Fencing     []MemberStatus     `json:"fencing,omitempty"` // see [cluster.View.Fenced]
	Departed    []Departure        `json:"departed,omitempty"`
	PolicySkew  []DigestGroup      `json:"policy_skew,omitempty"` // see [cluster.View.PolicySkew]
	EnvoySkew   []DigestGroup      `json:"envoy_skew,omitempty"`  // see [cluster.View.RulesSkew]
	// Unvouched are nodes in gossip that are not taken for the members that they claim to
	// be, because their certificates do not show it.
	Unvouched []cluster.Unvouched `json:"unvouched,omitempty"`
	// Problem says why missing members could not be reached lately.
	Problem     string    `json:"problem,omitempty"`
	LastContact time.Time `json:"last_contact,omitzero"`
	HealthScore int       `json:"health_score"` // see [cluster.Cluster.HealthScore]
	// Outbox is the number of calls that were decided in fallback and that their
	// owners have not acknowledged yet. Fallbacks counts the calls that were decided
	// in fallback, by cause.
	Outbox    int               `json:"outbox"`
	Fallbacks map[string]uint64 `json:"fallbacks"`
	// Keys are fingerprints of the cluster keys, the one in use first. Without keys
	// gossip is plaintext and members do not authenticate each other.
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
	EnvoyDigest  cluster.ID `json:"envoy_digest,omitzero"` // the first 16 digits of [EnvoyStatus.Digest]; 0: no rules
	// Link is the connection from this node to the member; nil for itself.
	Link *peer.LinkStatus `json:"link,omitempty"`
	// Replication is the stream of the ownership protocol from this node to the member; nil
	// for itself and before there is one.
	Replication *ReplicationLink `json:"replication,omitempty"`
}

// ReplicationLink is the stream of the ownership protocol to a member.
type ReplicationLink struct {
	Connected bool   `json:"connected"`
	Problem   string `json:"problem,omitempty"` // why it is not connected
}

// Departure is a boot of a member that departed and is not forgotten.
type Departure struct {
	Name string     `json:"name"`
	Boot cluster.ID `json:"boot"`
	Fate string     `json:"fate"` // left or crashed
	At   time.Time  `json:"at"`
}

// Gone returns the latest departure of each member that has not rejoined, oldest first.
func (c *ClusterStatus) Gone() (list []Departure) {
	for i, d := range c.Departed {
		later := slices.ContainsFunc(c.Departed[i+1:], func(o Departure) bool { return o.Name == d.Name })
		rejoined := slices.ContainsFunc(c.Members, func(m MemberStatus) bool { return m.Name == d.Name })
		if !later && !rejoined {
			list = append(list, d)
		}
	}
	return list
}

// DigestGroup lists the members that have the same policy, or the same rules of
// Envoy's rate limit service, in force.
type DigestGroup = cluster.DigestGroup

func (n *Node) clusterStatus(routed peer.Status, stats *limiter.Stats) ClusterStatus {
	c := n.cluster.Status()
	s := ClusterStatus{
		Label: n.config.Cluster, Boot: c.Boot.ID, State: c.State.String(), Fenced: c.Fenced,
		View: c.View.Number, RingDigest: routed.Ring, Roster: routed.Roster,
		Outbox: routed.Outbox, Fallbacks: routed.Fallbacks,
		PolicySkew: c.PolicySkew, EnvoySkew: c.RulesSkew,
		Unvouched: c.Unvouched, Problem: c.Problem, LastContact: c.LastContact, HealthScore: c.HealthScore, Keys: c.Keys,
	}
	member := func(m cluster.Member) MemberStatus {
		return MemberStatus{
			Name: m.Name, Self: m.Boot.ID == n.boot.ID, State: m.State.String(), Boot: m.Boot.ID, Started: m.Boot.Started,
			HTTP: addressText(m.HTTP), GRPC: addressText(m.GRPC), Gossip: addressText(m.Gossip), PolicyDigest: m.Policy, EnvoyDigest: m.Rules,
		}
	}
	replicated, links := n.replicationStatus(routed.Moving, stats)
	s.Replication = replicated
	for _, m := range c.View.Members {
		status := member(m)
		status.Replication = links[continuity.ID{Name: m.Name, Boot: runNumber(m.Boot)}]
		if i := slices.IndexFunc(routed.Members, func(r peer.MemberStatus) bool {
			return r.Name == m.Name && r.Boot == cluster.ID(runNumber(m.Boot)).String()
		}); i >= 0 {
			status.Partitions, status.Link = routed.Members[i].Partitions, routed.Members[i].Link
		}
		s.Members = append(s.Members, status)
	}
	for _, m := range c.View.Fenced {
		s.Fencing = append(s.Fencing, member(m))
	}
	for _, d := range c.View.Departed {
		s.Departed = append(s.Departed, Departure{Name: d.Name, Boot: d.Boot.ID, Fate: d.Fate.String(), At: d.At})
	}
	return s
}

// addressText returns "" for the zero address.
func addressText(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
