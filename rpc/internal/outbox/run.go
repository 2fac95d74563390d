// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"context"
	"sync"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// idle is how long drive sleeps at most.
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
		case <-b.wake.C():
		case <-timer.C:
		case <-done:
			return
		case <-ctx.Done():
		}
	}
}

// attempt delivers a call once, and completes the attempt.
func (b *Outbox) attempt(ctx context.Context, a attempt) {
	limited, cancel := context.WithTimeout(ctx, b.options.Timeout)
	defer cancel()
	err := b.options.Deliver(limited, a.item)
	reason, final := ReasonOf(err)
	result := failed
	switch {
	case err == nil || final:
		result = answered
	case ctx.Err() != nil:
		result = interrupted // by this process
	}

	now := time.Now()
	b.mu.Lock()
	expired := b.mu.queue.complete(now, a, result)
	b.countLocked()
	b.mu.Unlock()
	switch {
	case err == nil:
		if b.options.Events.Delivered != nil {
			b.options.Events.Delivered(a.item)
		}
	case final:
		b.dropped(now, a.item, reason, err)
	case expired:
		b.dropped(now, a.item, TooOld, err)
	case b.options.Events.Retried != nil:
		b.options.Events.Retried(a.item, err)
	}
	b.wake.Set()
}

// countLocked publishes the number of entries, and reports an empty outbox.
func (b *Outbox) countLocked() {
	n := b.mu.queue.len()
	b.entries.Store(int64(n))
	if n == 0 && b.mu.empty != nil {
		close(b.mu.empty)
		b.mu.empty = nil
	}
}

// empty returns a channel that is closed once the outbox is empty.
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

func (b *Outbox) dropped(now time.Time, item *pb.Item, reason Reason, err error) {
	b.drops.add(now, reason, err)
	if b.options.Events.Dropped != nil {
		b.options.Events.Dropped(item, reason, err)
	}
}
