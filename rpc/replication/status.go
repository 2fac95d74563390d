// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
)

// Status is what an operator wants to know of a [Host].
type Status struct {
	Self   continuity.ID
	Roster continuity.Roster
	// Voter: the votes of this member count.
	Voter bool
	// Roles counts partitions by the role of this member.
	Roles map[continuity.Role]int
	// Owned and Heir count the partitions that this member owns and is the heir of, and
	// Journals those with something to report to their owner.
	Owned, Heir, Journals int
	// Of all partitions, as this member knows them: those that have no owner, no heir, or
	// an heir whose copy is not complete.
	WithoutOwner, WithoutHeir, Copying int
	// Lag is for how long the heir of some partition of this member has lacked a change,
	// at most. It is 0 if none lacks anything.
	Lag time.Duration
	// SafeToLose: if any one member ends now, its partitions are taken over with all
	// charges. Otherwise WhyNot says why not.
	SafeToLose bool
	WhyNot     string
	// Members are the others, sorted by name.
	Members []MemberStatus
}

// MemberStatus is the state of the connection to another member.
type MemberStatus struct {
	ID        continuity.ID
	Address   Address
	Connected bool
	Problem   string // why it is not connected
}

// Status returns the state between two steps of the protocol. The error is that of ctx, or
// says that Run has ended.
func (h *Host) Status(ctx context.Context) (Status, error) {
	var s Status
	if err := h.inLoop(ctx, "status of replication", func(l *loop) { s = l.status() }); err != nil {
		return Status{}, err // and not s, which the loop may still set
	}
	return s, nil
}

func (l *loop) status() Status {
	s := Status{Self: l.self, Roster: l.m.Roster(), Voter: l.m.Voter(), Roles: map[continuity.Role]int{}}
	s.Owned, s.Heir, s.Journals = l.m.Holdings()
	now := l.clock()
	for i := range l.parts {
		s.Roles[l.m.Role(i)]++
		a := l.m.Current(i)
		switch {
		case a.Owner.IsZero():
			s.WithoutOwner++
		case a.Heir.IsZero():
			s.WithoutHeir++
		case !l.m.Synced(i):
			s.Copying++
		}
		if a.Owner == l.self {
			s.Lag = max(s.Lag, lagOf(a.Heir, l.m.LagsAfter(i), now))
		}
	}
	for id, k := range l.links {
		k.problem.Lock()
		s.Members = append(s.Members, MemberStatus{ID: id, Address: k.address, Connected: k.up.Load(), Problem: k.problem.text})
		k.problem.Unlock()
	}
	slices.SortFunc(s.Members, func(a, b MemberStatus) int { return strings.Compare(a.ID.Name, b.ID.Name) })
	s.WhyNot = s.risk()
	s.SafeToLose = s.WhyNot == ""
	return s
}

// lagOf returns for how long the heir of a partition has lacked a change, if all charges wait
// after that time. Without an heir nothing lags.
func lagOf(heir continuity.ID, after, now time.Duration) time.Duration {
	if heir.IsZero() || after == always || after == never {
		return 0
	}
	return max(0, now-after+continuity.MaxLag)
}

// risk returns why no member may be lost now.
func (s *Status) risk() string {
	switch n := len(s.Roster.Names); {
	case n == 0:
		for _, m := range s.Members {
			if m.Problem != "" {
				return fmt.Sprintf("the members have not agreed on who belongs to the cluster yet: %s: %s", m.ID.Name, m.Problem)
			}
		}
		return "the members have not agreed on who belongs to the cluster yet"
	case !s.Voter:
		return "the vote of this node does not count: it has just started, has left, or a node that started later has its name"
	case n == 1:
		return "there is one member only"
	case n == 2:
		return "there are two members: when one is lost, the other one cannot know whether it still decides, and waits for it"
	case s.WithoutOwner > 0:
		return fmt.Sprintf("%d partitions have no owner yet", s.WithoutOwner)
	case s.WithoutHeir > 0:
		return fmt.Sprintf("%d partitions have no second copy yet", s.WithoutHeir)
	case s.Copying > 0:
		return fmt.Sprintf("%d partitions are being copied", s.Copying)
	case s.Roles[continuity.Fenced] > 0:
		return fmt.Sprintf("%d partitions of this node wait for their heirs to renew the lease", s.Roles[continuity.Fenced])
	}
	missing := 0
	for _, name := range s.Roster.Names {
		connected := name == s.Self.Name
		for _, m := range s.Members {
			connected = connected || m.ID.Name == name && m.Connected
		}
		if !connected {
			missing++
		}
	}
	if missing > 0 && len(s.Roster.Names)-missing-1 < len(s.Roster.Names)/2+1 {
		return fmt.Sprintf("%d of %d members are not connected: if one more is lost, the rest is no majority", missing, len(s.Roster.Names))
	}
	return ""
}
