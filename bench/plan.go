// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	batchSize    = 128 // calls that are planned together
	batchesAhead = 256 // how far planning is ahead of sending: 80 ms at 400,000 calls per second
)

// planned is a call and the time at which it is due.
type planned struct {
	due  time.Duration
	call Call
}

// batch is a part of the schedule. Events point to its calls, so it is never
// reused.
type batch struct {
	items []planned
	next  atomic.Int64 // index of the next call to take, in a closed loop
}

// planner reads the workload and the arrivals ahead of time, so that neither
// delays a call that is due.
type planner struct {
	workload Workload
	arrivals Arrivals      // nil in a closed loop
	end      time.Duration // calls due from here on are not planned; Never if the run has no end

	batches chan *batch
	ready   chan struct{} // closed when the first batch is planned
	stop    chan struct{}
	stopped sync.Once
	// countOnly says that calls are only counted, not planned.
	countOnly atomic.Bool
	// The fields below are valid once batches is closed.
	missed    int64
	exhausted bool // the workload or the arrivals ended before end
}

func newPlanner(o *Options) *planner {
	p := &planner{
		workload: o.Workload, arrivals: o.Arrivals, end: Never,
		batches: make(chan *batch, batchesAhead), ready: make(chan struct{}), stop: make(chan struct{}),
	}
	if o.Duration > 0 {
		p.end = o.Warmup + o.Duration
	}
	return p
}

// run plans calls until the end or until stop. It closes batches when it returns.
func (p *planner) run() {
	defer close(p.batches)
	first := sync.OnceFunc(func() { close(p.ready) })
	defer first()
	for more := true; more; {
		b := &batch{items: make([]planned, 0, batchSize)}
		for more && len(b.items) < batchSize {
			more = p.plan(b)
		}
		if len(b.items) == 0 {
			return
		}
		select {
		case p.batches <- b:
			first()
		case <-p.stop:
			return
		}
	}
}

// plan adds the next call to b. It returns false if there are no more calls.
func (p *planner) plan(b *batch) bool {
	var due time.Duration
	if p.arrivals != nil {
		if due = p.arrivals.Next(); due >= p.end {
			p.exhausted = due == Never
			return false
		}
	}
	if p.countOnly.Load() {
		select {
		case <-p.stop:
			return false
		default:
		}
		p.missed++
		return true
	}
	// Planned in place: a call passed through an interface escapes to the heap, and
	// would be one more allocation.
	b.items = append(b.items, planned{due: due})
	if !p.workload.Next(&b.items[len(b.items)-1].call) {
		b.items = b.items[:len(b.items)-1]
		p.exhausted = true
		return false
	}
	return true
}

// skip counts the rest of the schedule without planning its calls.
func (p *planner) skip() int64 {
	p.countOnly.Store(true)
	var n int64
	for b := range p.batches {
		n += int64(len(b.items))
	}
	return n + p.missed
}

// close stops run early. It may be called more than once.
func (p *planner) close() { p.stopped.Do(func() { close(p.stop) }) }

// feed hands out the calls of a planner to concurrent callers.
type feed struct {
	planner *planner
	current atomic.Pointer[batch]
	mu      sync.Mutex // held while the next batch is fetched
}

// take returns the next call, or nil at the end or when ctx is done.
func (f *feed) take(ctx context.Context) *planned {
	for {
		b := f.current.Load()
		if b != nil {
			if i := b.next.Add(1) - 1; i < int64(len(b.items)) {
				return &b.items[i]
			}
		}
		if !f.fetch(ctx, b) {
			return nil
		}
	}
}

// fetch replaces old by the next batch. It returns false if there is none.
func (f *feed) fetch(ctx context.Context, old *batch) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current.Load() != old {
		return true // another caller replaced it
	}
	select {
	case b, ok := <-f.planner.batches:
		if ok {
			f.current.Store(b)
		}
		return ok
	case <-ctx.Done():
		return false
	}
}
