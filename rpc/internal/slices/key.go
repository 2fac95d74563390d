// SPDX-License-Identifier: Apache-2.0

package slices

import (
	"maps"
	"strings"
	"time"

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
	holder slice.Holder
	queued int // returns of holder that the sender has

	// The shape.
	tier, model, serviceTier string
	requests, input, output  int64
	costs                    map[string]int64

	decision *pb.Decision // with which the slice came
	view     any
}

func newKey(name string) *key { return &key{name: strings.Clone(name)} }

// matches reports whether q has the shape of e. Its key is known to be the same.
func (e *entry) matches(q *pb.CheckRequest) bool {
	return e.input == q.GetInputTokens() && e.output == q.GetOutputTokens() && e.requests == requestsOf(q) &&
		e.model == q.GetModel() && e.tier == q.GetTier() && e.serviceTier == q.GetServiceTier() &&
		len(e.costs) == len(q.GetCosts()) && (len(e.costs) == 0 || maps.Equal(e.costs, q.GetCosts()))
}

func requestsOf(q *pb.CheckRequest) int64 {
	if q.Requests == nil {
		return 1
	}
	return q.GetRequests()
}

// find returns the entry for the shape of q, nil if there is none.
func (k *key) find(q *pb.CheckRequest) *entry {
	for _, e := range k.entries {
		if e.matches(q) {
			return e
		}
	}
	return nil
}

// findOrAdd returns the entry for the shape of q, nil if there is none and no room for it.
func (k *key) findOrAdd(q *pb.CheckRequest) *entry {
	e := k.find(q)
	if e != nil || len(k.entries) == maxShapes {
		return e
	}
	e = &entry{
		tier: strings.Clone(q.GetTier()), model: strings.Clone(q.GetModel()), serviceTier: strings.Clone(q.GetServiceTier()),
		requests: requestsOf(q), input: q.GetInputTokens(), output: q.GetOutputTokens(),
	}
	if len(q.GetCosts()) > 0 {
		e.costs = make(map[string]int64, len(q.GetCosts()))
		for name, n := range q.GetCosts() {
			e.costs[strings.Clone(name)] = n
		}
	}
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

// mayAsk reports whether a check may ask for a slice: one at a time, and not while too many
// returns are not acknowledged.
func (k *key) mayAsk(now int64) bool {
	return now >= k.quietUntil && !k.asking() && k.unacknowledged() < slice.MaxReturns
}

// ask decides whether a check asks for a slice: for a further shape only if all slices are of
// use.
func (k *key) ask(now int64, q *pb.CheckRequest) bool {
	if !k.mayAsk(now) {
		return false
	}
	e := k.find(q)
	if e == nil {
		for _, other := range k.entries {
			if other.holder.Live() && other.holder.Calls() == 0 {
				return false
			}
		}
		if e = k.findOrAdd(q); e == nil {
			return false
		}
	}
	return e.holder.Ask(now)
}

// granted begins a slice for e, and reports whether it did: else the slice is returned.
func (k *key) granted(now int64, e *entry, g *slice.Grant, d *pb.Decision, view any) bool {
	if !e.holder.Granted(now, g) {
		return false
	}
	e.decision, e.view = d, view
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

// due returns the returns that the sender does not have yet, which it then has. It drops
// entries with nothing to remember.
func (k *key) due(now int64) (returns []*slice.Return) {
	take := func(h *slice.Holder, queued *int) {
		all := h.Due(now)
		for i := *queued; i < len(all); i++ {
			r := all[i]
			returns = append(returns, &r)
		}
		*queued = len(all)
	}
	take(&k.unexpected, &k.queued)
	kept := k.entries[:0]
	for _, e := range k.entries {
		take(&e.holder, &e.queued)
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
