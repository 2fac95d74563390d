// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Pending is a call under way.
type Pending struct {
	link *Link
	// done carries one token, when wire or err is set. Its capacity lets
	// whoever ends the call go on. It is never closed, and lives as long as the
	// Pending, which is used again.
	done chan struct{}
	err  error

	wire     []byte // the item; once p has ended without an error, its result
	deadline int64

	// What follows is guarded by Link.mu.
	state      state
	probe      bool  // of an open breaker
	sent       uint8 // how often
	due        int   // its place in Link.mu.due
	prev, next *Pending
	batch      *batch // when in flight, at
	at         int
}

type state uint8

const (
	idle     state = iota // in nobody's hands but the caller's
	queued                // in Link.mu.queue
	inFlight              // in batch
	ended                 // err is set, and the token of done is there or about to be
)

// Do sends item and waits for its result. It returns within the deadline of
// ctx, and within Options.Timeout. It returns the error of ctx if that is
// cancelled, ErrLate at a deadline, ErrAnswer if the result is garbled. What the
// result points to is the caller's.
//
// The item is not touched after Do has returned. An error that is none of the
// above says that the item cannot be encoded.
func (l *Link) Do(ctx context.Context, item *pb.Item) (*pb.Result, error) {
	return l.Start(ctx, item).Wait(ctx)
}

// DoInto is Do for a result that d decodes, in the goroutine of the caller and
// only if there is one. An error of d comes with ErrAnswer.
func (l *Link) DoInto(ctx context.Context, item *pb.Item, d Decoder) error {
	return l.Start(ctx, item).WaitInto(ctx, d)
}

// Start is Do in two halves, so that one goroutine can have many calls under
// way. Every Start needs one Wait on what it returned. The item is not touched
// after Start has returned.
//
// The deadline is what ctx.Deadline says here: it holds also for a context whose
// Done never fires.
func (l *Link) Start(ctx context.Context, item *pb.Item) *Pending {
	p, ok := l.pendings.Get().(*Pending)
	if !ok {
		p = &Pending{link: l, done: make(chan struct{}, 1)}
	}
	if err := p.encode(item); err != nil {
		return p.refuse(err)
	}
	if err := ctx.Err(); err != nil {
		return p.refuse(asLate(err))
	}
	now := l.now()
	p.deadline = now + int64(l.o.Timeout)
	if d, ok := ctx.Deadline(); ok {
		p.deadline = min(p.deadline, int64(d.Sub(l.base)))
	}

	l.mu.Lock()
	if err := l.admitLocked(p, now); err != nil {
		l.noteLocked(err, 1)
		l.unlock()
		return p.refuse(err)
	}
	p.state = queued
	l.mu.queue.push(p)
	l.mu.due.push(p)
	l.alarmLocked(p.deadline)

	ln := l.mu.lane
	switch {
	case ln == nil:
		if l.mu.next == nil {
			l.openLocked(now, 0)
		}
	case !l.readyLocked(ln):
	case ln.answered && len(ln.batches) == 0:
		// The lane is idle, and all that it sent was answered, so its peer has
		// read it: nothing is left that this Send could wait for.
		b := l.takeLocked(ln, now)
		l.unlock()
		l.send(ln, b)
		return p
	default:
		ln.poke()
	}
	l.unlock()
	return p
}

// admitLocked says why p is not even queued.
func (l *Link) admitLocked(p *Pending, now int64) error {
	if l.mu.breaker.silent(now) && !l.stoppedLocked(now) {
		l.cutLocked(now) // callers who give up early would never make it open
	}
	switch {
	case l.mu.closed:
		return ErrClosed
	case p.deadline <= now:
		return ErrLate
	case l.mu.queue.n >= l.o.MaxQueue:
		return ErrFull
	case l.mu.lane == nil && l.mu.next == nil && now < l.mu.resume:
		return l.mu.cause
	}
	admitted, probe := l.mu.breaker.admit(now)
	if !admitted {
		return ErrBreaker
	}
	p.probe = probe
	return nil
}

// refuse ends a call that was not queued.
func (p *Pending) refuse(err error) *Pending {
	p.state, p.err = ended, err
	p.done <- struct{}{}
	return p
}

// Wait returns the result of the call. See [Link.Do].
func (p *Pending) Wait(ctx context.Context) (*pb.Result, error) {
	m := new(message)
	if err := p.WaitInto(ctx, m); err != nil {
		return nil, err
	}
	return (*pb.Result)(m), nil
}

// WaitInto is Wait for [Link.DoInto].
func (p *Pending) WaitInto(ctx context.Context, d Decoder) error {
	if cancelled := ctx.Done(); cancelled == nil {
		<-p.done
	} else {
		select {
		case <-p.done:
		case <-cancelled:
			p.link.abandon(p, asLate(ctx.Err()))
			<-p.done
		}
	}
	defer p.recycle()
	if p.err != nil {
		return p.err
	}
	if err := d.Decode(p.wire); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return nil
}

// asLate turns the error of a context that ran out into ErrLate.
func asLate(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return ErrLate
	}
	return err
}

// abandon ends p for its caller, unless it has ended.
func (l *Link) abandon(p *Pending, err error) {
	l.mu.Lock()
	if p.state != ended {
		l.failLocked(p, err)
		l.noteLocked(err, 1)
		if err == ErrLate { //nolint:errorlint // from asLate
			l.missedLocked(l.now(), 1)
		}
	}
	l.unlock()
}

// failLocked takes p out of everything and ends it.
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

// endLocked sets the outcome of a call that is out of the queue and its batch.
// Whoever calls it puts the token into p.done afterwards, and does not touch p
// after that.
func (l *Link) endLocked(p *Pending, err error) {
	l.mu.due.remove(p)
	if p.probe {
		l.mu.breaker.probing = false
	}
	p.state, p.batch, p.err = ended, nil, err
}

// failQueueLocked ends all calls that wait, and says how many.
func (l *Link) failQueueLocked(err error) (n int) {
	for p := l.mu.queue.head; p != nil; p = l.mu.queue.head {
		l.failLocked(p, err)
		n++
	}
	return n
}

// recycle makes p ready for another call.
func (p *Pending) recycle() {
	const keep = 4 << 10 // an unusually large buffer is not kept
	wire := p.wire[:0]
	if cap(wire) > keep {
		wire = nil
	}
	*p = Pending{link: p.link, done: p.done, wire: wire}
	p.link.pendings.Put(p)
}

// queue is a list of calls, first come first served.
type queue struct {
	head, tail *Pending
	n          int
	bytes      int // of the items
}

func (q *queue) push(p *Pending) {
	p.prev, p.next = q.tail, nil
	if q.tail != nil {
		q.tail.next = p
	} else {
		q.head = p
	}
	q.tail = p
	q.n++
	q.bytes += len(p.wire)
}

func (q *queue) pushFront(p *Pending) {
	p.prev, p.next = nil, q.head
	if q.head != nil {
		q.head.prev = p
	} else {
		q.tail = p
	}
	q.head = p
	q.n++
	q.bytes += len(p.wire)
}

func (q *queue) remove(p *Pending) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		q.head = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		q.tail = p.prev
	}
	p.prev, p.next = nil, nil
	q.n--
	q.bytes -= len(p.wire)
}

// maxItem is far above what any valid call needs, and far below what a server
// receives: a larger one would end the stream for everybody.
const maxItem = 1 << 20

func (p *Pending) encode(item *pb.Item) (err error) {
	if p.wire, err = marshal.MarshalAppend(p.wire[:0], item); err != nil {
		return fmt.Errorf("encode item: %w", err)
	}
	if len(p.wire) > maxItem {
		return fmt.Errorf("item: must be at most %d bytes, got %d", maxItem, len(p.wire))
	}
	return nil
}
