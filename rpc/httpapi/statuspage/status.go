// SPDX-License-Identifier: Apache-2.0

package statuspage

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Status is what the page shows. Texts may be empty and lists nil.
type Status struct {
	At       time.Time // of the snapshot
	Name     string    // of the node
	Boot     string
	Version  string
	NotReady string // why the node is not ready; "": it is ready
	Uptime   time.Duration
	HTTP     string
	GRPC     string
	Gossip   string
	Policy   Policy
	Cluster  Cluster
	// Copies says who holds the state of partitions; nil: not known.
	Copies  *Copies
	Journal *Journal // nil: there is none
	// Owners are the owners of all partitions, from 0 on.
	Owners       []Run
	Keys         int
	Reservations int
	RequestIDs   int
	Traffic      Traffic
	HotKeys      HotKeys
	Waiting      Waiting
	Problems     []Problem // besides those that the other fields show
}

// Problem is what needs attention, and why. Why may be empty.
type Problem struct{ What, Why string }

// HotKeys are the keys for which the cluster decides most often. Rates are checks and
// reserves per second.
type HotKeys struct {
	Rate        float64 // of all keys
	Keys        []HotKey
	Unreachable []string // members whose keys are missing
}

// HotKey is a key for which the cluster decides often.
type HotKey struct {
	Key, Owner      string
	Rate, RateError float64 // the rate is at most RateError higher
	SliceRate       float64 // the part of Rate that is decided from slices
	Share           float64 // of all calls, from 0 to 1
	Limit, Scope    string  // with the smallest share left; "": none
	Left            string  // what is left of it
	Shadow          bool
	Askers          []Asker
	Holders         []Holder // of slices
}

// Holder is a member or a client that holds slices of a key.
type Holder struct {
	Name   string
	Slices int
}

// Asker is a member or a client from which calls come.
type Asker struct {
	Name string
	Rate float64
}

// Waiting is what waits for limits in the cluster.
type Waiting struct {
	WaitingCalls
	Limits []WaitingLimit // at which most calls wait
}

// WaitingCalls is how many calls wait, by class.
type WaitingCalls struct{ Interactive, Standard, Batch int64 }

// WaitingLimit is a limit at which calls wait.
type WaitingLimit struct {
	Limit, Scope, Model, Owner string
	WaitingCalls
	Longest time.Duration // how long the call waits that has waited longest
}

// Copies says who holds the state of partitions, as the node knows it.
type Copies struct {
	NotSafe string   // why no node may be lost now; "": any one may be
	Voters  []string // the members whose votes count
	// Partitions for which this node decides, and those whose heir it is.
	Owned, Copied int
	// Of all partitions: those without an owner or an heir, those that are being copied to
	// an heir, and those that are to get another owner.
	WithoutOwner, WithoutHeir, Copying, Moving int
	Lag                                        time.Duration // of the heirs of this node
}

// Journal is the journal of the data directory.
type Journal struct {
	LastSync time.Time // zero: not yet
	Bytes    int64
	Failing  string // why changes are not on disk; "": they are
}

// Run is a number of adjacent partitions with one owner; "": none.
type Run struct {
	Owner      string
	Partitions int
}

// Policy is the policy that the node uses.
type Policy struct {
	Path        string // "": the embedded default
	Version     string
	Digest      string
	LoadedAt    time.Time
	LastError   string // "": the last load succeeded
	LastErrorAt time.Time
	Reloads     int64
	Failures    int64
}

// Traffic is what the members of the cluster have decided in the last minutes.
type Traffic struct {
	Members     []MemberTraffic // sorted by name
	Denials     []Denial        // the most frequent first
	Unreachable []string        // members that did not answer
}

// MemberTraffic is what one member has decided.
type MemberTraffic struct {
	Name      string
	Interval  time.Duration
	Intervals []Decisions // the oldest first
	// Decisions are also of the interval that is not over.
	Decisions
	Fallback int64 // of Decisions, without the owner of the key
}

// Decisions counts decisions by their outcome. FromSlices were allowed, and are not in Allowed.
type Decisions struct{ Allowed, Degraded, Denied, FromSlices int64 }

// Denial is how many calls of a tier one limit has denied for one reason.
type Denial struct {
	Tier   string
	Limit  string // "": no limit denied
	Reason string
	Calls  int64
}

// Cluster is the cluster as the node sees it.
type Cluster struct {
	Label       string
	State       string // of the node, as it announced
	Fenced      bool   // a later node has the same name
	View        uint64
	RingDigest  string
	Roster      int
	Members     []Member
	Fencing     []Member // that are fenced by a later node with their name
	Departed    []Departure
	Crashed     []string      // members that crashed and have not rejoined
	Skew        []PolicyGroup // none: all members have the same policy
	EnvoySkew   []PolicyGroup // none: all members have the same rules for Envoy
	Problem     string
	LastContact time.Time
	HealthScore int
	Outbox      int
	Fallbacks   map[string]uint64 // by cause
	Keys        []string          // fingerprints; none: gossip is plaintext
}

// Member is a member that is alive.
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
	Link       *Link  // nil: none, as to itself
	Problem    string // why no copies and no votes go to it; "": they do
}

// Link is the state of the link to a member.
type Link struct {
	Connected   bool
	BreakerOpen bool
	Queued      int // calls
	InFlight    int // batches
	// Refused counts the calls that were refused because the member would not answer
	// them in time.
	Refused int
	// RefusedInMinute are those of the last minute.
	RefusedInMinute int
}

// Departure is a member that left or crashed.
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

// notice is a problem, shown at the top of the page.
type notice struct {
	What string
	Why  string
}

// sentence returns a text with a capital letter and a full stop.
func sentence(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	return string(unicode.ToUpper(first)) + text[size:] + "."
}

// noticesOf lists the problems of a status, the worst first.
func noticesOf(s Status) []notice {
	var all []notice
	add := func(is bool, what, why string) {
		if is {
			all = append(all, notice{what, why})
		}
	}
	c := s.Cluster
	add(s.NotReady != "", "This node is not ready.", s.NotReady)
	add(c.Fenced && s.NotReady == "", "This node is fenced.", "A node that started later has the same name and decides instead.")
	add(slices.ContainsFunc(s.Owners, func(r Run) bool { return r.Owner == "" }),
		"Some partitions have no owner.", "Calls for them are decided by fallback.")
	var unreachable []string
	for _, m := range c.Members {
		if m.Link != nil && m.Link.BreakerOpen {
			unreachable = append(unreachable, m.Name)
		}
	}
	add(len(unreachable) > 0, "Members do not answer this node.",
		strings.Join(unreachable, ", ")+": the breaker is open. Calls for their keys are decided by fallback until they answer again.")
	for _, m := range c.Members {
		add(m.Problem != "", "No copies and no votes go to "+m.Name+".", m.Problem)
	}
	if j := s.Journal; j != nil {
		add(j.Failing != "", "Changes are not on disk.", "A crash would lose them: "+j.Failing)
	}
	for _, p := range s.Problems {
		add(true, sentence(p.What), p.Why)
	}
	add(len(c.Crashed) > 0, "Members crashed.", strings.Join(c.Crashed, ", "))
	add(c.Problem != "", "Members are missing.", c.Problem)
	add(len(c.Skew) > 0, "Members have different policies.", "The answer to a call depends on which member owns its key.")
	var rules []string
	for _, g := range c.EnvoySkew {
		rules = append(rules, g.Digest+" at "+strings.Join(g.Members, ", "))
	}
	add(len(rules) > 0, "Members have different rules for Envoy.", "The answer to Envoy depends on which member it asks: "+strings.Join(rules, "; ")+".")
	add(s.Policy.LastError != "", "The policy is not valid, or its source is down.", "The previous policy stays in use.")
	add(c.Outbox > 0, count(c.Outbox)+" calls wait in the outbox.", "They were decided without their owners, which have not acknowledged them yet.")
	add(c.HealthScore > 0, "This node is slow at gossip.", "Its health score is "+count(c.HealthScore)+"; 0 is healthy.")
	return all
}
