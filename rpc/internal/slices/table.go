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
	closed  atomic.Bool
	granted atomic.Uint64
	sender  sender
	shards  [shards]shard
}

// shard has the keys with the same hash.
type shard struct {
	mu    sync.Mutex
	keys  map[string]*key
	taken uint64   // calls that were answered
	_     [40]byte // shards do not share a cache line
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
	k := s.keys[q.GetKey()]
	if k == nil {
		return false
	}
	e := k.find(q)
	if e == nil || !e.holder.Live() {
		return false
	}
	now := t.options.Now()
	if renews && e.holder.Renewable() && now >= k.nextRenewal && k.mayAsk(now) {
		k.nextRenewal = now + renewEvery
		return false
	}
	answered := e.holder.Take(now, 1)
	if answered {
		s.taken++
		*a = Answer{Decision: e.decision, View: e.view, calls: e.holder.Calls()}
	}
	if !e.holder.Live() {
		t.endedLocked(k, now)
	}
	return answered
}

// Asks reports whether to ask the owner for a slice with a check that is sent to it. Then
// Granted or Answered must follow.
func (t *Table) Asks(q *pb.CheckRequest) bool {
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
	now := t.options.Now()
	asks := k.ask(now, q)
	t.endedLocked(k, now)
	return asks
}

// Granted is called when the answer to an asking check came with a slice. asked is when the
// check was sent, or before. A slice that is not needed any more is returned.
//
// The table keeps d, the decision on the check, and its limits. Neither they nor s may be
// changed later, or share memory that is used again.
func (t *Table) Granted(q *pb.CheckRequest, asked int64, s *pb.Slice, d *pb.Decision) {
	t.granted.Add(1)
	g, ok := grantOf(asked, s, d)
	var view any
	if ok && t.options.View != nil {
		view = t.options.View(d)
		ok = view != nil
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
		t.sender.add(q.GetKey(), &slice.Return{ID: s.GetId(), Spent: make([]int64, len(s.GetAmounts()))})
		return
	}
	now := t.options.Now()
	if !ok || t.closed.Load() {
		g.Lease = 0 // it is returned at once
	}
	e := k.findOrAdd(q)
	switch {
	case e == nil:
		k.unexpected.Granted(now, &slice.Grant{ID: g.ID, Amounts: g.Amounts})
	case k.granted(now, e, &g, d, view):
		t.sender.wakeAt(e.holder.Deadline(), k.name)
	}
	t.endedLocked(k, now)
}

// Answered is called when the answer to an asking check came without a slice, or did not
// come.
func (t *Table) Answered(q *pb.CheckRequest) {
	if t.keys.Load() == 0 {
		return
	}
	s := t.shard(q.GetKey())
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.keys[q.GetKey()]; k != nil {
		if e := k.find(q); e != nil {
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
	for _, r := range k.due(now) {
		t.sender.add(k.name, r)
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
	return t.sender.close(ctx)
}

// Status is what a table holds and has done.
type Status struct {
	Held           int    // slices
	PendingReturns int    // that owners have not acknowledged
	Taken          uint64 // checks that were answered from slices
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
		for _, k := range s.keys {
			st.Held += k.live()
		}
		s.mu.Unlock()
	}
	return st
}
