// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/replication"
)

// Owners says which member decides for each partition, and gives what is decided to
// the heirs. [replication.Host] implements it, and documents its methods. They are safe
// for concurrent use; those that each call asks take no lock and allocate nothing.
type Owners interface {
	Clock() time.Duration
	Decides(partition int, now time.Duration) bool
	Place(partition int) replication.Place
	Await(ctx context.Context, partition int, ok func(replication.Place) bool) (replication.Place, error)
	Changed(partition int, urgent bool)
	Waits() bool
	Lags(partition int, now time.Duration) bool
	Replicate(ctx context.Context, changes []replication.Awaited)
	Acknowledged(partition int) uint64
	Journaled(partition int)
	Repaid(partition int)
	SetView(v continuity.View, addresses map[string]replication.Address)
}

var _ Owners = (*replication.Host)(nil)

// mine reports whether this process decides for a partition at a time of the clock of
// the owners. It is asked before a decision, and again before its answer.
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

// ownerOfKey returns the name of the member that is known to own a key, "" if there is none.
func (r *Router) ownerOfKey(key string) string {
	return r.owners.Place(ring.PartitionOf(key)).Owner.Name
}

// passing reports whether a role ends within milliseconds: a call waits for the next one.
func passing(r continuity.Role) bool { return r == continuity.Sealed || r == continuity.Promoting }
