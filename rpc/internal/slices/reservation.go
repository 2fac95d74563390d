// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// maxOpen is how many reservations of a slice may be open, and maxKeptBytes bounds their
// encoding, which must fit the message in which the slice is returned: a node takes 256 KiB.
// A slice that has as many is over.
const (
	maxOpen      = limiter.MaxKept
	maxKeptBytes = 192 << 10
)

// defaultTTL is the lease of a reservation that names none.
const defaultTTL = limiter.DefaultTTL

// reservation is a reservation that was made from a slice. It is guarded by the lock of its
// shard. The table knows it while it is open, while the return that has it is not
// acknowledged, and for a while after it was settled or cancelled.
type reservation struct {
	state   reservationState
	from    *source
	request pb.ReserveRequest // with the id, as it is told to the owner
	numbers [5]int64          // that request points to
	costs   []int64           // what it holds
	granted int64
	until   int64 // end of its lease
	size    int   // of its encoding, at most

	entry     *entry     // while it is open
	index     int        // in entry.open
	returning *returning // while it is kept

	// While it is ended.
	charged []int64 // in place of costs
	used    []int64 // of the limits of the slice, at the end
	endedAt int64
}

// reservationState is who has a reservation.
type reservationState uint8

const (
	isOpen      reservationState = iota // its slice is held
	isKept                              // it is in the return of its slice, which is not acknowledged
	isSettled                           // in memory
	isCancelled                         // in memory
)

// newReservation returns a reservation with the shape of e, whose strings it shares.
func newReservation(key string, e *entry, q *pb.ReserveRequest, id string, now int64) *reservation {
	r := &reservation{from: e.from, entry: e}
	w := &r.request
	w.Key, w.Tier, w.Model, w.ServiceTier, w.RequestId = key, e.shape.tier, e.shape.model, e.shape.serviceTier, id
	w.InputTokens, w.EstimatedInput, w.KnownInputTokens = q.GetInputTokens(), q.GetEstimatedInput(), q.GetKnownInputTokens()
	size := len(key) + len(w.Tier) + len(w.Model) + len(w.ServiceTier) + len(id) + keptOverhead +
		protowire.SizeVarint(uint64(w.InputTokens)) + protowire.SizeVarint(uint64(w.KnownInputTokens))
	for i, f := range [...]struct {
		from *int64
		to   **int64
	}{
		{q.Requests, &w.Requests}, {q.MaxOutputTokens, &w.MaxOutputTokens}, {q.MinOutputTokens, &w.MinOutputTokens}, {q.N, &w.N}, {q.TtlSeconds, &w.TtlSeconds},
	} {
		if f.from != nil {
			r.numbers[i] = *f.from
			*f.to = &r.numbers[i]
			size += protowire.SizeVarint(uint64(*f.from))
		}
	}
	if len(q.GetCosts()) > 0 {
		w.Costs = cloneCosts(q.GetCosts())
		for name, n := range w.Costs {
			size += len(name) + protowire.SizeVarint(uint64(n)) + 8 // tags and lengths
		}
	}
	ttl := int64(defaultTTL)
	if s := q.GetTtlSeconds(); s > 0 {
		ttl = s * int64(time.Second)
	}
	r.until, r.size = now+ttl, size
	return r
}

// keptOverhead bounds the tags and lengths of a kept reservation, and its numbers that do not
// depend on the request.
const keptOverhead = 96

// hold sets what the reservation holds.
func (r *reservation) hold(costs []int64, granted int64) {
	r.costs, r.granted = costs, granted
	for _, cost := range costs {
		r.size += protowire.SizeVarint(uint64(cost))
	}
}

// wire returns the reservation as its owner keeps it from now on. It shares memory with r,
// which does not change.
func (r *reservation) wire(now int64) *pb.KeptReservation {
	return &pb.KeptReservation{Request: &r.request, Costs: r.costs, GrantedOutputTokens: r.granted, LeftNanos: max(0, r.until-now)}
}

// add makes r one of the open reservations of e.
func (e *entry) add(r *reservation) {
	r.index = len(e.open)
	e.open = append(e.open, r)
	e.openBytes += r.size
}

// remove removes an open reservation.
func (e *entry) remove(r *reservation) {
	last := len(e.open) - 1
	e.open[r.index] = e.open[last]
	e.open[r.index].index = r.index
	e.open[last] = nil
	e.open = e.open[:last]
	e.openBytes -= r.size
	r.entry = nil
}

// takeOpen returns the open reservations of a slice that has ended, which e forgets. e may be
// nil.
func (e *entry) takeOpen(slice string) []*reservation {
	if e == nil || len(e.open) == 0 || e.open[0].from.slice != slice {
		return nil
	}
	list := e.open
	e.open, e.openBytes = nil, 0
	return list
}
