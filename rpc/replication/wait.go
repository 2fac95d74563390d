// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// ErrLost is returned by [Host.Wait] if this member has stopped being the owner. The change
// may be lost, or the next owner may know it.
var ErrLost = errors.New("this member does not own the partition any more: ask the owner again with the same request id")

// waiter waits until the heir has a change.
type waiter struct {
	seq  uint64
	done chan error // cap 1: the loop never waits
}

var waiters = sync.Pool{New: func() any { return &waiter{done: make(chan error, 1)} }}

// Wait waits until the heir of a partition has all changes until seq, which this member
// made as its present owner. If a lot of time may have passed since, use [Host.WaitSince].
// The error is [ErrLost] or that of ctx; then nobody can say what becomes of the change.
// Without an heir, Wait waits for the next one.
func (h *Host) Wait(ctx context.Context, partition int, seq uint64) error {
	return h.WaitSince(ctx, partition, h.Place(partition).Origin, seq)
}

// WaitSince is [Host.Wait] for a change that was made while the place of the partition had
// this origin.
func (h *Host) WaitSince(ctx context.Context, partition int, origin, seq uint64) error {
	p := &h.parts[partition]
	// The loop resets durable before it replaces the place, so durable belongs to a
	// place that is the same before and after.
	if place := p.place.Load(); place.Owner == h.self && place.Origin == origin && p.durable.Load() >= seq && p.place.Load() == place {
		return nil
	}
	p.waiting.Lock()
	switch place := p.place.Load(); {
	case place.Owner != h.self || place.Origin != origin || h.ended.Load():
		p.waiting.Unlock()
		return ErrLost
	case p.durable.Load() >= seq || !h.waits.Load():
		p.waiting.Unlock()
		return nil
	}
	w := waiters.Get().(*waiter)
	w.seq = seq
	p.waiting.list = append(p.waiting.list, w)
	p.waiting.Unlock()
	select {
	case err := <-w.done:
		waiters.Put(w)
		return err
	case <-ctx.Done():
	}
	p.waiting.Lock()
	i := slices.Index(p.waiting.list, w)
	if i >= 0 {
		p.waiting.list = slices.Delete(p.waiting.list, i, i+1)
	}
	p.waiting.Unlock()
	if i < 0 { // it was answered meanwhile
		err := <-w.done
		waiters.Put(w)
		return err
	}
	waiters.Put(w)
	return ctx.Err()
}

// release answers those who wait for changes until seq.
func (p *partition) release(seq uint64) {
	p.waiting.Lock()
	defer p.waiting.Unlock()
	p.waiting.list = slices.DeleteFunc(p.waiting.list, func(w *waiter) bool {
		if w.seq <= seq {
			w.done <- nil
			return true
		}
		return false
	})
}

// show publishes a place. If it is of another owner, or of this one in another time, all
// who wait get [ErrLost].
func (p *partition) show(place *Place, lost bool) {
	p.waiting.Lock()
	defer p.waiting.Unlock()
	p.place.Store(place)
	if p.waiting.next != nil {
		close(p.waiting.next)
		p.waiting.next = nil
	}
	if lost {
		for _, w := range p.waiting.list {
			w.done <- ErrLost
		}
		p.waiting.list = nil
	}
}
