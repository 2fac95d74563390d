// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/replication"
)

// ringOwners are owners as the ring names them, at once and without an agreement. They
// give nothing to heirs.
type ringOwners struct {
	self continuity.ID
	now  atomic.Pointer[ownersNow]

	waits   atomic.Bool
	changed atomic.Int64
	durable atomic.Uint64
	slow    atomic.Int64 // if not 0, for how long the heir does not acknowledge a change
	clock   atomic.Int64
	awaited atomic.Int64 // calls of Await
	began   sync.Map     // when a slow heir was given a change first, by partition and number

	journaled, repaid atomic.Int64
}

// ownersNow is replaced as a whole.
type ownersNow struct {
	places [ring.Partitions]replication.Place
	next   chan struct{} // closed when it is replaced
}

var _ Owners = (*ringOwners)(nil)

func newRingOwners() *ringOwners {
	o := &ringOwners{}
	o.now.Store(&ownersNow{next: make(chan struct{})})
	return o
}

var ownersMu sync.Mutex

// set replaces all places.
func (o *ringOwners) set(place func(p int) replication.Place) {
	ownersMu.Lock()
	defer ownersMu.Unlock()
	next := &ownersNow{next: make(chan struct{})}
	for p := range next.places {
		next.places[p] = place(p)
		next.places[p].Term = max(next.places[p].Term, 1)
	}
	close(o.now.Swap(next).next)
}

// alone makes this member the owner of everything.
func (o *ringOwners) alone() {
	o.set(func(int) replication.Place { return replication.Place{Role: continuity.Active, Owner: o.self} })
}

// give gives the partition of a key to a member.
func (o *ringOwners) give(key string, to *node) {
	was := o.now.Load().places
	o.set(func(p int) replication.Place {
		place := was[p]
		if p == ring.PartitionOf(key) {
			place.Owner, place.Role, place.Term = continuity.ID{Name: to.name, Boot: to.boot}, continuity.Role(0), place.Term+1
			if to.owners == o {
				place.Role = continuity.Active
			}
		}
		return place
	})
}

func (o *ringOwners) Clock() time.Duration          { return time.Duration(o.clock.Load()) }
func (o *ringOwners) Place(p int) replication.Place { return o.now.Load().places[p] }
func (o *ringOwners) Changed(int, bool)             { o.changed.Add(1) }
func (o *ringOwners) Waits() bool                   { return o.waits.Load() }
func (o *ringOwners) Lags(int, time.Duration) bool  { return false }
func (o *ringOwners) Decides(p int, _ time.Duration) bool {
	return o.Place(p).Role == continuity.Active
}

func (o *ringOwners) Acknowledged(int) uint64 { return o.durable.Load() }
func (o *ringOwners) Journaled(int)           { o.journaled.Add(1) }
func (o *ringOwners) Repaid(int)              { o.repaid.Add(1) }

func (o *ringOwners) Await(ctx context.Context, p int, ok func(replication.Place) bool) (replication.Place, error) {
	o.awaited.Add(1)
	for {
		now := o.now.Load()
		if ok(now.places[p]) {
			return now.places[p], nil
		}
		select {
		case <-now.next:
		case <-ctx.Done():
			return now.places[p], ctx.Err()
		}
	}
}

func (o *ringOwners) Replicate(ctx context.Context, changes []replication.Awaited) {
	for i := range changes {
		c := &changes[i]
		o.Changed(c.Partition, true)
		c.Err = o.waitFor(ctx, c.Partition, c.Seq)
	}
}

func (o *ringOwners) waitFor(ctx context.Context, p int, seq uint64) error {
	type change struct {
		partition int
		seq       uint64
	}
	began, _ := o.began.LoadOrStore(change{p, seq}, time.Now())
	acknowledged := func() bool {
		slow := time.Duration(o.slow.Load())
		return o.durable.Load() >= seq || slow > 0 && time.Since(began.(time.Time)) >= slow
	}
	for !acknowledged() {
		if o.Place(p).Owner != o.self {
			return replication.ErrLost
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

func (o *ringOwners) SetView(v continuity.View, _ map[string]replication.Address) {
	boots := map[string]uint64{}
	serving := 0
	for _, m := range v.Members {
		if m.State == continuity.Serving {
			boots[m.Name] = m.Boot
			serving++
		}
	}
	if serving == 0 {
		o.alone()
		return
	}
	o.set(func(p int) replication.Place {
		name := v.Targets.Owner(p)
		place := replication.Place{Owner: continuity.ID{Name: name, Boot: boots[name]}}
		if heir := v.Targets.Heir(p); heir != "" {
			place.Heir = continuity.ID{Name: heir, Boot: boots[heir]}
		}
		if place.Owner == o.self {
			place.Role = continuity.Active
		}
		return place
	})
}
