// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/rpc/internal/codec"
)

// maxInFlight bounds the batches in flight on one stream.
const maxInFlight = 2

// stream is one gRPC stream with two goroutines. The receiver opens it and
// receives; it never sends, since two ends that both block in Send would
// deadlock. The sender sends.
type stream struct {
	ctx    context.Context
	cancel context.CancelFunc
	rpc    Stream        // set before the stream becomes Link.mu.current
	wake   notify.Signal // for the sender

	// What follows is guarded by Link.mu.
	batches    []*batch // in flight, by sequence
	sequence   uint64   // of the last batch
	sending    bool     // a goroutine is in Send
	answered   bool     // at least one batch was
	sendClosed bool     // Send failed with EOF; Recv returns the cause
	draining   bool     // takes no new batches, and waits for those in flight
	closed     bool     // has no calls any more
	err        error    // of Send; it goes before the error of Recv

	timer *time.Timer // replaces the stream because of its age, then ends its draining

	// What follows is used by the receiver only.
	ended       []*Pending        // the calls of the batch just answered
	definitions codec.Definitions // that came on the stream
}

// inFlight also works for a nil stream.
func (s *stream) inFlight() int {
	if s == nil {
		return 0
	}
	return len(s.batches)
}

func (l *Link) batchesInFlightLocked() int {
	return l.mu.current.inFlight() + l.mu.draining.inFlight()
}

// canSendLocked reports whether to send a batch on s now. A second batch is
// worth it if it is full, or no smaller than the one in flight.
func (l *Link) canSendLocked(s *stream) bool {
	q := &l.mu.queue
	if q.n == 0 || s.sending || s.sendClosed || s.draining || s.closed {
		return false
	}
	switch n := len(s.batches); {
	case n == 0:
		return true
	case n < maxInFlight && !l.mu.admission.probing(l.mu.admission.lastAnswer):
		return q.n >= len(s.batches[n-1].calls) || q.n >= l.mu.admission.limit || q.bytes+q.n*overhead >= l.o.MaxBytes
	default:
		return false
	}
}

// send sends a batch of nextBatchLocked, which may be nil.
func (l *Link) send(s *stream, b *batch) {
	if b == nil {
		return
	}
	items := len(b.calls)
	b.msg.Ring = l.o.Ring()
	err := s.rpc.Send(&b.msg)
	if err == nil && l.o.Events.Batch != nil {
		l.o.Events.Batch(items)
	}
	l.mu.Lock()
	s.sending, b.sending = false, false
	l.recycleLocked(b)
	if err != nil {
		s.sendClosed = true
		if !errors.Is(err, io.EOF) {
			s.err = err
			s.cancel()
		}
	}
	if s.draining || l.canSendLocked(s) {
		s.wake.Set()
	}
	l.unlock()
}

// sender sends batches until the stream drains or closes.
func (l *Link) sender(s *stream) {
	defer l.wg.Done()
	for {
		select {
		case <-s.wake.C():
		case <-s.ctx.Done():
			return
		}
		// Callers that were just answered often enqueue their next call at once:
		// let them run first. It saves a tenth of the CPU with many callers.
		runtime.Gosched()
		l.mu.Lock()
		if s.draining && !s.sending {
			l.unlock()
			_ = s.rpc.CloseSend() // Recv reports a broken stream
			return
		}
		var b *batch
		if l.canSendLocked(s) {
			b = l.nextBatchLocked(s, l.now())
		}
		l.unlock()
		l.send(s, b)
	}
}

// receiver opens the stream after a delay, and receives until it ends.
func (l *Link) receiver(s *stream, delay time.Duration) {
	defer l.wg.Done()
	defer s.cancel()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-s.ctx.Done():
		}
	}
	timeout := time.AfterFunc(openTimeout, s.cancel)
	rpc, err := l.o.Open(s.ctx)
	timeout.Stop()
	if !l.opened(s, rpc, err) {
		return
	}
	var answers Answers
	for {
		err := s.rpc.Recv(&answers)
		if err == nil {
			err = l.deliver(s, &answers)
		} else if !errors.Is(err, io.EOF) {
			err = fmt.Errorf("receive: %w", err)
		}
		if err != nil {
			l.receiveFailed(s, err)
			return
		}
	}
}

// deliver gives the results to their callers. An error means that the member
// violated the protocol, or that the stream is closed.
func (l *Link) deliver(s *stream, answers *Answers) error {
	defer answers.free()
	for _, d := range answers.Definitions {
		var err error
		if s.definitions, err = s.definitions.Add(d); err != nil {
			return err
		}
	}
	now := l.now()
	refused := answers.refused()
	l.mu.Lock()
	l.recordRefusalsLocked(now)
	if s.closed {
		l.unlock()
		return errStreamClosed
	}
	b, err := s.match(answers)
	if err != nil {
		l.unlock()
		return err
	}
	s.batches = append(s.batches[:0], s.batches[1:]...)
	s.answered = true
	l.mu.backoff = 0
	inFlight := l.batchesInFlightLocked() > 0
	if l.mu.breaker.answered(now, inFlight) {
		l.recordBreakerLocked()
	}
	l.mu.admission.answer(now, b.sent, len(b.calls)-refused, !inFlight && l.mu.queue.n == 0)
	l.mu.breaker.roundTrip = l.mu.admission.roundTrip
	l.mu.throttle.Answered(now, max(b.ordinary-refused, 0))
	if refused > 0 {
		l.mu.throttle.Refused(now, refused)
		l.mu.throttling = true
	}
	for _, p := range b.calls {
		if p != nil {
			l.endLocked(p, nil)
		}
	}
	b.calls, s.ended = s.ended[:0], b.calls
	b.unanswered = false
	l.recycleLocked(b)
	if s.draining || l.canSendLocked(s) {
		s.wake.Set()
	}
	l.unlock()
	for i, p := range s.ended { // without the lock: each send may start its caller
		if p != nil {
			p.wire, p.definitions = append(p.wire[:0], answers.Results[i]...), s.definitions
			p.done <- struct{}{}
		}
	}
	return nil
}

// match returns the batch that a answers, which is the oldest one in flight.
func (s *stream) match(a *Answers) (*batch, error) {
	if len(s.batches) == 0 {
		return nil, fmt.Errorf("answers with sequence %d: nothing is in flight", a.Sequence)
	}
	b := s.batches[0]
	if got, want := a.Sequence, b.msg.GetSequence(); got != want {
		return nil, fmt.Errorf("answers with sequence %d, want %d", got, want)
	}
	if got, want := len(a.Results), len(b.calls); got != want {
		return nil, fmt.Errorf("answers with sequence %d: got %d results, want %d", a.Sequence, got, want)
	}
	return b, nil
}
