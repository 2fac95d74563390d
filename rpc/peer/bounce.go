// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"sync"
	"time"

	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/replication"
	"github.com/bucketring/bucketring/rpc/server"
)

// Members learn of a new owner within milliseconds, and choose one within some 100 ms
// when the last one has crashed. A call that no member decides waits for that, twice as
// long each time, so that it is not sent too often: a cluster that changes must not
// multiply the calls.
const (
	bounceWait    = 20 * time.Millisecond
	maxBounceWait = 160 * time.Millisecond
)

// Calls of a partition wait for an owner until it has had none for this long: more than
// the lease of one that does not answer any more, and the votes for its heir. After that
// this member is probably cut off from most others, which may last, and calls are decided
// in fallback at once.
const (
	maxOwnerless = 3 * time.Second
	// maxUnleased is the same for an owner that has no lease. A new owner gets its first lease
	// at the next heartbeat at the latest. One that has lost its lease found no other heir
	// meanwhile, and is probably cut off.
	maxUnleased = 500 * time.Millisecond
	// ownerlessPause: after so long without a call that waits, there may have been an owner.
	ownerlessPause = time.Second
)

// ownerless remembers since when partitions have no owner that decides. It is safe for
// concurrent use.
type ownerless struct {
	sync.Mutex
	partitions [ring.Partitions]struct {
		term        uint64 // of the arrangement
		since, last time.Duration
	}
}

// waits reports whether a call of a partition that nobody decides should wait. It should while
// that has lasted for less than atMost.
func (o *ownerless) waits(partition int, term uint64, now, atMost time.Duration) bool {
	o.Lock()
	defer o.Unlock()
	p := &o.partitions[partition]
	if p.term != term || now-p.last > ownerlessPause {
		p.term, p.since = term, now
	}
	p.last = now
	return now-p.since < atMost
}

// answered says that a call which has waited was decided by an owner: there is one, and
// calls wait for its heir.
func (o *ownerless) answered(partition int, now time.Duration) {
	o.Lock()
	defer o.Unlock()
	o.partitions[partition].since = now
}

// bounce starts the calls that wait again, once this member learns of another owner of the
// first one's partition, or after a moment. A call is decided in fallback if there is no time
// left, or there has been no owner for long.
func (r *Router) bounce(ctx *link.DeadlineContext, forwards []forward) {
	var first *forward
	for i := range forwards {
		f := &forwards[i]
		if !f.waits {
			continue
		}
		if why, hopeless := r.hopeless(ctx, f); hopeless {
			f.waits = false
			r.fallBack(f, why)
		} else if first == nil {
			first = f
		}
	}
	if first == nil {
		return
	}
	was := r.owners.Place(first.Partition)
	pause, cancel := context.WithTimeout(ctx.Context, bounceTime(first))
	defer cancel()
	_, _ = r.owners.Await(pause, first.Partition, func(now replication.Place) bool { return now != was }) // an error: the pause is over
	gone, v := context.Cause(ctx), r.table.Load()
	for i := range forwards {
		f := &forwards[i]
		if !f.waits {
			continue
		}
		f.waits = false
		if gone != nil { // the caller
			f.result = server.Failed(grpcstatus.FromContextError(gone).Err())
			continue
		}
		f.bounces = min(f.bounces+1, 10)
		f.redirected, f.rerouted = false, false
		r.startAtOwner(ctx, v, f)
	}
}

// bounceTime returns for how long f waits next.
func bounceTime(f *forward) time.Duration { return min(bounceWait<<f.bounces, maxBounceWait) }

// hopeless reports whether f must not wait for another owner. Then it is decided in fallback,
// and why is the cause.
func (r *Router) hopeless(ctx *link.DeadlineContext, f *forward) (why cause, hopeless bool) {
	at, _ := ctx.Deadline()
	was := r.owners.Place(f.Partition)
	atMost, why := maxOwnerless, causeRedirect
	if was.Role == continuity.Fenced {
		atMost, why = maxUnleased, causeNoLease
	}
	return why, f.Origin == call.Outbox || time.Until(at) < bounceTime(f)+bounceWait ||
		!r.ownerless.waits(f.Partition, was.Term, r.owners.Clock(), atMost)
}
