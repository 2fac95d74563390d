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
)

// How a lane comes and goes:
//
//	openLocked -> next -> opened -> lane -> retireLocked -> old -> ended
//
// A lane that breaks takes its calls with it, and the queue, unless another lane
// is there or on its way. One that is replaced because of its age, or ended by
// the member with OK, loses no call.

const (
	openTimeout = 5 * time.Second // far more than a handshake takes
	pauseMin    = 50 * time.Millisecond
	pauseMax    = time.Second
	// maxSent is how often a call is sent: once more if the member ended the
	// stream before it looked, and again if the new stream still met the member
	// that goes, instead of the one that comes.
	maxSent = 3
)

var (
	errOver     = errors.New("stream was given up")
	errTwice    = errors.New("stream was ended again and again before it answered")
	errSilent   = errors.New("no answer for too long")
	errDraining = errors.New("stream was not drained in time")
)

func broken(cause error) error { return fmt.Errorf("%w: %w", ErrBroken, cause) }

// openLocked starts a lane, after a while.
func (l *Link) openLocked(now int64, after time.Duration) {
	ln := &lane{wake: make(chan struct{}, 1)}
	ln.ctx, ln.cancel = context.WithCancel(context.Background())
	l.mu.next = ln
	if l.mu.lane == nil {
		l.mu.breaker.owes(now) // calls wait for it
	}
	l.wg.Add(1)
	go l.receiver(ln, after)
}

// opened takes the result of opening ln, and returns whether it is used.
func (l *Link) opened(ln *lane, s Stream, err error) bool {
	now := l.now()
	l.mu.Lock()
	defer l.unlock()
	if ln.over {
		return false
	}
	l.mu.next = nil
	if err != nil {
		ln.over = true
		l.pauseLocked(now, fmt.Errorf("open: %w", err))
		if l.mu.lane != nil { // the one that was to be replaced
			l.mu.lane.timer.Reset(l.mu.pause)
		} else {
			l.settleLocked()
			l.noteLocked(ErrBroken, l.failQueueLocked(l.mu.cause))
		}
		return false
	}
	if l.mu.lane != nil {
		l.retireLocked(l.mu.lane)
	}
	ln.stream = s
	l.mu.lane = ln
	l.settleLocked()
	rotate := l.o.Rotate*9/10 + rand.N(l.o.Rotate/5+1)
	ln.timer = time.AfterFunc(rotate, func() { l.aged(ln) })
	l.wg.Add(1)
	go l.sender(ln)
	if l.mu.queue.n > 0 {
		ln.poke()
	}
	return true
}

// pauseLocked keeps the link from opening for a while after a failure.
func (l *Link) pauseLocked(now int64, cause error) {
	l.mu.pause = min(max(2*l.mu.pause, pauseMin), pauseMax)
	l.mu.resume = now + int64(l.mu.pause*3/4+rand.N(l.mu.pause/2))
	l.mu.cause = broken(cause)
}

// settleLocked tells the breaker if nothing is owed any more.
func (l *Link) settleLocked() {
	if l.inFlightLocked() == 0 && (l.mu.next == nil || l.mu.lane != nil) {
		l.mu.breaker.square()
	}
}

// retireLocked lets the lane finish what is in flight, and no more.
func (l *Link) retireLocked(ln *lane) {
	ln.retired = true
	ln.timer.Reset(2 * l.o.Timeout) // no call waits that long
	l.mu.lane, l.mu.old = nil, ln
	ln.poke()
}

// aged is called when the timer of ln fires.
func (l *Link) aged(ln *lane) {
	now := l.now()
	l.mu.Lock()
	defer l.unlock()
	switch {
	case ln.over || l.mu.closed:
	case ln.retired:
		l.noteLocked(ErrBroken, l.dropLocked(ln, broken(errDraining)))
		l.settleLocked()
	case l.mu.old != nil || l.mu.next != nil: // there are never more than two
		ln.timer.Reset(l.o.Rotate / 10)
	case ln.sequence == 0: // not used
		l.retireLocked(ln)
	default:
		l.openLocked(now, 0)
	}
}

// ended is called when Recv on ln failed.
func (l *Link) ended(ln *lane, err error) {
	now := l.now()
	l.mu.Lock()
	defer l.unlock()
	if ln.over {
		return
	}
	if ln.err != nil {
		err = fmt.Errorf("send: %w", ln.err)
	}
	if errors.Is(err, io.EOF) && ln.err == nil {
		l.endedCleanLocked(ln, now)
		return
	}
	cause := broken(err)
	current := l.mu.lane == ln
	failed := l.dropLocked(ln, cause)
	if current && l.mu.next == nil {
		failed += l.failQueueLocked(cause)
		if ln.answered {
			l.mu.resume = 0
		} else {
			l.pauseLocked(now, err)
		}
	}
	l.settleLocked()
	l.noteLocked(ErrBroken, failed)
}

// endedCleanLocked sends again what the member says that it has not looked at:
// before what is queued, in the same order.
func (l *Link) endedCleanLocked(ln *lane, now int64) {
	failed := 0
	for _, b := range slices.Backward(ln.batches) {
		for i, p := range slices.Backward(b.calls) {
			switch {
			case p == nil:
			case p.sent >= maxSent:
				l.failLocked(p, broken(errTwice))
				failed++
			default:
				b.calls[i] = nil
				p.state, p.batch = queued, nil
				l.mu.queue.pushFront(p)
			}
		}
	}
	l.noteLocked(ErrBroken, failed)
	l.forgetLocked(ln)
	if l.mu.breaker.heard(now, l.inFlightLocked() > 0) {
		l.noteBreakerLocked()
	}
	var wait time.Duration
	if !ln.answered && ln.sequence > 0 {
		// Somebody ends streams as fast as they come. Calls wait for the end of
		// the pause, since none was looked at.
		l.pauseLocked(now, errTwice)
		wait = l.mu.pause
	}
	switch {
	case l.mu.lane != nil:
		l.mu.lane.poke()
	case l.mu.next == nil && l.mu.queue.n > 0:
		l.openLocked(now, wait)
	}
}

// dropLocked gives ln up: its calls end with err. It says how many they were.
func (l *Link) dropLocked(ln *lane, err error) (n int) {
	if ln == nil {
		return 0
	}
	for _, b := range ln.batches {
		for _, p := range b.calls {
			if p != nil {
				l.failLocked(p, err)
				n++
			}
		}
	}
	l.forgetLocked(ln)
	return n
}

// forgetLocked ends the lane, which has no calls any more.
func (l *Link) forgetLocked(ln *lane) {
	for _, b := range ln.batches {
		b.unanswered = false
		l.freeLocked(b)
	}
	ln.batches = nil
	ln.over = true
	ln.cancel()
	if ln.timer != nil {
		ln.timer.Stop()
	}
	switch ln {
	case l.mu.lane:
		l.mu.lane = nil
	case l.mu.next:
		l.mu.next = nil
	case l.mu.old:
		l.mu.old = nil
	}
}

// cutLocked opens the breaker, and gives up the streams that owe answers: a
// member that was frozen shall not decide old calls when it wakes up.
func (l *Link) cutLocked(now int64) {
	if l.mu.breaker.trip(now) {
		l.noteBreakerLocked()
	}
	for _, ln := range []*lane{l.mu.lane, l.mu.old} {
		if ln.inFlight() > 0 {
			l.noteLocked(ErrBroken, l.dropLocked(ln, broken(errSilent)))
		}
	}
	l.noteLocked(ErrBreaker, l.failQueueLocked(ErrBreaker))
	l.mu.resume = 0 // the breaker's probes are the pause
	l.settleLocked()
}
