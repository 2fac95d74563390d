// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/ring"
)

// Owners says which member decides for each partition, and gives what is decided to
// the heirs. Its methods are safe for concurrent use; those that each call asks take no
// lock and allocate nothing. [replication.Host] implements it.
type Owners interface {
	// Now reads the clock of leases, which also counts the time in which the machine
	// was suspended.
	Now() time.Duration
	// Decides reports whether this member decides for a partition at a time of that
	// clock. The answer is needed before a decision and again before its answer.
	Decides(partition int, now time.Duration) bool
	// Place returns what this member knows of a partition.
	Place(partition int) Place
	// Await waits until a partition has another place than the one given.
	Await(ctx context.Context, partition int, from Place) error

	// Changed takes note that a decision was the change of a partition with that
	// number. Urgent changes are sent to the heir at once.
	Changed(partition int, seq uint64, urgent bool)
	// Waits reports whether large charges wait for the heir, and Lags whether small ones
	// of a partition do so as well.
	Waits() bool
	Lags(partition int, now time.Duration) bool
	// Durable waits until the heir of a partition has its changes up to a number. It
	// returns [ErrNotOwner] if this member stops being the owner first.
	Durable(ctx context.Context, partition int, seq uint64) error

	// Follow tells what the membership sees. Only one goroutine calls it.
	Follow(t Topology, targets *ring.Table)
	// Roster returns the number of members that may be deciding; 0 while it is not known.
	Roster() int
}

// Place is what a member knows of a partition.
type Place struct {
	Role  continuity.Role // of this member
	Owner continuity.ID   // zero: none is known
	Heir  string          // its name; "": none
	Term  uint64
}

// ErrNotOwner is the error of a decision that this member may not answer: it is not the
// owner of the partition any more. Nothing of it counts, unless the heir has it.
var ErrNotOwner = errors.New("this member is not the owner of the partition any more")

// mine reports whether this process decides for a partition now.
func (r *Router) mine(v *routingTable, partition int, now time.Duration) bool {
	return !v.fenced && r.owners.Decides(partition, now)
}

// ownerOf returns the member that is known to own a partition; nil if there is none, or
// the topology does not have it.
func (r *Router) ownerOf(v *routingTable, partition int) *memberConn {
	owner := r.owners.Place(partition).Owner
	if m := v.member(owner.Name); m != nil && m.Boot == owner.Boot {
		return m
	}
	return nil
}
