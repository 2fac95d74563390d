// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"slices"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// rememberFor is for how long a reservation is known after it has ended, so that a settle
	// or a cancel may be repeated.
	rememberFor = int64(time.Minute)
	// maxEnded is how many of these a table knows. Beyond it the oldest of a shard goes.
	maxEnded = 32 << 10
)

// returning is the return of a slice with the reservations that its owner is to keep.
type returning struct {
	done         chan struct{} // closed when it is acknowledged, or lost
	reservations []*reservation
}

// reserveLocked makes a reservation from the slice of e.
func (t *Table) reserveLocked(s *shard, k *key, e *entry, q *pb.ReserveRequest, id string, a *Answer, now int64) bool {
	if e.from.tariff == nil || s.reservations[id] != nil || !isID(id) || !requestOf(q, &s.request) {
		return false
	}
	n := e.from.tariff.Limits()
	numbers := make([]int64, 2*n)
	costs, used := numbers[:n:n], numbers[n:]
	granted, err := e.from.tariff.Reserve(&s.request, costs)
	s.request.Costs = nil
	if err != nil || !e.holder.Fits(now, costs) {
		return false
	}
	r := newReservation(k.name, e, q, id, now)
	if r.hold(costs, granted); len(e.open) == maxOpen || e.openBytes+r.size > maxKeptBytes {
		e.holder.End()
		return false
	}
	if !e.holder.Reserve(now, costs) {
		return false
	}
	for i := range used {
		used[i] = e.holder.Used(i)
	}
	if s.reservations == nil {
		s.reservations = map[string]*reservation{}
	}
	s.reservations[id] = r
	t.known.Add(1)
	e.add(r)
	s.reserved++
	*a = Answer{Limits: Limits{Decision: e.from.decision, View: e.from.view, costs: costs, used: used}, Granted: granted, reserve: true}
	return true
}

// Settle settles a reservation that Reserve made, if it can, and sets a then. Otherwise, the
// owner of q.Key is to be asked: it knows the reservation, if anybody does, when returned is
// closed, or at once if that is nil. Settle ends the slice of a reservation that it does not
// settle, so that this is soon.
//
// Only the owner can be told of progress, which is a settle that is not final. A settle may be
// repeated for a while. The error is a [*limiter.ConflictError] if the reservation was ended
// in another way, or with other numbers.
func (t *Table) Settle(q *pb.SettleRequest, id string, a *Settlement) (done bool, returned <-chan struct{}, err error) {
	if t.known.Load() == 0 {
		return false, nil, nil
	}
	u, valid := usageOf(q, id)
	if !valid {
		return false, nil, nil // whoever is asked says what is wrong
	}
	final := q.Final == nil || *q.Final
	s := t.shard(q.GetKey())
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.find(q.GetKey(), id)
	if r == nil {
		return false, nil, nil
	}
	now := t.options.Now()
	charged, used, known := s.chargedLocked(r, &u)
	switch {
	case r.state == isCancelled:
		return false, nil, &limiter.ConflictError{Problem: "the reservation was cancelled"}
	case r.state == isSettled && final && (!known || !slices.Equal(charged, r.charged)):
		return false, nil, &limiter.ConflictError{Problem: "the reservation was settled with other numbers"}
	case r.state == isSettled: // a repeated settle, or late progress
	case r.state == isOpen && final && known && r.entry.holder.Correct(now, r.costs, charged):
		r.entry.holder.Use(used)
		t.finishLocked(s, r, isSettled, charged, now)
	default:
		return false, t.leaveLocked(s, r, now), nil
	}
	*a = r.settlement()
	return true, nil, nil
}

// Cancel is like Settle, for a call that never ran: it gives back what the reservation holds.
func (t *Table) Cancel(key, id string, a *Settlement) (done bool, returned <-chan struct{}, err error) {
	if t.known.Load() == 0 {
		return false, nil, nil
	}
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.find(key, id)
	if r == nil {
		return false, nil, nil
	}
	now := t.options.Now()
	nothing := make([]int64, len(r.costs))
	switch {
	case r.state == isSettled:
		return false, nil, &limiter.ConflictError{Problem: "the reservation was settled"}
	case r.state == isCancelled:
	case r.state == isOpen && r.entry.holder.Correct(now, r.costs, nothing):
		t.finishLocked(s, r, isCancelled, nothing, now)
	default:
		return false, t.leaveLocked(s, r, now), nil
	}
	*a = r.settlement()
	return true, nil, nil
}

// Returning returns what is closed when the owner of key has reservation id from the return of
// its slice, or that is lost. It is nil if the reservation is not in a return that is under way.
func (t *Table) Returning(key, id string) <-chan struct{} {
	if t.known.Load() == 0 {
		return nil
	}
	s := t.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.find(key, id); r != nil && r.state == isKept {
		return r.returning.done
	}
	return nil
}

// find returns a reservation of key, nil if it is not known.
func (s *shard) find(key, id string) *reservation {
	if r := s.reservations[id]; r != nil && r.request.GetKey() == key {
		return r
	}
	return nil
}

// chargedLocked returns what r is charged after usage u, and what it has used. It returns false
// if that is not known here.
func (s *shard) chargedLocked(r *reservation, u *limiter.Usage) ([]int64, limiter.Used, bool) {
	charged := make([]int64, len(r.costs))
	defer func() { s.request.Costs = nil }()
	if !requestOf(&r.request, &s.request) {
		return nil, limiter.Used{}, false
	}
	used, err := r.from.tariff.Settle(&s.request, u, r.costs, charged)
	return charged, used, err == nil
}

// finishLocked ends an open reservation, which its slice has been charged for.
func (t *Table) finishLocked(s *shard, r *reservation, to reservationState, charged []int64, now int64) {
	used := make([]int64, len(charged))
	for i := range used {
		used[i] = r.entry.holder.Used(i)
	}
	r.entry.remove(r)
	r.state, r.charged, r.used, r.endedAt = to, charged, used, now
	s.settled++
	s.ended = append(s.ended, r)
	t.endings.Add(1)
	t.forgetLocked(s, now)
}

// forget forgets reservations of a shard, when the event for that is due.
func (t *Table) forget(s *shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgets = false
	t.forgetLocked(s, t.options.Now())
}

// forgetLocked forgets reservations that have ended long ago, or of which there are too many.
// A shard that remembers any has one event, and no more, to do so again.
func (t *Table) forgetLocked(s *shard, now int64) {
	n := 0
	for _, r := range s.ended {
		if r.endedAt+rememberFor > now && t.endings.Load() <= maxEnded {
			break
		}
		delete(s.reservations, r.request.GetRequestId())
		t.known.Add(-1)
		t.endings.Add(-1)
		s.ended[n] = nil
		n++
	}
	s.ended = s.ended[n:]
	if len(s.ended) > 0 && !s.forgets {
		s.forgets = true
		t.sender.forgetAt(s.ended[0].endedAt+rememberFor, s)
	}
}

// leaveLocked leaves a reservation to its owner, and returns what is closed when that has it.
// It ends the slice of the reservation.
func (t *Table) leaveLocked(s *shard, r *reservation, now int64) <-chan struct{} {
	if r.state == isOpen {
		r.entry.holder.End()
		t.endedLocked(s.keys[r.request.GetKey()], now)
	}
	if r.returning == nil { // the table is closed
		return nil
	}
	return r.returning.done
}

// returnLocked enqueues the return of a slice, with the reservations that its owner is to keep.
func (t *Table) returnLocked(k *key, e ended, now int64) {
	s := t.shard(k.name)
	var wire []*pb.KeptReservation
	if len(e.open) > 0 {
		ret := &returning{done: make(chan struct{}), reservations: e.open}
		for _, r := range e.open {
			r.state, r.entry, r.returning = isKept, nil, ret
			wire = append(wire, r.wire(now))
		}
		if s.returns == nil {
			s.returns = map[string]*returning{}
		}
		s.returns[e.ret.ID] = ret
		s.kept += uint64(len(e.open))
	}
	if !t.sender.add(k.name, e.ret, wire) {
		t.releaseLocked(s, e.ret.ID)
	}
}

// releaseLocked forgets the reservations of a return that is acknowledged, or lost: the owner
// knows what there is to know.
func (t *Table) releaseLocked(s *shard, slice string) {
	ret := s.returns[slice]
	if ret == nil {
		return
	}
	delete(s.returns, slice)
	for _, r := range ret.reservations {
		delete(s.reservations, r.request.GetRequestId())
		t.known.Add(-1)
	}
	close(ret.done)
}

// settlement returns the answer to a settle or a cancel of a reservation that has ended.
func (r *reservation) settlement() Settlement {
	return Settlement{
		Limits:    Limits{Decision: r.from.decision, View: r.from.view, costs: r.charged, used: r.used},
		Cancelled: r.state == isCancelled,
	}
}
