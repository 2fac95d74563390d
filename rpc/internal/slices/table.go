// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/slice"
	"github.com/bucketring/bucketring/rpc/pb"
)

// DefaultMaxKeys is the default of [Options].MaxKeys.
const DefaultMaxKeys = 10_000

// DefaultTimeout is the default of [Options].Timeout.
const DefaultTimeout = time.Second

// Options configure a [Table]. Now and Send are needed.
type Options struct {
	// Now returns the time of a monotonic clock in nanoseconds, which begins at 0 or later.
	// It must be safe for concurrent use.
	Now func() int64
	// Send sends item, a return, to the owner of its key, and returns nil once the owner has
	// acknowledged it. After an error it is sent again, unless the error wraps ErrRejected.
	// Send must not change item and must return soon after ctx has ended. Several goroutines
	// call it at once, for returns that may go out together.
	Send func(ctx context.Context, item *pb.Item) error
	// Destination names the owner of a key, so that one which does not answer delays no
	// returns to others. It must not block, and must be safe for concurrent use. Nil: all
	// keys have one owner.
	Destination func(key string) string
	// View makes what [Answer].View is from the decision with which a slice came. It is
	// called once for each slice, without locks. A slice for which it returns nil is not
	// taken, but returned. Nil: there are no views.
	View func(d *pb.Decision) any

	MaxKeys int           // for which slices are held or returned; 0: DefaultMaxKeys
	Timeout time.Duration // of one call of Send; 0: DefaultTimeout
}

// ErrRejected is the error of [Options].Send for a return that the owner has refused for
// good. The owner charges such a slice in full when its lease ends.
var ErrRejected = errors.New("the owner rejects the return of a slice")

// shards is how many locks a table has. A key belongs to one of them.
const shards = 128

// Table holds slices. It is safe for concurrent use.
type Table struct {
	options Options
	seed    maphash.Seed
	keys    atomic.Int64 // in all shards
	known   atomic.Int64 // reservations in all shards
	endings atomic.Int64 // of them those that have ended
	closed  atomic.Bool
	granted atomic.Uint64
	sender  sender
	shards  [shards]shard
}

// shard has the keys with the same hash.
type shard struct {
	mu           sync.Mutex
	keys         map[string]*key
	reservations map[string]*reservation // by id; nil: none yet
	returns      map[string]*returning   // by slice, of those with reservations; nil: none yet
	ended        []*reservation          // the oldest first
	forgets      bool                    // the sender has an event to forget the oldest of ended
	request      limiter.Request         // scratch space

	taken    uint64 // checks and counts that were answered
	reserved uint64 // reserves that were answered
	settled  uint64 // reservations that were settled or cancelled
	kept     uint64 // reservations that owners have from a return
	_        [48]byte
}

// New returns an empty table. Its goroutine starts with the first slice. Close must be called.
func New(o Options) *Table {
	o.MaxKeys, o.Timeout = cmp.Or(o.MaxKeys, DefaultMaxKeys), cmp.Or(o.Timeout, DefaultTimeout)
	t := &Table{options: o, seed: maphash.MakeSeed()}
	t.sender.init(t)
	for i := range t.shards {
		t.shards[i].keys = map[string]*key{}
	}
	return t
}

// Now returns the time of Options.Now.
func (t *Table) Now() int64 { return t.options.Now() }

// Holds reports whether there may be a slice. If not, Take and Reserve return false.
func (t *Table) Holds() bool { return t.keys.Load() > 0 }

func (t *Table) shard(key string) *shard {
	return &t.shards[maphash.String(t.seed, key)%shards]
}

// Take answers a check from memory, and sets a then. It returns false if the owner must
// decide: no slice covers the check, the check has a request id, or it is the one that is to
// renew a slice. None is to do that unless renews is set; it is not for a check which was,
// and which the owner has not admitted. Take allocates nothing.
func (t *Table) Take(q *pb.CheckRequest, a *Answer, renews bool) bool {
	if t.keys.Load() == 0 || q.GetRequestId() != "" {
		return false
	}
	s := t.shard(q.GetKey())
	s.mu.Lock()
	defer s.mu.Unlock()
	now := t.options.Now()
	of := shapeOfCheck(q)
	return t.takeLocked(s, q.GetKey(), &of, nil, a, now, renews)
}

// takeLocked answers a call from memory that costs as much as the one that the slice came with
// or, if costs are not nil, that.
func (t *Table) takeLocked(s *shard, name string, of *shape, costs []int64, a *Answer, now int64, renews bool) bool {
	k, e := s.coverLocked(name, of, now, renews)
	if e == nil {
		return false
	}
	if costs == nil {
		costs = e.from.costs
	}
	answered := e.holder.Take(now, costs)
	if answered {
		s.taken++
		*a = Answer{Limits: Limits{Decision: e.from.decision, View: e.from.view, calls: e.holder.Calls()}}
		if of.kind == counts {
			a.calls, a.windowEnds = e.holder.Used(0), e.from.windowEnds // each hit costs 1
		}
	}
	if !e.holder.Live() {
		t.endedLocked(k, now)
	}
	return answered
}

// Reserve makes a reservation from memory with an id, which nobody else may know, and sets a
// then. Like Take, it returns false if the owner must decide.
func (t *Table) Reserve(q *pb.ReserveRequest, id string, a *Answer, renews bool) bool {
	if t.keys.Load() == 0 || q.GetRequestId() != "" {
		return false
	}
	s := t.shard(q.GetKey())
	s.mu.Lock()
	defer s.mu.Unlock()
	now := t.options.Now()
	of := shapeOf(q)
	k, e := s.coverLocked(q.GetKey(), &of, now, renews)
	if e == nil {
		return false
	}
	reserved := t.reserveLocked(s, k, e, q, id, a, now)
	if !e.holder.Live() {
		t.endedLocked(k, now)
	}
	return reserved
}

// coverLocked returns the entry whose slice is to decide a request, nil if the owner is to
// decide it.
func (s *shard) coverLocked(name string, of *shape, now int64, renews bool) (*key, *entry) {
	k := s.keys[name]
	if k == nil {
		return nil, nil
	}
	e := k.find(of)
	if e == nil || !e.holder.Live() {
		return nil, nil
	}
	if renews && e.holder.Renewable() && now >= k.nextRenewal && k.mayAsk(now) {
		k.nextRenewal = now + renewEvery
		return nil, nil
	}
	return k, e
}

// Asks reports whether to ask the owner for a slice with a request that is sent to it. Then
// Granted or Answered must follow.
func (t *Table) Asks(q Request) bool {
	if t.closed.Load() {
		return false
	}
	keys := t.keys.Load()
	if keys == 0 {
		return true
	}
	s := t.shard(q.GetKey())
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.keys[q.GetKey()]
	if k == nil {
		return keys < int64(t.options.MaxKeys)
	}
	now, of := t.options.Now(), shapeOf(q)
	asks := k.ask(now, &of)
	t.endedLocked(k, now)
	return asks
}

// Granted is called when the answer to an asking request came with a slice. asked is when the
// request was sent, or before. A slice that is not needed any more is returned.
//
// The table keeps d, the decision on the request, and its limits. Neither they nor s may be
// changed later, or share memory that is used again.
func (t *Table) Granted(q Request, asked int64, s *pb.Slice, d *pb.Decision) {
	t.granted.Add(1)
	g, from, ok := grantOf(q, asked, s, d)
	if ok && t.options.View != nil {
		from.view = t.options.View(d)
		ok = from.view != nil
	}
	sh := t.shard(q.GetKey())
	sh.mu.Lock()
	defer sh.mu.Unlock()
	k := sh.keys[q.GetKey()]
	if k == nil && ok && !t.closed.Load() && t.keys.Load() < int64(t.options.MaxKeys) {
		k = newKey(q.GetKey())
		sh.keys[k.name] = k
		t.keys.Add(1)
	}
	if k == nil {
		t.sender.add(q.GetKey(), &slice.Return{ID: s.GetId(), Spent: make([]int64, len(s.GetAmounts()))}, nil)
		return
	}
	now := t.options.Now()
	if !ok || t.closed.Load() {
		g.Lease = 0 // it is returned at once
	}
	of := shapeOf(q)
	e := k.findOrAdd(&of)
	switch {
	case e == nil:
		k.unexpected.Granted(now, &slice.Grant{ID: g.ID, Amounts: g.Amounts})
	case k.granted(now, e, &g, from):
		t.sender.wakeAt(e.holder.Deadline(), k.name)
	}
	t.endedLocked(k, now)
}

// Answered is called when the answer to an asking request came without a slice, or did not
// come.
func (t *Table) Answered(q Request) {
	if t.keys.Load() == 0 {
		return
	}
	s := t.shard(q.GetKey())
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys[q.GetKey()]; k != nil {
		of := shapeOf(q)
		if e := k.find(&of); e != nil {
			e.holder.Refused()
		}
		t.endedLocked(k, t.options.Now())
	}
}

// Recall ends the slices of a key. They are returned at once.
func (t *Table) Recall(name string) {
	s := t.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys[name]; k != nil {
		now := t.options.Now()
		k.recall(now)
		t.endedLocked(k, now)
	}
}

// endedLocked ends the slices whose time is over, enqueues the returns of those that have
// ended, and forgets the key if there is nothing to remember.
func (t *Table) endedLocked(k *key, now int64) {
	if until, wasted := k.expire(now); wasted {
		t.sender.wakeAt(until, k.name)
	}
	for _, e := range k.due(now) {
		t.returnLocked(k, e, now)
	}
	if k.idle(now) {
		delete(t.shard(k.name).keys, k.name)
		t.keys.Add(-1)
	}
}

// sweep ends the slices of a key whose time is over.
func (t *Table) sweep(name string) {
	s := t.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys[name]; k != nil {
		t.endedLocked(k, t.options.Now())
	}
}

// acknowledged forgets a return.
func (t *Table) acknowledged(name, id string) {
	s := t.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	t.releaseLocked(s, id)
	if k := s.keys[name]; k != nil {
		k.returned(id)
		t.endedLocked(k, t.options.Now())
	}
}

// Close ends all slices, and sends the returns until ctx ends. Then the error says how many
// are lost: the owners charge these slices in full. Nothing is taken or asked for any more.
// A second Close does nothing.
func (t *Table) Close(ctx context.Context) error {
	if t.closed.Swap(true) {
		return nil
	}
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		now := t.options.Now()
		for _, k := range s.keys {
			k.recall(now)
			t.endedLocked(k, now)
		}
		s.mu.Unlock()
	}
	err := t.sender.close(ctx)
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for id := range s.returns {
			t.releaseLocked(s, id)
		}
		s.mu.Unlock()
	}
	return err
}

// Status is what a table holds and has done.
type Status struct {
	Held           int    // slices
	Open           int    // reservations that were made from slices which are held
	PendingReturns int    // that owners have not acknowledged
	Taken          uint64 // checks and counts that were answered from slices
	Reserved       uint64 // reserves that were answered from slices
	Settled        uint64 // reservations that were settled or cancelled from slices
	Kept           uint64 // reservations that were left to owners, with a return
	Granted        uint64 // slices that were lent, also those that were not needed
	Returned       uint64 // returns that owners have acknowledged
	FailedSends    uint64 // attempts to return a slice
	LostReturns    uint64 // that owners have rejected, or that Close did not wait for
}

// Status returns what t holds. It takes every lock of t, one after the other, so that it is
// not for every call.
func (t *Table) Status() Status {
	st := t.sender.status()
	st.Granted = t.granted.Load()
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		st.Taken += s.taken
		st.Reserved += s.reserved
		st.Settled += s.settled
		st.Kept += s.kept
		for _, k := range s.keys {
			st.Held += k.live()
			for _, e := range k.entries {
				st.Open += len(e.open)
			}
		}
		s.mu.Unlock()
	}
	return st
}
