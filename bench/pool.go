// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"sync"
	"sync/atomic"
)

// task is a request to send: the first of a call, or the next of an LLM call.
type task struct {
	call *planned
	held *llmCall
}

// pool sends the requests of an open loop. It starts a goroutine only when all
// others are busy, and never more than size.
type pool struct {
	run     *runState
	size    int64
	tasks   chan task
	workers atomic.Int64
	running sync.WaitGroup // workers
	calls   *callGroup     // unfinished calls, also those that wait in the scheduler
	aborted chan struct{}  // closed when resume must not wait any longer
}

func newPool(r *runState, size int) *pool {
	// One place more than requests can be in flight, since submit and resume may
	// enqueue at the same time.
	return &pool{run: r, size: int64(size), tasks: make(chan task, size+1), calls: newCallGroup(), aborted: make(chan struct{})}
}

// submit enqueues a call. It returns false if too many requests are in flight. It
// does not block, and is called by one goroutine.
func (p *pool) submit(c *planned) bool {
	if p.run.inFlight.Add(1) > p.size {
		p.run.inFlight.Add(-1)
		return false
	}
	p.calls.add()
	t := task{call: c}
	if p.startWorker(t) {
		return true
	}
	select {
	case p.tasks <- t:
		return true
	default: // requests of LLM calls fill the queue
		p.calls.done()
		p.run.inFlight.Add(-1)
		return false
	}
}

// resume enqueues the next request of an LLM call. It blocks while the queue is full.
func (p *pool) resume(h *llmCall) {
	p.run.inFlight.Add(1)
	t := task{held: h}
	if p.startWorker(t) {
		return
	}
	select {
	case p.tasks <- t:
	case <-p.aborted:
	}
}

// startWorker starts a goroutine for t if all others are busy.
func (p *pool) startWorker(t task) bool {
	for {
		n := p.workers.Load()
		if n >= p.size || n >= p.run.inFlight.Load() {
			return false
		}
		if p.workers.CompareAndSwap(n, n+1) {
			p.running.Go(func() { p.work(t) })
			return true
		}
	}
}

func (p *pool) work(t task) {
	a := p.run.newSender()
	for ok := true; ok; t, ok = <-p.tasks {
		p.process(a, t)
		p.run.inFlight.Add(-1)
	}
}

// process sends a request, and those that are due when its answer has arrived.
func (p *pool) process(a *sender, t task) {
	h, more := t.held, false
	if h == nil {
		h = a.sendFirst(&t.call.call, t.call.due, a.now())
		more = h != nil
	} else {
		more = a.sendNext(h)
	}
	for more && h.nextDue <= a.now() {
		more = a.sendNext(h)
	}
	if !more {
		p.calls.done()
		return
	}
	p.run.scheduler.add(h)
}
