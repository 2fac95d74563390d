// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bucketring/bucketring/internal/notify"
)

// The life of a stream:
//
//	openLocked -> opening -> opened -> current -> drainLocked -> draining -> closed
//
// A stream that breaks fails its calls, and also those in the queue unless
// another stream is open or opening. A stream that is replaced because of its age,
// or that the member ends with OK, fails no call.

const (
	openTimeout = 5 * time.Second // far more than a handshake takes
	minBackoff  = 50 * time.Millisecond
	maxBackoff  = time.Second
	// maxSends bounds how often a call is sent: again if the member ended the
	// stream before reading it, and once more if the new stream still reached the
	// process that is stopping and not its successor.
	maxSends = 3
)

var (
	errStreamClosed  = errors.New("stream was closed")
	errNeverAnswered = errors.New("streams end before anything is answered")
	errSilent        = errors.New("no answer for too long")
	errNotDrained    = errors.New("stream was not drained in time")
)

func broken(cause error) error { return fmt.Errorf("%w: %w", ErrBroken, cause) }

// openLocked opens a stream after a delay.
func (l *Link) openLocked(now int64, delay time.Duration) {
	s := &stream{wake: notify.New()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	l.mu.opening = s
	if l.mu.current == nil {
		l.mu.breaker.markOutstanding(now) // calls wait for the stream
	}
	l.wg.Add(1)
	go l.receiver(s, delay)
}

// opened takes what Options.Open returned for s. It reports whether s is used.
func (l *Link) opened(s *stream, rpc Stream, err error) bool {
	now := l.now()
	l.mu.Lock()
	defer l.unlock()
	if s.closed {
		return false
	}
	l.mu.opening = nil
	if err != nil {
		s.closed = true
		l.backOffLocked(now, fmt.Errorf("open: %w", err))
		if l.mu.current != nil { // keep it, and try to replace it later
			l.mu.current.timer.Reset(l.mu.backoff)
		} else {
			l.updateOutstandingLocked()
			l.recordFailureLocked(ErrBroken, l.failQueueLocked(l.mu.openErr))
		}
		return false
	}
	if l.mu.current != nil {
		l.drainLocked(l.mu.current)
	}
	s.rpc = rpc
	l.mu.current = s
	l.updateOutstandingLocked()
	rotate := l.o.Rotate*9/10 + rand.N(l.o.Rotate/5+1)
	s.timer = time.AfterFunc(rotate, func() { l.timerFired(s) })
	l.wg.Add(1)
	go l.sender(s)
	if l.mu.queue.n > 0 {
		s.wake.Set()
	}
	return true
}

// backOffLocked keeps the link from opening a stream for a while.
func (l *Link) backOffLocked(now int64, cause error) {
	l.mu.backoff = min(max(2*l.mu.backoff, minBackoff), maxBackoff)
	l.mu.retryAt = now + int64(l.mu.backoff*3/4+rand.N(l.mu.backoff/2))
	l.mu.openErr = broken(cause)
}

// updateOutstandingLocked informs the breaker when nothing is outstanding.
func (l *Link) updateOutstandingLocked() {
	if l.batchesInFlightLocked() == 0 && (l.mu.opening == nil || l.mu.current != nil) {
		l.mu.breaker.clearOutstanding()
	}
}

// drainLocked lets s, the current stream, finish what is in flight.
func (l *Link) drainLocked(s *stream) {
	s.draining = true
	s.timer.Reset(2 * l.o.Timeout) // no call waits that long
	l.mu.current, l.mu.draining = nil, s
	s.wake.Set()
}

// timerFired replaces a stream that is old, or closes one that did not drain.
func (l *Link) timerFired(s *stream) {
	now := l.now()
	l.mu.Lock()
	defer l.unlock()
	switch {
	case s.closed || l.mu.closed:
	case s.draining:
		l.recordFailureLocked(ErrBroken, l.failStreamLocked(s, broken(errNotDrained)))
		l.updateOutstandingLocked()
	case l.mu.draining != nil || l.mu.opening != nil: // there are never more than two
		s.timer.Reset(l.o.Rotate / 10)
	case s.sequence == 0: // not used
		l.drainLocked(s)
	default:
		l.openLocked(now, 0)
	}
}

// receiveFailed ends a stream after Recv failed.
func (l *Link) receiveFailed(s *stream, err error) {
	now := l.now()
	l.mu.Lock()
	defer l.unlock()
	if s.closed {
		return
	}
	if s.err != nil {
		err = fmt.Errorf("send: %w", s.err)
	}
	if errors.Is(err, io.EOF) && s.err == nil {
		l.requeueLocked(s, now)
		return
	}
	cause := broken(err)
	current := l.mu.current == s
	failed := l.failStreamLocked(s, cause)
	if current && l.mu.opening == nil {
		failed += l.failQueueLocked(cause)
		if s.answered {
			l.mu.retryAt = 0
		} else {
			l.backOffLocked(now, err)
		}
	}
	l.updateOutstandingLocked()
	l.recordFailureLocked(ErrBroken, failed)
}

// requeueLocked closes a stream that the member ended with OK. Its unanswered
// calls were not read: they go back to the front of the queue, in the same order.
func (l *Link) requeueLocked(s *stream, now int64) {
	failed := 0
	for _, b := range slices.Backward(s.batches) {
		for i, p := range slices.Backward(b.calls) {
			switch {
			case p == nil:
			case p.sends >= maxSends:
				l.failLocked(p, broken(errNeverAnswered))
				failed++
			default:
				b.calls[i] = nil
				p.state, p.batch = queued, nil
				l.mu.queue.pushFront(p)
			}
		}
	}
	l.recordFailureLocked(ErrBroken, failed)
	l.closeStreamLocked(s)
	if l.mu.breaker.answered(now, l.batchesInFlightLocked() > 0) {
		l.recordBreakerLocked()
	}
	var delay time.Duration
	if !s.answered && s.sequence > 0 {
		// The member may end every stream at once. The calls wait for the backoff,
		// because none of them was read.
		l.backOffLocked(now, errNeverAnswered)
		delay = l.mu.backoff
	}
	switch {
	case l.mu.current != nil:
		l.mu.current.wake.Set()
	case l.mu.opening == nil && l.mu.queue.n > 0:
		l.openLocked(now, delay)
	}
}

// failStreamLocked closes s, which may be nil, and fails its calls with err. It
// returns how many they were.
func (l *Link) failStreamLocked(s *stream, err error) (n int) {
	if s == nil {
		return 0
	}
	for _, b := range s.batches {
		for _, p := range b.calls {
			if p != nil {
				l.failLocked(p, err)
				n++
			}
		}
	}
	l.closeStreamLocked(s)
	return n
}

// closeStreamLocked closes s, which has no calls any more.
func (l *Link) closeStreamLocked(s *stream) {
	for _, b := range s.batches {
		b.unanswered = false
		l.recycleLocked(b)
	}
	s.batches = nil
	s.closed = true
	s.cancel()
	if s.timer != nil {
		s.timer.Stop()
	}
	switch s {
	case l.mu.current:
		l.mu.current = nil
	case l.mu.opening:
		l.mu.opening = nil
	case l.mu.draining:
		l.mu.draining = nil
	}
}

// tripLocked opens the breaker, and closes the streams with batches in flight: a
// member that was frozen must not decide old calls when it resumes.
func (l *Link) tripLocked(now int64) {
	if l.mu.breaker.trip(now) {
		l.recordBreakerLocked()
	}
	for _, s := range []*stream{l.mu.current, l.mu.draining} {
		if s.inFlight() > 0 {
			l.recordFailureLocked(ErrBroken, l.failStreamLocked(s, broken(errSilent)))
		}
	}
	l.recordFailureLocked(ErrBreakerOpen, l.failQueueLocked(ErrBreakerOpen))
	l.mu.retryAt = 0 // the breaker limits how often a stream is opened
	l.updateOutstandingLocked()
}
