// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// callGroup counts unfinished calls, like a [sync.WaitGroup] whose Wait is a
// channel. Its count starts at one, for the goroutine that adds calls.
type callGroup struct {
	n    atomic.Int64
	idle chan struct{} // closed when the count reaches zero
}

func newCallGroup() *callGroup {
	t := &callGroup{idle: make(chan struct{})}
	t.n.Store(1)
	return t
}

func (t *callGroup) add() { t.n.Add(1) }

func (t *callGroup) done() {
	if t.n.Add(-1) == 0 {
		close(t.idle)
	}
}

// loop is a way to send calls: an open or a closed loop.
type loop interface {
	// send sends all calls. It returns false when the run time is over or ctx is
	// done, and true if the schedule ended earlier.
	send(ctx context.Context) (ended bool)
	// resume takes an LLM call whose next request is due.
	resume(h *llmCall)
	// idle is closed when send has returned and all calls have ended.
	idle() <-chan struct{}
	// abort makes resume return. The calls that it has are abandoned.
	abort()
	// stop ends the goroutines that do not wait for an answer. With wait it returns
	// when they have ended. No request is sent after it.
	stop(all bool)
	addTo(*Result) error
}

func newLoop(r *runState, o *Options, p *planner) loop {
	if !o.open() {
		return &closedLoop{runState: r, feed: feed{planner: p}, callers: o.Callers, end: p.end, busy: newCallGroup()}
	}
	pool := newPool(r, o.Callers)
	return &openLoop{pool: pool, pacer: pacer{
		planner: p, pool: pool, recorder: r.recorder, shard: r.recorder.pacerShard(), sleeper: sleeper{start: r.start},
		lateness: newHistogram(), interval: o.Interval, maxLag: o.MaxLag,
	}}
}

// openLoop sends calls when they are due, however slow the target is.
type openLoop struct {
	*pool
	pacer pacer
}

func (l *openLoop) send(ctx context.Context) (ended bool) {
	l.pacer.sleeper.stop = ctx.Done()
	var paced sync.WaitGroup
	paced.Go(func() { withPreciseSleep(func() { ended = l.pacer.run() }) })
	paced.Wait()
	l.calls.done()
	return ended
}

func (l *openLoop) idle() <-chan struct{} { return l.calls.idle }
func (l *openLoop) abort()                { close(l.aborted) }

func (l *openLoop) stop(all bool) {
	l.close()
	if all {
		l.running.Wait()
	}
}

func (l *openLoop) addTo(r *Result) error {
	lateness, err := newLatency(l.pacer.lateness)
	r.Pacer = &Pacer{Lateness: lateness, Missed: l.pacer.missed}
	if r.Duration > 0 {
		r.Pacer.KeptRate = float64(l.pacer.kept) / r.Duration.Seconds()
	}
	return err
}

// closedLoop has a fixed number of callers. Each sends its next call when the one
// before has ended.
type closedLoop struct {
	*runState
	feed    feed
	callers int
	end     time.Duration
	busy    *callGroup // callers that run
}

func (l *closedLoop) send(ctx context.Context) (ended bool) {
	for range l.callers {
		l.busy.add()
		go l.caller(ctx)
	}
	l.busy.done()
	var over <-chan time.Time
	if l.end != Never {
		timer := time.NewTimer(l.end - l.now())
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-l.busy.idle:
		return l.now() < l.end
	case <-over:
	case <-ctx.Done():
	}
	return false
}

// caller sends calls one after the other, each LLM call to its end, until the run
// time is over, there are no more calls, or ctx is done.
func (l *closedLoop) caller(ctx context.Context) {
	defer l.busy.done()
	a := l.newSender()
	ready := make(chan *llmCall, 1)
	for ctx.Err() == nil {
		c := l.feed.take(ctx)
		if c == nil {
			return
		}
		now := l.now()
		if now >= l.end {
			return
		}
		l.recorder.countOffered(a.shard, now, false)
		l.inFlight.Add(1)
		h := a.sendFirst(&c.call, now, now)
		if a.retryAfter > 0 {
			l.inFlight.Add(-1)
			if !l.backOff(ctx, a.retryAfter) {
				return
			}
			continue
		}
		for h != nil {
			if h.nextDue > l.now() {
				h.resume = ready
				l.inFlight.Add(-1)
				l.scheduler.add(h)
				select {
				case <-ready:
				case <-l.requestCtx.Done():
					return // the run no longer waits
				}
				l.inFlight.Add(1)
			}
			if !a.sendNext(h) {
				h = nil
			}
		}
		l.inFlight.Add(-1)
	}
}

// backOff waits after a refusal, as callers should. It returns false if ctx ended or the
// run time is over.
func (l *closedLoop) backOff(ctx context.Context, wait time.Duration) bool {
	if l.end != Never {
		wait = min(wait, l.end-l.now())
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (l *closedLoop) resume(h *llmCall)     { h.resume <- h } // does not block: cap 1, one call
func (l *closedLoop) idle() <-chan struct{} { return l.busy.idle }
func (l *closedLoop) abort()                {}
func (l *closedLoop) stop(bool)             {}
func (l *closedLoop) addTo(*Result) error   { return nil }
