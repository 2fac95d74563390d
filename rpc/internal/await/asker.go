// SPDX-License-Identifier: Apache-2.0

package await

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// idleTimeout is how long a stream stays open after its last waiting call.
	idleTimeout = 10 * time.Second
	// openTimeout bounds the opening of a stream. It is far more than a handshake takes.
	openTimeout = 5 * time.Second
)

// Asker sends calls that wait to one member. It is safe for concurrent use, and [New] makes it.
type Asker struct {
	open func(ctx context.Context) (Stream, error)
	wg   sync.WaitGroup

	mu struct {
		sync.Mutex
		closed  bool
		session *session // that takes new calls; nil: none
	}
}

// session is one stream and its calls. Its receiver opens the stream and receives, its sender
// sends: two ends that both block in Send would deadlock.
type session struct {
	asker  *Asker
	ctx    context.Context
	cancel context.CancelFunc
	wake   notify.Signal // for the sender
	// sendErr is why the sender has ended. It is read after that.
	sendErr error

	// What follows is guarded by Asker.mu.
	waiting map[uint64]*call // by number
	last    uint64           // number
	unsent  list
	leaves  []uint64    // numbers of calls that were sent and have left
	idle    *time.Timer // set while nothing waits
}

// call is a call that waits.
type call struct {
	number     uint64
	item       *pb.Item // nil once it was taken to be sent
	done       func(*pb.Result, error)
	prev, next *call // in session.unsent
}

// Start sends item. It does not block. done is called exactly once: with the result, or with an
// error of this package. It is called by a goroutine of the asker, or by Start if the call is
// refused at once, and must neither block nor call Close.
//
// leave ends the call if no answer has come yet; done is not called then. If the answer came
// first, leave does nothing, and done may still be running. leave does not block, and may be
// called more than once. The item must not be changed after Start was called.
func (a *Asker) Start(item *pb.Item, done func(*pb.Result, error)) (leave func()) {
	a.mu.Lock()
	if a.mu.closed {
		a.mu.Unlock()
		done(nil, &unsentError{ErrClosed})
		return func() {}
	}
	s := a.mu.session
	if s == nil {
		s = a.openLocked()
	}
	if len(s.waiting) >= MaxWaiting {
		a.mu.Unlock()
		done(nil, ErrFull)
		return func() {}
	}
	if s.idle != nil {
		s.idle.Stop()
		s.idle = nil
	}
	s.last++
	c := &call{number: s.last, item: item, done: done}
	s.waiting[c.number] = c
	s.unsent.push(c)
	a.mu.Unlock()
	s.wake.Set()
	return func() { s.leave(c) }
}

// Waiting returns how many calls wait.
func (a *Asker) Waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.session == nil {
		return 0
	}
	return len(a.mu.session.waiting)
}

// Close ends all calls with ErrClosed, and waits for the goroutines of the asker. It may be
// called more than once.
func (a *Asker) Close() {
	a.mu.Lock()
	a.mu.closed = true
	if s := a.mu.session; s != nil {
		s.cancel()
	}
	a.mu.Unlock()
	a.wg.Wait()
}

// openLocked begins a session.
func (a *Asker) openLocked() *session {
	s := &session{asker: a, waiting: map[uint64]*call{}, wake: notify.New()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	a.mu.session = s
	a.wg.Go(s.run)
	return s
}

// leave ends a call that has no answer.
func (s *session) leave(c *call) {
	a := s.asker
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.waiting[c.number] != c {
		return
	}
	delete(s.waiting, c.number)
	if c.item != nil {
		s.unsent.remove(c)
		c.item = nil
	} else {
		s.leaves = append(s.leaves, c.number)
		s.wake.Set()
	}
	s.restLocked()
}

// restLocked starts the timer that ends the stream, if nothing waits.
func (s *session) restLocked() {
	if len(s.waiting) > 0 || s.idle != nil || s.asker.mu.session != s {
		return
	}
	var idle *time.Timer
	idle = time.AfterFunc(idleTimeout, func() {
		s.asker.mu.Lock()
		defer s.asker.mu.Unlock()
		if s.idle == idle { // else a call came meanwhile
			s.asker.mu.session = nil
			s.cancel()
		}
	})
	s.idle = idle
}

// run opens the stream, receives until it ends, and then ends the calls that still wait.
func (s *session) run() {
	err := s.receive()
	s.cancel()
	a := s.asker
	a.mu.Lock()
	if a.mu.session == s {
		a.mu.session = nil
	}
	if a.mu.closed {
		err = ErrClosed
	} else {
		err = broken(err)
	}
	waiting := s.waiting
	s.waiting, s.leaves = nil, nil
	if s.idle != nil {
		s.idle.Stop()
	}
	a.mu.Unlock()
	unsent := &unsentError{err}
	for _, c := range waiting {
		if c.item != nil {
			c.done(nil, unsent)
		} else {
			c.done(nil, err)
		}
	}
}

// receive opens the stream and passes on answers until it ends. The sender has ended when it
// returns, so that no item is used after its call has ended.
func (s *session) receive() error {
	timeout := time.AfterFunc(openTimeout, s.cancel)
	stream, err := s.asker.open(s.ctx)
	if !timeout.Stop() && err == nil {
		err = context.DeadlineExceeded // the stream ends with s.ctx
	}
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	var sender sync.WaitGroup
	sender.Go(func() { s.send(stream) })
	for err == nil {
		var answer *pb.WaitAnswer
		if answer, err = stream.Recv(); err == nil {
			err = s.deliver(answer)
		}
	}
	s.cancel()
	sender.Wait()
	if s.sendErr != nil {
		return s.sendErr
	}
	return err
}

// deliver ends the call that was answered. Answers to calls that have left are ignored.
func (s *session) deliver(answer *pb.WaitAnswer) error {
	a := s.asker
	a.mu.Lock()
	c := s.waiting[answer.GetNumber()]
	if c == nil || c.item != nil {
		left := c == nil && answer.GetNumber() > 0 && answer.GetNumber() <= s.last
		a.mu.Unlock()
		if !left {
			return fmt.Errorf("an answer to call %d, which was not sent", answer.GetNumber())
		}
		return nil
	}
	delete(s.waiting, c.number)
	s.restLocked()
	a.mu.Unlock()
	result := answer.GetResult()
	if result == nil {
		result = &pb.Result{}
	}
	c.done(result, nil)
	return nil
}

// send sends what is to be sent until the stream ends.
func (s *session) send(stream Stream) {
	for {
		m := s.nextMessage()
		if m == nil {
			select {
			case <-s.wake.C():
				continue
			case <-s.ctx.Done():
				return
			}
		}
		if err := stream.Send(m); err != nil {
			if !errors.Is(err, io.EOF) { // else Recv returns the cause
				s.sendErr = err
				s.cancel()
			}
			return
		}
	}
}

// nextMessage returns what to send next, nil if there is nothing. Leaves go first, because they
// make room.
func (s *session) nextMessage() *pb.WaitMessage {
	a := s.asker
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(s.leaves); n > 0 {
		m := &pb.WaitMessage{Number: s.leaves[n-1]}
		if s.leaves = s.leaves[:n-1]; n == 1 {
			s.leaves = nil // a burst must not keep its memory
		}
		return m
	}
	c := s.unsent.first
	if c == nil {
		return nil
	}
	s.unsent.remove(c)
	m := &pb.WaitMessage{Number: c.number, Item: c.item}
	c.item = nil
	return m
}

// list is calls in the order in which they came.
type list struct{ first, last *call }

func (l *list) push(c *call) {
	if c.prev = l.last; c.prev == nil {
		l.first = c
	} else {
		c.prev.next = c
	}
	l.last = c
}

func (l *list) remove(c *call) {
	if c.prev == nil {
		l.first = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		l.last = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
}
