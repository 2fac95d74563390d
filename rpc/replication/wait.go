// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrLost is the error of a change if this member has stopped being the owner. The change may
// be lost, or the next owner may know it.
var ErrLost = errors.New("this member does not own the partition any more: ask the owner again with the same request id")

// Awaited is a change that [Host.Replicate] gives to the heir.
type Awaited struct {
	Call      int // of the caller, which Replicate does not read
	Partition int
	Origin    uint64 // of the place of the partition when the change was made
	Seq       uint64 // number of the change
	Patient   bool   // also waits for a silent heir, which may answer again or be replaced
	Err       error  // set by Replicate
}

// ErrSilent is the error of a change whose heir has not acknowledged anything for a while. It
// was sent all the same.
var ErrSilent = errors.New("the heir of the partition does not answer: ask again with the same request id")

// waiter waits for some changes, and is woken once.
type waiter struct {
	left atomic.Int32  // changes that are not answered
	done chan struct{} // cap 1: the loop never waits
}

var waiters = sync.Pool{New: func() any { return &waiter{done: make(chan struct{}, 1)} }}

// awaiting is a change that a waiter waits for.
type awaiting struct {
	waiter *waiter
	change *Awaited
}

// answer says what became of the change.
func (a awaiting) answer(err error) {
	a.change.Err = err
	if a.waiter.left.Add(-1) == 0 {
		a.waiter.done <- struct{}{}
	}
}

// Replicate gives changes to the heirs of their partitions at once, all together, as
// [Host.Changed] does, and waits until the heirs have them. It sets their Err: nil for those
// that the heirs have, [ErrLost], [ErrSilent], or the error of ctx. Unless a change is patient,
// it does not wait for an heir that is known to be silent, so that one such does not delay the
// answers of others.
func (h *Host) Replicate(ctx context.Context, changes []Awaited) {
	for i := range changes {
		h.mark(changes[i].Partition, true)
	}
	h.wakeUp()
	h.wait(ctx, changes)
}

// covered reports whether the heir of a partition has all changes until seq that were made
// while the place had this origin. It takes no lock.
func (h *Host) covered(partition int, origin, seq uint64) bool {
	// The loop resets durable before it replaces the place, so durable belongs to a
	// place that is the same before and after.
	p := &h.parts[partition]
	place := p.place.Load()
	return place.Owner == h.self && place.Origin == origin && p.durable.Load() >= seq && p.place.Load() == place
}

// wait waits until all changes are answered, or for ctx, and sets their Err.
func (h *Host) wait(ctx context.Context, changes []Awaited) {
	w := waiters.Get().(*waiter)
	w.left.Store(1) // until all are in the lists
	for i := range changes {
		h.await(w, &changes[i])
	}
	if w.left.Add(-1) > 0 {
		select {
		case <-w.done:
		case <-ctx.Done():
			if !h.giveUp(changes, ctx.Err()) {
				<-w.done // all were answered meanwhile
			}
		}
	}
	waiters.Put(w)
}

// await answers a change, or has the loop answer it.
func (h *Host) await(w *waiter, c *Awaited) {
	c.Err = nil
	if h.covered(c.Partition, c.Origin, c.Seq) {
		return
	}
	p := &h.parts[c.Partition]
	p.waiting.Lock()
	defer p.waiting.Unlock()
	switch place := p.place.Load(); {
	case place.Owner != h.self || place.Origin != c.Origin || h.ended.Load():
		c.Err = ErrLost
	case p.durable.Load() >= c.Seq || !h.waits.Load():
	case !c.Patient && h.silent(c.Partition):
		c.Err = ErrSilent
	default:
		w.left.Add(1)
		p.waiting.list = append(p.waiting.list, awaiting{w, c})
	}
}

// giveUp ends the wait for changes that are not answered, and reports whether there were any.
func (h *Host) giveUp(changes []Awaited, err error) (some bool) {
	for i := range changes {
		c := &changes[i]
		p := &h.parts[c.Partition]
		p.waiting.Lock()
		if at := slices.IndexFunc(p.waiting.list, func(a awaiting) bool { return a.change == c }); at >= 0 {
			p.waiting.list = slices.Delete(p.waiting.list, at, at+1)
			c.Err, some = err, true
		}
		p.waiting.Unlock()
	}
	return some
}

// release answers those who wait for changes until seq.
func (p *partition) release(seq uint64) {
	p.waiting.Lock()
	defer p.waiting.Unlock()
	if len(p.waiting.list) == 0 {
		return
	}
	p.waiting.list = slices.DeleteFunc(p.waiting.list, func(a awaiting) bool {
		if a.change.Seq > seq {
			return false
		}
		a.answer(nil)
		return true
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
		for _, a := range p.waiting.list {
			a.answer(ErrLost)
		}
		p.waiting.list = nil
	}
}
