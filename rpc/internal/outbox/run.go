// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"context"
	"sync"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// idle is how long the driver sleeps when nothing is due.
const idle = time.Hour

// drive starts attempts until ctx ends or done is closed, and waits for them.
func (b *Outbox) drive(ctx context.Context, done <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	var attempts sync.WaitGroup
	defer func() {
		cancel()
		attempts.Wait()
		b.drops.flush(time.Now())
	}()
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for ctx.Err() == nil {
		now := time.Now()
		b.mu.Lock()
		next := b.mu.queue.next(now)
		b.countLocked()
		b.mu.Unlock()
		for _, item := range next.expired {
			b.dropped(now, item, TooOld, nil)
		}
		for _, a := range next.attempts {
			attempts.Go(func() { b.attempt(ctx, a) })
		}
		wait := idle
		if !next.wake.IsZero() {
			wait = next.wake.Sub(now)
		}
		timer.Reset(wait)
		select {
		case <-b.wake:
		case <-timer.C:
		case <-done:
			return
		case <-ctx.Done():
		}
	}
}

// attempt delivers once and tells the queue what came of it.
func (b *Outbox) attempt(ctx context.Context, a attempt) {
	limited, cancel := context.WithTimeout(ctx, b.options.Timeout)
	defer cancel()
	err := b.options.Deliver(limited, a.item)
	why, final := reasonOf(err)
	came := failed
	switch {
	case err == nil || final:
		came = answered
	case ctx.Err() != nil:
		came = stopped // by us: this says nothing of the owner
	}

	now := time.Now()
	b.mu.Lock()
	expired := b.mu.queue.done(now, a, came)
	b.countLocked()
	b.mu.Unlock()
	switch {
	case err == nil:
		if b.options.Events.Delivered != nil {
			b.options.Events.Delivered(a.item)
		}
	case final:
		b.dropped(now, a.item, why, err)
	case expired:
		b.dropped(now, a.item, TooOld, err)
	case b.options.Events.Retried != nil:
		b.options.Events.Retried(a.item, err)
	}
	b.kick()
}

// countLocked publishes how many entries there are.
func (b *Outbox) countLocked() {
	n := b.mu.queue.len()
	b.entries.Store(int64(n))
	if n == 0 && b.mu.empty != nil {
		close(b.mu.empty)
		b.mu.empty = nil
	}
}

// empty returns a channel that is closed when nothing waits.
func (b *Outbox) empty() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.empty == nil {
		b.mu.empty = make(chan struct{})
	}
	empty := b.mu.empty
	b.countLocked()
	return empty
}

func (b *Outbox) dropped(now time.Time, item *pb.Item, why Reason, err error) {
	b.drops.add(now, why, err)
	if b.options.Events.Dropped != nil {
		b.options.Events.Dropped(item, why, err)
	}
}
