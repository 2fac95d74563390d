// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// tally counts calls that have no end yet. It starts with one, for who makes
// them.
type tally struct {
	n    atomic.Int64
	zero chan struct{} // closed when all have ended
}

func newTally() *tally {
	t := &tally{zero: make(chan struct{})}
	t.n.Store(1)
	return t
}

func (t *tally) begin() { t.n.Add(1) }

func (t *tally) end() {
	if t.n.Add(-1) == 0 {
		close(t.zero)
	}
}

// load is one way to send calls.
type load interface {
	// send sends all calls. It returns when the time is over or ctx is done, or
	// true as soon as a schedule ends that is shorter than the time.
	send(ctx context.Context) (ended bool)
	// proceed takes a held call whose next question is due.
	proceed(h *held)
	// done is closed when send has returned and all calls have ended.
	done() <-chan struct{}
	// quit makes proceed return, whatever happens to the call.
	quit()
	// close ends all goroutines that don't wait for an answer, and if all is
	// true waits for them. After it, nothing is sent any more.
	close(all bool)
	describe(*Result) error
}

func newLoad(r *running, o *Options, p *planner) load {
	if !o.open() {
		return &closedLoad{running: r, feed: feed{planner: p}, callers: o.Callers, end: p.end, busy: newTally()}
	}
	pool := newPool(r, o.Callers)
	return &openLoad{pool: pool, pacer: pacer{
		planner: p, pool: pool, recorder: r.recorder, shard: r.recorder.shard(0), sleep: sleeper{base: r.base},
		lateness: newHistogram(), interval: o.Interval,
	}}
}

// openLoad sends calls when they are due.
type openLoad struct {
	*pool
	pacer pacer
}

func (l *openLoad) send(ctx context.Context) (ended bool) {
	l.pacer.sleep.stop = ctx.Done()
	var paced sync.WaitGroup
	paced.Go(func() { exactly(func() { ended = l.pacer.run() }) })
	paced.Wait()
	l.calls.end()
	return ended
}

func (l *openLoad) done() <-chan struct{} { return l.calls.zero }
func (l *openLoad) quit()                 { close(l.left) }

func (l *openLoad) close(all bool) {
	close(l.tasks)
	if all {
		l.busy.Wait()
	}
}

func (l *openLoad) describe(r *Result) error {
	lateness, err := newLatency(l.pacer.lateness)
	r.Pacer = &Pacer{Lateness: lateness, Missed: l.pacer.missed}
	return err
}

// closedLoad is callers of which each waits for its answer.
type closedLoad struct {
	*running
	feed    feed
	callers int
	end     time.Duration
	busy    *tally // callers
}

func (l *closedLoad) send(ctx context.Context) (ended bool) {
	for range l.callers {
		l.busy.begin()
		go l.caller(ctx)
	}
	l.busy.end()
	var over <-chan time.Time
	if l.end != Never {
		timer := time.NewTimer(l.end - l.now())
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-l.busy.zero:
		return l.now() < l.end
	case <-over:
	case <-ctx.Done():
	}
	return false
}

// caller asks one call after the other, an LLM call to its end, until the time
// is over, there are no more calls, or ctx is done.
func (l *closedLoad) caller(ctx context.Context) {
	defer l.busy.end()
	a := l.newAsker()
	ready := make(chan *held, 1)
	for ctx.Err() == nil {
		c := l.feed.take(ctx)
		if c == nil {
			return
		}
		now := l.now()
		if now >= l.end {
			return
		}
		l.recorder.offered(a.shard, now, false)
		l.underWay.Add(1)
		h := a.begin(&c.call, now, now)
		for h != nil {
			if h.next > l.now() {
				h.ready = ready
				l.underWay.Add(-1)
				l.holder.add(h)
				select {
				case <-ready:
				case <-l.calls.Done():
					return // abandoned
				}
				l.underWay.Add(1)
			}
			if !a.proceed(h) {
				h = nil
			}
		}
		l.underWay.Add(-1)
	}
}

func (l *closedLoad) proceed(h *held)        { h.ready <- h } // it has room
func (l *closedLoad) done() <-chan struct{}  { return l.busy.zero }
func (l *closedLoad) quit()                  {}
func (l *closedLoad) close(bool)             {}
func (l *closedLoad) describe(*Result) error { return nil }
