// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"strings"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/slice"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// maxShapes is for how many shapes of a key slices are held. Each takes its part of the
	// same limits.
	maxShapes = 4

	// renewEvery is how often a check that a slice covers goes to the owner to renew the
	// slice, at most, while the owner does not renew it.
	renewEvery = int64(20 * time.Millisecond)

	// After a slice that answered nothing, none is asked for that key for a while, which
	// doubles each time. Otherwise a key whose calls all have different costs would always
	// have a part of its limits lent, for nothing.
	minQuiet = int64(time.Second)
	maxQuiet = int64(32 * time.Second)
)

// key has the slices of one key. It is guarded by the lock of its shard.
type key struct {
	name        string
	entries     []*entry     // at most maxShapes
	unexpected  slice.Holder // of slices that no entry has room for: it holds only their returns
	queued      int          // returns of unexpected that the sender has
	nextRenewal int64        // see renewEvery
	quiet       int64        // length of the last quiet time; 0: the last slice was of use
	quietUntil  int64
}

// entry has the slices for one shape of a key.
type entry struct {
	shape  shape
	holder slice.Holder
	queued int     // returns of holder that the sender has
	from   *source // of the slice that holder has, or had last

	open      []*reservation // of that slice
	openBytes int            // of their encoding, at most
}

// source is what came with a slice. It does not change.
type source struct {
	slice    string // its id
	decision *pb.Decision
	view     any
	costs    []int64         // of the call that it came with
	tariff   *limiter.Tariff // nil: it is not for reserves
	// windowEnds is when the window of a counter ends, or before.
	windowEnds int64
}

func newKey(name string) *key { return &key{name: strings.Clone(name)} }

// find returns the entry for a shape, nil if there is none.
func (k *key) find(of *shape) *entry {
	for _, e := range k.entries {
		if e.shape.equals(of) {
			return e
		}
	}
	return nil
}

// findOrAdd returns the entry for a shape, nil if there is none and no room for it.
func (k *key) findOrAdd(of *shape) *entry {
	e := k.find(of)
	if e != nil || len(k.entries) == maxShapes {
		return e
	}
	e = &entry{shape: of.clone()}
	k.entries = append(k.entries, e)
	return e
}

// asking reports whether a slice for any shape is asked for.
func (k *key) asking() bool {
	for _, e := range k.entries {
		if e.holder.Asking() {
			return true
		}
	}
	return false
}

// unacknowledged returns how many returns the owner has not acknowledged.
func (k *key) unacknowledged() int {
	n := k.unexpected.Unacknowledged()
	for _, e := range k.entries {
		n += e.holder.Unacknowledged()
	}
	return n
}

// live returns how many slices are held.
func (k *key) live() (n int) {
	for _, e := range k.entries {
		if e.holder.Live() {
			n++
		}
	}
	return n
}

// mayAsk reports whether a call may ask for a slice: one at a time, and not while too many
// returns are not acknowledged.
func (k *key) mayAsk(now int64) bool {
	return now >= k.quietUntil && !k.asking() && k.unacknowledged() < slice.MaxReturns
}

// ask decides whether a call asks for a slice: for a further shape only if all slices are of
// use.
func (k *key) ask(now int64, of *shape) bool {
	if !k.mayAsk(now) {
		return false
	}
	e := k.find(of)
	if e == nil {
		for _, other := range k.entries {
			if other.holder.Live() && other.holder.Calls() == 0 {
				return false
			}
		}
		if e = k.findOrAdd(of); e == nil {
			return false
		}
	}
	return e.holder.Ask(now)
}

// granted begins a slice for e, and reports whether it did: else the slice is returned.
func (k *key) granted(now int64, e *entry, g *slice.Grant, from *source) bool {
	if !e.holder.Granted(now, g) {
		return false
	}
	e.from = from
	k.nextRenewal = 0
	return true
}

// recall ends all slices.
func (k *key) recall(now int64) {
	for _, e := range k.entries {
		e.holder.Recall(now)
	}
}

// expire ends the slices whose time is over. If they were of no use, none is asked for during
// the quiet time that begins, and it reports until when that is remembered.
func (k *key) expire(now int64) (until int64, wasted bool) {
	used := false
	for _, e := range k.entries {
		live := e.holder.Live()
		used = used || live && e.holder.Calls() > 0
		if e.holder.Due(now); live && !e.holder.Live() && e.holder.Calls() == 0 {
			wasted = true
		}
	}
	switch {
	case used:
		k.quiet = 0
	case wasted:
		k.quiet = min(max(2*k.quiet, minQuiet), maxQuiet)
		k.quietUntil = now + k.quiet
		return k.rememberUntil(), true
	}
	return 0, false
}

// rememberUntil returns until when a quiet time is remembered, so that the next one is longer.
func (k *key) rememberUntil() int64 { return k.quietUntil + k.quiet }

// ended is a slice that has ended, with its open reservations, which the owner is to keep.
type ended struct {
	ret  *slice.Return
	open []*reservation
}

// due returns the returns that the sender does not have yet, which it then has. It drops
// entries with nothing to remember.
func (k *key) due(now int64) (returns []ended) {
	take := func(h *slice.Holder, queued *int, e *entry) {
		all := h.Due(now)
		for i := *queued; i < len(all); i++ {
			r := all[i]
			returns = append(returns, ended{&r, e.takeOpen(r.ID)})
		}
		*queued = len(all)
	}
	take(&k.unexpected, &k.queued, nil)
	kept := k.entries[:0]
	for _, e := range k.entries {
		take(&e.holder, &e.queued, e)
		if e.holder.Live() || e.holder.Asking() || e.holder.Unacknowledged() > 0 {
			kept = append(kept, e)
		}
	}
	clear(k.entries[len(kept):])
	k.entries = kept
	return returns
}

// idle reports whether there is nothing to remember.
func (k *key) idle(now int64) bool {
	return len(k.entries) == 0 && k.unexpected.Unacknowledged() == 0 && now >= k.rememberUntil()
}

// returned says that the owner has acknowledged a return, which the sender had.
func (k *key) returned(id string) {
	acknowledge := func(h *slice.Holder, queued *int) {
		n := h.Unacknowledged()
		h.Returned(id)
		*queued -= n - h.Unacknowledged()
	}
	acknowledge(&k.unexpected, &k.queued)
	for _, e := range k.entries {
		acknowledge(&e.holder, &e.queued)
	}
}
