// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	batchSize    = 128 // calls planned together
	batchesAhead = 32  // how far planning is ahead of sending
)

// planned is a call and when it is due.
type planned struct {
	due  time.Duration
	call Call
}

// batch is a part of the schedule. Its calls stay where they are: events point
// at them.
type batch struct {
	items []planned
	next  atomic.Int64 // taken so far, in a closed loop
}

// planner asks the workload and the arrivals, ahead of time, so that neither
// delays a call that is due.
type planner struct {
	workload Workload
	arrivals Arrivals      // nil in a closed loop
	end      time.Duration // nothing is planned from here on; Never: no end

	batches chan *batch
	ready   chan struct{} // closed when the first batch is planned
	stop    chan struct{}
	stopped sync.Once
	// rest: the calls are not wanted any more, only how many there were.
	rest atomic.Bool
	// Valid once batches is closed:
	missed int64
	short  bool // the workload or the arrivals ended before end
}

func newPlanner(o *Options) *planner {
	p := &planner{
		workload: o.Workload, arrivals: o.Arrivals, end: Never,
		batches: make(chan *batch, batchesAhead), ready: make(chan struct{}), stop: make(chan struct{}),
	}
	if o.For > 0 {
		p.end = o.Warmup + o.For
	}
	return p
}

// run plans until the end, or until stop. It closes batches then.
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

// plan adds the next call to b. It returns false if there is none.
func (p *planner) plan(b *batch) bool {
	var due time.Duration
	if p.arrivals != nil {
		if due = p.arrivals.Next(); due >= p.end {
			p.short = due == Never
			return false
		}
	}
	if p.rest.Load() {
		select {
		case <-p.stop:
			return false
		default:
		}
		p.missed++
		return true
	}
	// Planned in place: a call that went through an interface can't be on the
	// stack, and would be one more allocation.
	b.items = append(b.items, planned{due: due})
	if !p.workload.Next(&b.items[len(b.items)-1].call) {
		b.items = b.items[:len(b.items)-1]
		p.short = true
		return false
	}
	return true
}

// skip reads the rest of the schedule without its calls and returns how many
// they are.
func (p *planner) skip() int64 {
	p.rest.Store(true)
	var n int64
	for b := range p.batches {
		n += int64(len(b.items))
	}
	return n + p.missed
}

// close ends run early. It may be called more than once.
func (p *planner) close() { p.stopped.Do(func() { close(p.stop) }) }

// feed hands the calls of a planner to many callers.
type feed struct {
	planner *planner
	current atomic.Pointer[batch]
	mu      sync.Mutex // held while the next batch is fetched
}

// take returns the next call, nil at the end or when ctx is done.
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

// fetch replaces the batch old.
func (f *feed) fetch(ctx context.Context, old *batch) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current.Load() != old {
		return true // another caller did
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
