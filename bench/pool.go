// SPDX-License-Identifier: Apache-2.0

package bench

import "sync"

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
type pool struct {
	run     *runState
	size    int64
	running sync.WaitGroup // workers
	calls   *callGroup     // unfinished calls, also those that wait in the scheduler

	mu struct {
		sync.Mutex
		queue   taskQueue
		idle    []*worker // the last one became idle last
		workers int64
		waking  bool // a worker is on its way to the queue
		closed  bool
	}
}

// worker is a goroutine of a pool.
type worker struct {
	wake chan struct{} // cap 1: at most one is on its way
}

func newPool(r *runState, size int) *pool {
	return &pool{run: r, size: int64(size), calls: newCallGroup()}
}

// submit enqueues a call. It returns false if too many requests are in flight. It
// does not block, and is called by one goroutine.
func (p *pool) submit(c *planned) bool {
	if p.run.inFlight.Add(1) > p.size {
		p.run.inFlight.Add(-1)
		return false
	}
	p.calls.add()
	p.enqueue(task{call: c})
	return true
}

// resume enqueues the next request of an LLM call. It does not block.
func (p *pool) resume(h *llmCall) {
	p.run.inFlight.Add(1)
	p.enqueue(task{held: h})
}

func (p *pool) enqueue(t task) {
	p.mu.Lock()
	p.mu.queue.push(t)
	next, start := p.claimLocked()
	p.mu.Unlock()
	p.wake(next, start)
}

// claimLocked chooses a worker to wake, or says that one is to be started, if requests are
// queued and no worker is on its way.
func (p *pool) claimLocked() (next *worker, start bool) {
	if p.mu.waking || p.mu.queue.n == 0 || p.mu.closed {
		return nil, false
	}
	if last := len(p.mu.idle) - 1; last >= 0 {
		next, p.mu.idle = p.mu.idle[last], p.mu.idle[:last]
	} else if p.mu.workers < p.size {
		p.mu.workers++
		start = true
	}
	p.mu.waking = next != nil || start
	return next, start
}

func (p *pool) wake(next *worker, start bool) {
	switch {
	case next != nil:
		next.wake <- struct{}{}
	case start:
		p.running.Go(p.work)
	}
}

// close ends the workers that do not wait for an answer. Requests that are queued are not
// sent.
func (p *pool) close() {
	p.mu.Lock()
	p.mu.closed = true
	idle := p.mu.idle
	p.mu.idle = nil
	p.mu.Unlock()
	for _, w := range idle {
		w.wake <- struct{}{}
	}
}

// work sends requests until the pool is closed.
func (p *pool) work() {
	a, w := p.run.newSender(), &worker{wake: make(chan struct{}, 1)}
	woken := true // the goroutine was started for a request
	for {
		t, ok, waited := p.take(w, woken)
		if !ok {
			return
		}
		woken = false
		if waited {
			a.refusedAt = 0
		}
		p.process(a, t)
		p.run.inFlight.Add(-1)
	}
}

// take returns the next request, and whether it had to wait for it. It returns !ok when
// the pool is closed.
func (p *pool) take(w *worker, woken bool) (t task, ok, waited bool) {
	p.mu.Lock()
	for {
		if woken {
			p.mu.waking = false
		}
		if p.mu.closed {
			p.mu.Unlock()
			return task{}, false, waited
		}
		if p.mu.queue.n > 0 {
			t = p.mu.queue.pop()
			next, start := p.claimLocked()
			p.mu.Unlock()
			p.wake(next, start)
			return t, true, waited
		}
		p.mu.idle = append(p.mu.idle, w)
		p.mu.Unlock()
		<-w.wake
		p.mu.Lock()
		woken, waited = true, true
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

// taskQueue is a queue in a ring that grows.
type taskQueue struct {
	ring  []task // its length is a power of two, or zero
	first int
	n     int
}

func (q *taskQueue) push(t task) {
	if q.n == len(q.ring) {
		larger := make([]task, max(2*len(q.ring), 64))
		copied := copy(larger, q.ring[q.first:])
		copy(larger[copied:], q.ring[:q.first])
		q.ring, q.first = larger, 0
	}
	q.ring[(q.first+q.n)&(len(q.ring)-1)] = t
	q.n++
}

func (q *taskQueue) pop() task {
	t := q.ring[q.first]
	q.ring[q.first] = task{}
	q.first = (q.first + 1) & (len(q.ring) - 1)
	q.n--
	return t
}
