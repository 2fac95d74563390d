// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"
)

// maxInFlight is how many batches a lane has under way.
const maxInFlight = 2

// lane is one stream. Two goroutines serve it: one opens it and receives, and
// never sends, since two ends that both wait for the other to receive would wait
// for ever; the other sends.
type lane struct {
	ctx    context.Context
	cancel context.CancelFunc
	stream Stream        // set before the lane is Link.mu.lane
	wake   chan struct{} // for the sender; one pending wake-up is enough

	// What follows is guarded by Link.mu.
	batches  []*batch // in flight, in the order of their sequence
	sequence uint64   // of the last batch
	sending  bool     // somebody is within Send
	answered bool     // something
	finished bool     // Send said that the stream has ended: Recv says how
	retired  bool     // takes no batches: what is in flight is waited for
	over     bool     // nobody waits for it
	err      error    // why it was given up, if not for what Recv says

	timer *time.Timer // when it is to be replaced, then when it is given up

	done []*Pending // the receiver's: calls that it just ended
}

func (ln *lane) inFlight() int {
	if ln == nil {
		return 0
	}
	return len(ln.batches)
}

func (l *Link) inFlightLocked() int { return l.mu.lane.inFlight() + l.mu.old.inFlight() }

// poke wakes the sender.
func (ln *lane) poke() {
	select {
	case ln.wake <- struct{}{}:
	default:
	}
}

// readyLocked reports whether a batch of ln can and should be sent now. A
// second one is worth it if it is no smaller than the one under way, or full.
func (l *Link) readyLocked(ln *lane) bool {
	q := &l.mu.queue
	if q.n == 0 || ln.sending || ln.finished || ln.retired || ln.over {
		return false
	}
	switch n := len(ln.batches); {
	case n == 0:
		return true
	case n < maxInFlight:
		return q.n >= len(ln.batches[n-1].calls) || q.n >= l.o.MaxItems || q.bytes+q.n*overhead >= l.o.MaxBytes
	default:
		return false
	}
}

// send sends what takeLocked returned.
func (l *Link) send(ln *lane, b *batch) {
	if b == nil {
		return
	}
	items := len(b.calls)
	b.msg.Ring = l.o.Ring()
	err := ln.stream.Send(&b.msg)
	if err == nil && l.o.Events.Batch != nil {
		l.o.Events.Batch(items)
	}
	l.mu.Lock()
	ln.sending, b.sending = false, false
	l.freeLocked(b)
	if err != nil {
		ln.finished = true
		if !errors.Is(err, io.EOF) { // what Recv says then is only a consequence
			ln.err = err
			ln.cancel()
		}
	}
	if ln.retired || l.readyLocked(ln) {
		ln.poke()
	}
	l.unlock()
}

// sender sends batches until the lane is retired or over.
func (l *Link) sender(ln *lane) {
	defer l.wg.Done()
	for {
		select {
		case <-ln.wake:
		case <-ln.ctx.Done():
			return
		}
		// Callers who were just answered have their next call ready in a moment:
		// let them go first. Worth a tenth of the CPU with many callers.
		runtime.Gosched()
		l.mu.Lock()
		if ln.retired && !ln.sending {
			l.unlock()
			_ = ln.stream.CloseSend() // if the stream is broken, Recv says so
			return
		}
		var b *batch
		if l.readyLocked(ln) {
			b = l.takeLocked(ln, l.now())
		}
		l.unlock()
		l.send(ln, b)
	}
}

// receiver opens the lane after a while, and receives until it ends.
func (l *Link) receiver(ln *lane, after time.Duration) {
	defer l.wg.Done()
	defer ln.cancel()
	if after > 0 {
		select {
		case <-time.After(after):
		case <-ln.ctx.Done():
		}
	}
	giveUp := time.AfterFunc(openTimeout, ln.cancel)
	stream, err := l.o.Open(ln.ctx)
	giveUp.Stop()
	if !l.opened(ln, stream, err) {
		return
	}
	var answers Answers
	for {
		err := ln.stream.Recv(&answers)
		if err == nil {
			err = l.deliver(ln, &answers)
		} else if !errors.Is(err, io.EOF) {
			err = fmt.Errorf("receive: %w", err)
		}
		if err != nil {
			l.ended(ln, err)
			return
		}
	}
}

// deliver gives the results to their callers. An error means that the member
// does not keep to the protocol.
func (l *Link) deliver(ln *lane, answers *Answers) error {
	defer answers.free()
	now := l.now()
	l.mu.Lock()
	if ln.over {
		l.unlock()
		return errOver
	}
	b, err := ln.match(answers)
	if err != nil {
		l.unlock()
		return err
	}
	ln.batches = append(ln.batches[:0], ln.batches[1:]...)
	ln.answered = true
	l.mu.pause = 0
	if l.mu.breaker.heard(now, l.inFlightLocked() > 0) {
		l.noteBreakerLocked()
	}
	for _, p := range b.calls {
		if p != nil {
			l.endLocked(p, nil)
		}
	}
	b.calls, ln.done = ln.done[:0], b.calls
	b.unanswered = false
	l.freeLocked(b)
	if ln.retired || l.readyLocked(ln) {
		ln.poke()
	}
	l.unlock()
	for i, p := range ln.done { // a token may start its caller at once
		if p != nil {
			p.wire = append(p.wire[:0], answers.results[i]...)
			p.done <- struct{}{}
		}
	}
	return nil
}

// match returns the batch that answers are for.
func (ln *lane) match(a *Answers) (*batch, error) {
	if len(ln.batches) == 0 {
		return nil, fmt.Errorf("answers with sequence %d: nothing is in flight", a.sequence)
	}
	b := ln.batches[0]
	if got, want := a.sequence, b.msg.GetSequence(); got != want {
		return nil, fmt.Errorf("answers with sequence %d, want %d", got, want)
	}
	if got, want := len(a.results), len(b.calls); got != want {
		return nil, fmt.Errorf("answers with sequence %d: got %d results, want %d", a.sequence, got, want)
	}
	return b, nil
}
