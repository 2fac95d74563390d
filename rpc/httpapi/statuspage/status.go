// SPDX-License-Identifier: Apache-2.0

package statuspage

import (
	"slices"
	"strings"
	"time"
)

// Status is what the page shows. Texts may be empty and lists nil.
type Status struct {
	At       time.Time // when it was so
	Name     string    // of the node that says so
	Boot     string
	Version  string
	NotReady string // why not; "": it is ready
	Uptime   time.Duration
	HTTP     string
	GRPC     string
	Gossip   string
	Policy   Policy
	Cluster  Cluster
	// Owners covers the partitions from 0 on, in order.
	Owners       []Run
	Keys         int
	Reservations int
	RequestIDs   int
}

// Run is a number of partitions that follow each other and have one owner; "":
// nobody owns them.
type Run struct {
	Owner      string
	Partitions int
}

// Policy is what the node has in force.
type Policy struct {
	Path        string // "": the embedded default
	Version     string
	Digest      string
	LoadedAt    time.Time
	LastError   string // "": the last attempt to load it succeeded
	LastErrorAt time.Time
	Reloads     int64
	Failures    int64
}

// Cluster is the cluster as the node sees it.
type Cluster struct {
	Label       string
	State       string // of the node, as it has said
	Fenced      bool   // the node is
	View        uint64
	RingDigest  string
	Roster      int
	Members     []Member
	Fencing     []Member // that are fenced by another run with their name
	Departed    []Departure
	Skew        []PolicyGroup // none: all members have the same policy
	EnvoySkew   []PolicyGroup // none: all have the same rules of Envoy's rate limit service
	Problem     string
	LastContact time.Time
	HealthScore int
	Outbox      int
	Fallbacks   map[string]uint64 // by cause
	Keys        []string          // fingerprints; none: gossip is plaintext
}

// Member is one member that is alive.
type Member struct {
	Name       string
	Self       bool
	State      string
	Boot       string
	Started    time.Time
	HTTP       string
	GRPC       string
	Gossip     string
	Partitions int
	Policy     string
	Link       *Link // nil: there is none, as to itself
}

// Link is how calls get to a member.
type Link struct {
	Connected   bool
	BreakerOpen bool
	Queued      int // calls
	InFlight    int // batches
}

// Departure is a member that is gone and not forgotten.
type Departure struct {
	Name string
	Boot string
	Fate string // left or crashed
	At   time.Time
}

// PolicyGroup are the members that have one policy, or the same rules for Envoy.
type PolicyGroup struct {
	Digest  string
	Members []string
}

// notice is something that a person should know first.
type notice struct {
	What string
	Why  string
}

// noticesOf lists what is not as it should be, the worst first.
func noticesOf(s Status) []notice {
	var all []notice
	say := func(is bool, what, why string) {
		if is {
			all = append(all, notice{what, why})
		}
	}
	c := s.Cluster
	say(s.NotReady != "", "This node is not ready.", s.NotReady)
	say(c.Fenced && s.NotReady == "", "This node is fenced.", "A node that started later has the same name, and decides in its place.")
	say(slices.ContainsFunc(s.Owners, func(r Run) bool { return r.Owner == "" }),
		"Some partitions have no owner.", "Calls for them are decided by fallback.")
	var silent, crashed []string
	for _, m := range c.Members {
		if m.Link != nil && m.Link.BreakerOpen {
			silent = append(silent, m.Name)
		}
	}
	for _, d := range c.Departed {
		if d.Fate == "crashed" {
			crashed = append(crashed, d.Name)
		}
	}
	say(len(silent) > 0, "Members do not answer this node.",
		strings.Join(silent, ", ")+": the breaker is open. Calls for their keys are decided by fallback until they answer again.")
	say(len(crashed) > 0, "Members crashed.", strings.Join(crashed, ", "))
	say(c.Problem != "", "Members are missing.", c.Problem)
	say(len(c.Skew) > 0, "Members have different policies.", "What a call is answered depends on who owns its key.")
	var rules []string
	for _, g := range c.EnvoySkew {
		rules = append(rules, g.Digest+" at "+strings.Join(g.Members, ", "))
	}
	say(len(rules) > 0, "Members have different rules for Envoy.", "What Envoy is answered depends on whom it asks: "+strings.Join(rules, "; ")+".")
	say(s.Policy.LastError != "", "The policy files are not valid.", "The policy before them stays in force.")
	say(c.Outbox > 0, count(c.Outbox)+" admitted calls wait in the outbox.", "Their owners were not told of them yet.")
	say(c.HealthScore > 0, "This node is slow at gossip.", "Its health score is "+count(c.HealthScore)+"; 0 is well.")
	return all
}
