// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/limiter/slice"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	maxInFlight = 64 // calls of Options.Send for one destination

	// Time until a failed return is sent again, which doubles.
	minBackoff = int64(20 * time.Millisecond)
	maxBackoff = int64(time.Second)

	// maxAge is for how long a return is sent again: longer than any owner waits for it. Then
	// the slice was charged in full.
	maxAge = int64(10 * time.Second)
)

// sender sends returns to owners, and ends slices whose time is over. Its lock may be taken
// while one of a shard is held, not the other way around.
type sender struct {
	table *Table
	wake  notify.Signal
	ctx   context.Context // of the goroutine
	stop  context.CancelFunc
	done  sync.WaitGroup

	mu struct {
		sync.Mutex
		started bool
		closed  bool
		events  events
		queues  map[string]*sendQueue // by destination, those that are not empty
		left    int                   // returns that were not acknowledged
		empty   chan struct{}         // closed when none is left; nil: nobody waits for that

		returned, failed, lost uint64
	}
}

// sendQueue has the returns for one destination, so that one which does not answer delays
// those for no other.
type sendQueue struct {
	ready    []*pending // to be sent as soon as there is room
	inFlight int
}

// pending is a return that is to be sent.
type pending struct {
	key, id string
	to      string // its queue
	item    *pb.Item
	backoff int64 // the last one
	added   int64
}

// event is what to do at a time: send a return, have a shard forget reservations, or look for
// slices of a key that are over.
type event struct {
	at    int64
	ret   *pending // nil: none
	shard *shard   // nil: none
	key   string
}

// events is a heap.
type events []event

func (e events) Len() int           { return len(e) }
func (e events) Less(i, j int) bool { return e[i].at < e[j].at }
func (e events) Swap(i, j int)      { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)        { *e = append(*e, x.(event)) }

// Pop implements heap.Interface.
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}

func (s *sender) init(t *Table) {
	s.table, s.wake = t, notify.New()
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.mu.queues = map[string]*sendQueue{}
}

// add enqueues a return, and the reservations that it has. It returns false if the sender is
// closed: then the return is lost.
func (s *sender) add(key string, r *slice.Return, kept []*pb.KeptReservation) bool {
	p := &pending{key: key, id: r.ID, item: &pb.Item{Call: &pb.Item_SliceReturn{
		SliceReturn: &pb.SliceReturn{Key: key, Slice: r.ID, Spent: r.Spent, Calls: r.Calls, Kept: kept, Used: usedOf(&r.Used)},
	}}}
	p.added = s.table.options.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		s.mu.lost++
		return false
	}
	s.mu.left++
	s.enqueueLocked(p)
	s.wakeLocked()
	return true
}

// enqueueLocked has a return sent as soon as there is room.
func (s *sender) enqueueLocked(p *pending) {
	p.to = ""
	if name := s.table.options.Destination; name != nil {
		p.to = name(p.key)
	}
	q := s.mu.queues[p.to]
	if q == nil {
		q = &sendQueue{}
		s.mu.queues[p.to] = q
	}
	q.ready = append(q.ready, p)
}

// startLocked begins to send what is ready and has room.
func (s *sender) startLocked() {
	for _, q := range s.mu.queues {
		for len(q.ready) > 0 && q.inFlight < maxInFlight {
			p := q.ready[0]
			q.ready[0] = nil
			q.ready = q.ready[1:]
			q.inFlight++
			s.done.Go(func() { s.send(p) })
		}
	}
}

// sentLocked makes room for the next return to the same destination.
func (s *sender) sentLocked(p *pending) {
	q := s.mu.queues[p.to]
	if q.inFlight--; q.inFlight == 0 && len(q.ready) == 0 {
		delete(s.mu.queues, p.to)
	}
}

// wakeAt looks for slices of a key that are over, at a time.
func (s *sender) wakeAt(at int64, key string) { s.schedule(event{at: at, key: key}) }

// forgetAt has a shard forget reservations, at a time.
func (s *sender) forgetAt(at int64, sh *shard) { s.schedule(event{at: at, shard: sh}) }

func (s *sender) schedule(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return
	}
	heap.Push(&s.mu.events, e)
	s.wakeLocked()
}

func (s *sender) wakeLocked() {
	if !s.mu.started {
		s.mu.started = true
		s.done.Go(s.run)
	}
	s.wake.Set()
}

// run handles events until close.
func (s *sender) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Reset(s.step())
		select {
		case <-s.wake.C():
		case <-timer.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// step does what is to be done now, and returns the time until there is more.
func (s *sender) step() time.Duration {
	now := s.table.options.Now()
	var keys []string
	var shards []*shard
	wait := time.Hour
	s.mu.Lock()
	for len(s.mu.events) > 0 && s.mu.events[0].at <= now {
		switch e := heap.Pop(&s.mu.events).(event); {
		case e.ret != nil:
			s.enqueueLocked(e.ret)
		case e.shard != nil:
			shards = append(shards, e.shard)
		default:
			keys = append(keys, e.key)
		}
	}
	if len(s.mu.events) > 0 {
		wait = min(wait, time.Duration(s.mu.events[0].at-now))
	}
	s.startLocked()
	s.mu.Unlock()
	for _, key := range keys {
		s.table.sweep(key) // which may wake s
	}
	for _, sh := range shards {
		s.table.forget(sh) // likewise
	}
	return wait
}

// send sends a return once.
func (s *sender) send(p *pending) {
	ctx, cancel := context.WithTimeout(s.ctx, s.table.options.Timeout)
	err := s.table.options.Send(ctx, p.item)
	cancel()
	now := s.table.options.Now()
	final := err == nil || errors.Is(err, ErrRejected) || now-p.added > maxAge
	if final {
		s.table.acknowledged(p.key, p.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sentLocked(p)
	switch {
	case err == nil:
		s.mu.returned++
	case final:
		s.mu.failed++
		s.mu.lost++
	default:
		s.mu.failed++
		p.backoff = min(max(2*p.backoff, minBackoff), maxBackoff)
		heap.Push(&s.mu.events, event{at: now + p.backoff, ret: p})
	}
	if final {
		s.mu.left--
		if s.mu.left == 0 && s.mu.empty != nil {
			close(s.mu.empty)
			s.mu.empty = nil
		}
	}
	s.wake.Set()
}

// close sends what is left until ctx ends, and ends the goroutines.
func (s *sender) close(ctx context.Context) error {
	select {
	case <-s.empty():
	case <-ctx.Done():
	}
	s.mu.Lock()
	s.mu.closed = true
	s.mu.Unlock()
	s.stop()
	s.done.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.mu.left
	s.mu.lost += uint64(n)
	s.mu.left, s.mu.queues, s.mu.events = 0, nil, nil
	if n > 0 {
		return fmt.Errorf("return slices: %d are lost, and their owners charge them in full: %w", n, context.Cause(ctx))
	}
	return nil
}

// empty ends every backoff, and returns a channel that is closed when no return is left.
func (s *sender) empty() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	empty := make(chan struct{})
	if s.mu.left == 0 {
		close(empty)
		return empty
	}
	s.mu.empty = empty
	for _, e := range s.mu.events {
		if e.ret != nil {
			s.enqueueLocked(e.ret)
		}
	}
	s.mu.events = nil // Close has ended all slices
	s.wake.Set()
	return empty
}

func (s *sender) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{PendingReturns: s.mu.left, Returned: s.mu.returned, FailedSends: s.mu.failed, LostReturns: s.mu.lost}
}
