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

// pool sends the requests of an open loop. It starts a goroutine only when all others are
// busy, and never more than size.
//
// Workers take requests from one queue. At most one worker is on its way to the queue at a
// time: it wakes the next one when it has taken a request and others are left. So one
// worker sends all requests that are answered or refused at once, without a switch of
// goroutines for each, which would cost more than everything else that the harness does.
//
// There is no [sync.Mutex] that all workers share: under overload thousands of goroutines
// can run, and its waiters, which it serves in order, would each wait for all of them.
type pool struct {
	run     *runState
	size    int64
	tasks   chan task
	running sync.WaitGroup // workers
	calls   *callGroup     // unfinished calls, also those that wait in the scheduler
	aborted chan struct{}  // closed when resume must not wait any longer
	closed  chan struct{}

	wakeups chan struct{} // cap 1; received by an idle worker
	waking  atomic.Bool   // a worker is on its way to the queue
	idle    atomic.Int64  // workers that wait for wakeups, or are about to
	workers atomic.Int64
}

func newPool(r *runState, size int) *pool {
	return &pool{
		run: r, size: int64(size), calls: newCallGroup(),
		// One place more than requests can be in flight, since submit and resume may
		// enqueue at the same time.
		tasks: make(chan task, size+1), aborted: make(chan struct{}), closed: make(chan struct{}),
		wakeups: make(chan struct{}, 1),
	}
}

// submit enqueues a call. It returns false if too many requests are in flight. It
// does not block, and is called by one goroutine.
func (p *pool) submit(c *planned) bool {
	if p.run.inFlight.Add(1) > p.size {
		p.run.inFlight.Add(-1)
		return false
	}
	p.calls.add()
	select {
	case p.tasks <- task{call: c}:
		p.wakeNext()
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
	select {
	case p.tasks <- task{held: h}:
		p.wakeNext()
	case <-p.aborted:
	}
}

// wakeNext wakes or starts a worker if requests are queued and none is on its way. If all
// are busy, the first that is not takes the next request.
func (p *pool) wakeNext() {
	for len(p.tasks) > 0 && p.waking.CompareAndSwap(false, true) {
		if p.idle.Load() > 0 {
			p.wakeups <- struct{}{} // does not block: only the holder of waking sends
			return
		}
		if p.workers.Load() < p.size { // only the holder of waking adds
			p.workers.Add(1)
			p.running.Go(p.work)
			return
		}
		p.waking.Store(false)
		if p.idle.Load() == 0 {
			return // a worker that becomes idle from here on looks at the queue afterwards
		}
	}
}

// close ends the workers that do not wait for an answer. Requests that are queued are not
// sent.
func (p *pool) close() { close(p.closed) }

// work sends requests until the pool is closed. It is started with waking held.
func (p *pool) work() {
	a := p.run.newSender()
	p.waking.Store(false)
	for {
		select {
		case <-p.closed:
			return
		default:
		}
		select {
		case t := <-p.tasks:
			p.wakeNext()
			p.process(a, t)
			p.run.inFlight.Add(-1)
			continue
		default:
		}
		p.idle.Add(1)
		p.wakeNext() // for a request that was enqueued since
		select {
		case <-p.wakeups:
		case <-p.closed:
			return
		}
		p.idle.Add(-1)
		p.waking.Store(false)
		a.refusedAt = 0
	}
}

// process sends a request, and those that are due when its answer has arrived.
func (p *pool) process(a *sender, t task) {
	h, more := t.held, false
	if h == nil {
		now := a.refusedAt
		if now == 0 {
			now = a.now()
		}
		h = a.sendFirst(&t.call.call, t.call.due, max(now, t.call.due))
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
