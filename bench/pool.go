// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"sync"
	"sync/atomic"
)

// task is a question to ask: the first of a call, or the next of one that is
// held.
type task struct {
	call *planned
	held *held
}

// pool asks the questions of an open loop. It starts a goroutine only when all
// that it has are busy, and never more than size.
type pool struct {
	run     *running
	size    int64
	tasks   chan task
	workers atomic.Int64
	busy    sync.WaitGroup // workers
	// calls are those that have no end yet, held ones too.
	calls *tally
	left  chan struct{} // closed when proceed must not wait any longer
}

func newPool(r *running, size int) *pool {
	// One more than can be under way, for the moment in which two are handed over.
	return &pool{run: r, size: int64(size), tasks: make(chan task, size+1), calls: newTally(), left: make(chan struct{})}
}

// begin hands a call over. It returns false if too many questions are under
// way. It is called by one goroutine, and doesn't block.
func (p *pool) begin(c *planned) bool {
	if p.run.underWay.Add(1) > p.size {
		p.run.underWay.Add(-1)
		return false
	}
	p.calls.begin()
	t := task{call: c}
	if p.grow(t) {
		return true
	}
	select {
	case p.tasks <- t:
		return true
	default: // the next questions of held calls took all places
		p.calls.end()
		p.run.underWay.Add(-1)
		return false
	}
}

// proceed hands the next question of a held call over. It waits for a place.
func (p *pool) proceed(h *held) {
	p.run.underWay.Add(1)
	t := task{held: h}
	if p.grow(t) {
		return
	}
	select {
	case p.tasks <- t:
	case <-p.left:
	}
}

// grow starts a worker for t if all are busy.
func (p *pool) grow(t task) bool {
	for {
		n := p.workers.Load()
		if n >= p.size || n >= p.run.underWay.Load() {
			return false
		}
		if p.workers.CompareAndSwap(n, n+1) {
			p.busy.Go(func() { p.work(t) })
			return true
		}
	}
}

func (p *pool) work(t task) {
	a := p.run.newAsker()
	for ok := true; ok; t, ok = <-p.tasks {
		p.do(a, t)
		p.run.underWay.Add(-1)
	}
}

// do asks a question, and those that are due when it is answered.
func (p *pool) do(a *asker, t task) {
	h, more := t.held, false
	if h == nil {
		h = a.begin(&t.call.call, t.call.due, a.now())
		more = h != nil
	} else {
		more = a.proceed(h)
	}
	for more && h.next <= a.now() {
		more = a.proceed(h)
	}
	if !more {
		p.calls.end()
		return
	}
	p.run.holder.add(h)
}
