// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Pending is a call that was started and not waited for.
type Pending struct {
	link *Link
	// done receives one value when the call has ended. It is buffered, so that
	// ending a call never blocks, and is reused together with the Pending.
	done chan struct{}
	err  error

	wire []byte // the encoded item; after success, the encoded result
	key  string
	// definitions are those to which the result may refer.
	definitions codec.Definitions
	class       class
	started     int64
	deadline    int64
	patience    int64 // see WithPatience; 0: until the deadline

	// What follows is guarded by Link.mu.
	state      state
	wakeAt     int64 // when to look at it in Link.mu.deadlines: not after deadline
	doubted    bool  // its patience seemed to be over, see patientUntilLocked
	probe      bool  // of an open breaker
	sends      uint8 // how often it was sent
	heapIndex  int   // in Link.mu.deadlines
	prev, next *Pending
	batch      *batch // when in flight
	at         int    // its index in batch.calls
}

type state uint8

const (
	idle     state = iota // not started
	queued                // in Link.mu.queue
	inFlight              // in batch
	ended                 // err is set, and done receives its value
)

// Do sends item and waits for its result, for as long as the deadline of ctx and
// Options.Timeout allow. It returns ErrTimeout at the deadline, or earlier if it can see
// that the call will miss it, ErrOverloaded at once, the error of ctx if that is
// cancelled, ErrAnswer if the result cannot be decoded, one of the other errors of this
// package, or an error that says why the item cannot be encoded.
//
// The caller owns the result. The item is not used after Do has returned.
func (l *Link) Do(ctx context.Context, item *pb.Item) (*pb.Result, error) {
	return l.Start(ctx, item).Wait(ctx)
}

// DoInto is like Do, but d decodes the result, in the goroutine of the caller. An
// error of d is wrapped together with ErrAnswer.
func (l *Link) DoInto(ctx context.Context, item *pb.Item, d Decoder) error {
	if classOf(item) == ordinary {
		if err := l.Refuse(); err != nil {
			return err
		}
	}
	return l.Start(ctx, item).WaitInto(ctx, d)
}

// Start is the first half of Do, so that one goroutine can have many calls in
// flight. Each Pending needs exactly one Wait. The item is not used after Start has
// returned.
//
// The deadline is that of ctx, also if its Done never fires: see [WithDeadline].
func (l *Link) Start(ctx context.Context, item *pb.Item) *Pending {
	p, ok := l.pendings.Get().(*Pending)
	if !ok {
		p = &Pending{link: l, done: make(chan struct{}, 1)}
	}
	if p.class = classOf(item); p.class == ordinary {
		if err := l.Refuse(); err != nil {
			return p.reject(err)
		}
	}
	if err := p.encode(item); err != nil {
		return p.reject(err)
	}
	if err := ctx.Err(); err != nil {
		return p.reject(asTimeout(err))
	}
	now := l.now()
	p.started, p.deadline = now, l.deadline(ctx, now)
	p.wakeAt = p.deadline
	if d, ok := ctx.(*DeadlineContext); ok {
		if d.patience > 0 {
			p.patience = int64(d.patience)
			p.wakeAt = min(p.deadline, now+p.patience-p.looksApart())
		}
		if d.inTurn && p.class == urgent {
			p.class = kept
		}
	}

	l.mu.Lock()
	if err := l.admitLocked(p, now); err != nil {
		refused := errors.Is(err, ErrOverloaded)
		if refused {
			l.countRefusalsLocked(now, 1)
		} else {
			l.recordFailureLocked(err, 1)
		}
		l.unlock()
		if refused && l.o.Events.Refused != nil {
			l.o.Events.Refused()
		}
		return p.reject(err)
	}
	p.state = queued
	l.mu.queue.push(p)
	if l.mu.queue.n > minBatch {
		l.mu.admission.crowdedAt = now
	}
	l.mu.deadlines.push(p)
	l.armTimerLocked(p.wakeAt)

	s := l.mu.current
	switch {
	case s == nil:
		if l.mu.opening == nil {
			l.openLocked(now, 0)
		}
	case !l.canSendLocked(s):
	case s.answered && len(s.batches) == 0:
		// The stream is idle and the member has read everything sent before, so
		// this Send does not block.
		b := l.nextBatchLocked(s, now)
		l.unlock()
		l.send(s, b)
		return p
	default:
		s.wake.Set()
	}
	l.unlock()
	return p
}

// admitLocked returns why p must not be queued.
func (l *Link) admitLocked(p *Pending, now int64) error {
	if l.mu.breaker.unresponsive(now) && !l.stalledLocked(now) {
		l.tripLocked(now) // calls with short deadlines alone would never trip it
	}
	switch {
	case l.mu.closed:
		return ErrClosed
	case p.deadline <= now:
		return ErrTimeout
	case l.mu.queue.n >= l.o.MaxQueue:
		return ErrQueueFull
	case l.mu.current == nil && l.mu.opening == nil && now < l.mu.retryAt:
		return l.mu.openErr
	}
	if !l.mu.breaker.open && p.class == ordinary {
		if err := l.overloadedLocked(now, p.deadline); err != nil {
			return err
		}
		l.mu.throttle.Admit(now)
	}
	admitted, probe := l.mu.breaker.admit(now)
	if !admitted {
		return ErrBreakerOpen
	}
	p.probe = probe
	return nil
}

// deadline returns when a call with ctx ends at the latest.
func (l *Link) deadline(ctx context.Context, now int64) int64 {
	at := now + int64(l.o.Timeout)
	if d, ok := ctx.Deadline(); ok {
		at = min(at, int64(d.Sub(l.base)))
	}
	return at
}

// reject ends a call that was not queued.
func (p *Pending) reject(err error) *Pending {
	p.state, p.err = ended, err
	p.done <- struct{}{}
	return p
}

// Ended reports whether Wait returns at once. It must not be called after Wait.
func (p *Pending) Ended() bool { return len(p.done) > 0 }

// Wait returns the result of the call. See [Link.Do].
func (p *Pending) Wait(ctx context.Context) (*pb.Result, error) {
	m := new(message)
	if err := p.WaitInto(ctx, m); err != nil {
		return nil, err
	}
	return (*pb.Result)(m), nil
}

// WaitInto is like Wait, but d decodes the result. See [Link.DoInto].
func (p *Pending) WaitInto(ctx context.Context, d Decoder) error {
	if cancelled := ctx.Done(); cancelled == nil {
		<-p.done
	} else {
		select {
		case <-p.done:
		case <-cancelled:
			p.link.abandon(p, asTimeout(ctx.Err()))
			<-p.done
		}
	}
	defer p.recycle()
	if p.err != nil {
		return p.err
	}
	if err := d.Decode(codec.Encoded{Result: p.wire, Definitions: p.definitions, Key: p.key}); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return nil
}

// asTimeout returns ErrTimeout for a deadline that was exceeded.
func asTimeout(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return ErrTimeout
	}
	return err
}

// abandon ends p because its caller stopped waiting.
func (l *Link) abandon(p *Pending, err error) {
	l.mu.Lock()
	if p.state != ended {
		timeout := err == ErrTimeout //nolint:errorlint // from asTimeout
		if timeout {
			err = l.timeoutLocked(p, l.now())
		}
		l.failLocked(p, err)
		l.recordFailureLocked(err, 1)
		if timeout {
			l.timedOutLocked(l.now(), 1)
		}
	}
	l.unlock()
}

// failLocked removes p from its queue or batch and ends it.
func (l *Link) failLocked(p *Pending, err error) {
	switch p.state {
	case queued:
		l.mu.queue.remove(p)
	case inFlight:
		p.batch.calls[p.at] = nil
	}
	l.endLocked(p, err)
	p.done <- struct{}{}
}

// endLocked ends a call that is in no queue and no batch. The caller sends to
// p.done afterwards, and does not use p after that.
func (l *Link) endLocked(p *Pending, err error) {
	l.mu.deadlines.remove(p)
	if p.probe {
		l.mu.breaker.probing = false
	}
	p.state, p.batch, p.err = ended, nil, err
}

// failQueueLocked fails all queued calls, and returns how many.
func (l *Link) failQueueLocked(err error) (n int) {
	unsent := &unsentError{err}
	for p := l.mu.queue.first(); p != nil; p = l.mu.queue.first() {
		if p.sends == 0 {
			l.failLocked(p, unsent)
		} else {
			l.failLocked(p, err)
		}
		n++
	}
	return n
}

// recycle makes p ready for another call.
func (p *Pending) recycle() {
	const keep = 4 << 10 // larger buffers are not kept
	wire := p.wire[:0]
	if cap(wire) > keep {
		wire = nil
	}
	*p = Pending{link: p.link, done: p.done, wire: wire}
	p.link.pendings.Put(p)
}

// maxItem is far above what a valid call needs, and below the message size limit of
// servers: a larger item would break the stream for all calls on it.
const maxItem = 1 << 20

func (p *Pending) encode(item *pb.Item) (err error) {
	if p.wire, err = marshal.MarshalAppend(p.wire[:0], item); err != nil {
		return fmt.Errorf("encode item: %w", err)
	}
	p.key = codec.KeyOf(item)
	if len(p.wire) > maxItem {
		return fmt.Errorf("item: must be at most %d bytes, got %d", maxItem, len(p.wire))
	}
	return nil
}
