// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"fmt"
	"hash/fnv"
	"strings"
	"time"
)

// ID identifies one run of a member's process.
type ID struct {
	Name string // of the member
	Boot uint64 // greater in each later run of the same member, never 0
}

// IsZero reports whether the ID names nobody.
func (id ID) IsZero() bool { return id.Boot == 0 }

func (id ID) String() string {
	if id.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%s~%d", id.Name, id.Boot)
}

// Arrangement says who holds a partition. It is the value of the register of the
// partition; the zero Arrangement means that nobody has ever held it.
type Arrangement struct {
	Term   uint64 // of this arrangement; higher terms replace lower ones
	Prev   uint64 // the term that it replaced
	Origin uint64 // the term at which Owner became the owner
	Owner  ID     // decides
	Heir   ID     // has a copy and grants the owner's lease; zero: nobody
	Base   Copy   // the copy that Owner started from at Origin
}

func (a Arrangement) String() string {
	return fmt.Sprintf("%x/%x owner %s heir %s", a.Term, a.Origin, a.Owner, a.Heir)
}

// Copy describes a copy of a partition's state. Copies with the same Origin come
// from one owner, and the one with the higher Seq has all that the other has.
type Copy struct {
	Origin   uint64 // as in [Arrangement]
	Seq      uint64 // of the last change that it includes
	Complete bool   // whether it includes all changes until Seq
}

// fresher reports whether c is to be preferred to d after a crash.
func (c Copy) fresher(d Copy) bool {
	switch {
	case c.Complete != d.Complete:
		return c.Complete
	case c.Origin != d.Origin:
		return c.Origin > d.Origin
	}
	return c.Seq > d.Seq
}

// Roster is the set of members whose votes count. It is immutable.
type Roster struct {
	Epoch uint64   // increases by one with each change; 0 means that there is no roster yet
	Names []string // sorted
}

func (r Roster) has(name string) bool { return indexOf(r.Names, name) >= 0 }

// majority returns how many members are a strict majority.
func (r Roster) majority() int { return len(r.Names)/2 + 1 }

// inEach returns how many members there must be so that one of them is in each majority.
func (r Roster) inEach() int { return len(r.Names) - r.majority() + 1 }

// Role is the role of this member for a partition.
type Role uint8

// The roles of a member. See the package comment.
const (
	None        Role = iota // not a holder
	Backup                  // the heir
	Warming                 // receives a copy, to become heir or owner
	Promoting               // asks for votes to take over
	Active                  // the owner: decides
	Exporting               // the owner: decides, and sends a copy to its successor
	Sealed                  // the owner: has stopped deciding for the last change and the votes
	Fenced                  // the owner without a lease: decides nothing exactly
	Relay                   // was the owner in this run
	Reconciling             // not the owner, and has charges to report to the owner

	roles = iota
)

var roleNames = [roles]string{
	None: "none", Backup: "backup", Warming: "warming", Promoting: "promoting", Active: "active",
	Exporting: "exporting", Sealed: "sealed", Fenced: "fenced", Relay: "relay", Reconciling: "reconciling",
}

func (r Role) String() string {
	if r >= roles {
		return fmt.Sprintf("role %d", uint8(r))
	}
	return roleNames[r]
}

// Options are the settings of a [Machine]. All members of a cluster must have the
// same ones.
type Options struct {
	Partitions   int
	Lease        time.Duration // how long an acknowledgement of the heir is worth to the owner
	Heartbeat    time.Duration // between two heartbeats
	HeirSilence  time.Duration // after which an owner goes on without its heir
	Contact      time.Duration // how long a member without a majority in reach may go on granting leases, or deciding without an heir
	Forget       time.Duration // after which a silent member leaves the roster; more than Contact and Lease together
	VoteTimeout  time.Duration // after which votes are asked for again
	SealTimeout  time.Duration // after which a sealed partition whose successor is silent goes back, if nothing was proposed
	MaxTransfers int           // copies sent at once
}

// Defaults returns the settings of a production cluster.
func Defaults(partitions int) Options {
	return Options{
		Partitions: partitions, Lease: 2 * time.Second, Heartbeat: 100 * time.Millisecond, HeirSilence: 500 * time.Millisecond,
		Contact: time.Minute, Forget: 10 * time.Minute, VoteTimeout: 300 * time.Millisecond, SealTimeout: 500 * time.Millisecond, MaxTransfers: 44,
	}
}

// TickInterval is the time between two [Tick] events while there is something to do.
const TickInterval = 20 * time.Millisecond

// resend is the time after which a copy or a change without acknowledgement is
// sent again.
const (
	resendDelta    = 100 * time.Millisecond
	resendSnapshot = time.Second
)

// MaxLag is how long changes may lack the heir's acknowledgement before all
// charges wait for it. It bounds what a crash can lose.
const MaxLag = 100 * time.Millisecond

// lagMarks is how many times an owner remembers, to know the age of its changes.
const lagMarks = int(MaxLag / TickInterval)

// withDrift returns a duration that has passed on this member's clock only after d
// has passed on the clock of any other member.
func withDrift(d time.Duration) time.Duration { return d + d/50 }

// Parts of a ballot or term: the round, and the tag of the boot that chose it.
const (
	tagBits   = 32
	lastRound = 1<<32 - 2 // higher ones are not believed, so that there is always another
)

// tagOf returns the tag of a boot. Two boots have the same tag with probability
// 2^-32.
func tagOf(id ID) uint32 {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s/%d", id.Name, id.Boot) // never fails
	sum := h.Sum64()
	return uint32(sum>>32) ^ uint32(sum)
}

// ballotAbove returns a ballot of this boot that is higher than b.
func ballotAbove(b uint64, tag uint32) uint64 { return (b>>tagBits+1)<<tagBits | uint64(tag) }

// indexOf returns the index of name in sorted names, or -1.
func indexOf(names []string, name string) int {
	lo, hi := 0, len(names)
	for lo < hi {
		mid := (lo + hi) / 2
		if strings.Compare(names[mid], name) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo < len(names) && names[lo] == name {
		return lo
	}
	return -1
}
