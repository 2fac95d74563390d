// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"slices"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/limiter/slice"
)

// simHolder is a process that holds slices: a boot of a member, or an outside client. What it
// holds ends with it.
type simHolder struct {
	s    *sim
	node *simNode // nil: an outside client, which has what follows

	name   string
	offset time.Duration
	rate   float64 // of its clock
	paused bool
	held   []func() // what happens when it runs again
	ended  bool

	of     [simPartitions]slice.Holder
	quiet  [simPartitions]time.Duration // until when it does not ask, because it was refused
	sent   map[uint64]bool              // returns that are sent until they are acknowledged
	open   []*simReserved
	closed bool // it asks for no more slices
}

// simReserved is a call that was admitted from a slice, and whose charge is corrected
// downwards when it ends.
type simReserved struct {
	id, slice   uint64
	p           int
	cost, final int64
	ended       bool // it has come to final
	kept        bool // its slice has ended before it
	told        bool // the return of its slice was acknowledged, or is lost

	acknowledged bool // the owner has settled it
	ignored      bool // an owner did not know it
}

const (
	// refusedWait is how long a holder does not ask after it was refused.
	refusedWait = 300 * time.Millisecond
	// returnAge is for how long a return is sent again.
	returnAge = 10 * time.Second
)

func (h *simHolder) String() string {
	if h.node != nil {
		return h.node.id.String()
	}
	return h.name
}

// clock returns the time on the clock of the holder.
func (h *simHolder) clock() time.Duration {
	if h.node != nil {
		return h.node.clock()
	}
	return h.offset + time.Duration(float64(h.s.now)*h.rate)
}

func (h *simHolder) now() int64 { return int64(h.clock()) }

// do runs something in the process, later if it is paused.
func (h *simHolder) do(f func()) {
	switch {
	case h.node != nil:
		h.node.do(f)
	case h.ended:
	case h.paused:
		h.held = append(h.held, f)
	default:
		f()
	}
}

// resume runs what has waited. The clock has gone on.
func (h *simHolder) resume() {
	h.paused = false
	held := h.held
	h.held = nil
	for _, f := range held {
		h.do(f)
	}
}

// call decides a call from a slice, or has n decide it, and asks for a slice.
func (h *simHolder) call(n *simNode, c *simCall) {
	if h.node != nil && n.m.Current(c.p).Owner == n.id { // it needs none
		n.call(c)
		return
	}
	if !h.take(c) {
		h.ask(c.p)
		n.do(func() { n.call(c) })
		return
	}
	for range h.s.lending.rng.IntN(8) { // what a key that is asked for often has besides
		h.s.nextCall++
		if !h.take(&simCall{id: h.s.nextCall, p: c.p, cost: 1 + h.s.lending.rng.Int64N(40)}) {
			h.ask(c.p)
			return
		}
	}
	h.ask(c.p)
}

// take decides a call from a slice. It returns false if the owner has to decide it.
func (h *simHolder) take(c *simCall) bool {
	x := &h.of[c.p]
	if !x.Live() {
		return false
	}
	reserves, costs := h.s.lending.rng.IntN(3) == 0, []int64{c.cost}
	ok := false
	if reserves {
		ok = x.Reserve(h.now(), costs)
	} else {
		ok = x.Take(h.now(), costs)
	}
	if ok {
		h.s.history.took(h, c, sliceID(x.ID()))
	}
	if ok && reserves {
		h.reserved(c, sliceID(x.ID()))
	}
	h.flush(c.p)
	return ok
}

// reserved ends a call later that was reserved from a slice. Its caller may miss the answer,
// and call another member again.
func (h *simHolder) reserved(c *simCall, slice uint64) {
	rng := h.s.lending.rng
	r := &simReserved{id: c.id, slice: slice, p: c.p, cost: c.cost, final: rng.Int64N(c.cost)}
	h.open = append(h.open, r)
	if rng.IntN(8) > 0 { // else its caller has ended
		h.s.at(h.s.lending.between(5*time.Millisecond, []time.Duration{100 * time.Millisecond, 2 * time.Second}[rng.IntN(2)]), func() { h.do(func() { h.settle(r) }) })
	}
	if c.ends = true; len(h.s.nodes) > 0 && rng.IntN(8) == 0 {
		n := h.s.nodes[rng.IntN(len(h.s.nodes))]
		h.s.at(h.s.lending.between(0, callTimeout), func() { n.do(func() { n.call(c) }) })
	}
}

// settle ends a call: in the slice while that is not over, and otherwise at the owner, once it
// knows of the call.
func (h *simHolder) settle(r *simReserved) {
	r.ended = true
	if !r.kept && h.of[r.p].Correct(h.now(), []int64{r.cost}, []int64{r.final}) {
		h.s.history.correctedInSlice(h, r)
		h.forget(r)
		return
	}
	h.flush(r.p)
	h.sendSettle(r)
}

func (h *simHolder) forget(r *simReserved) {
	h.open = slices.DeleteFunc(h.open, func(o *simReserved) bool { return o == r })
}

// sendSettle asks the owner to settle a call that was kept, until it has.
func (h *simHolder) sendSettle(r *simReserved) {
	if !r.ended || !r.told || !slices.Contains(h.open, r) {
		return
	}
	h.toOwner(r.p, func(owner *simNode) {
		owner.settleKept(r, func() { h.answer(owner, func() { h.forget(r) }) })
	})
	h.s.at(settleEvery, func() { h.do(func() { h.sendSettle(r) }) })
}

// ask asks the owner for a slice if the holder wants one.
func (h *simHolder) ask(p int) {
	if h.closed || h.clock() < h.quiet[p] || !h.of[p].Ask(h.now()) {
		return
	}
	asked, open := h.clock(), true
	h.toOwner(p, func(owner *simNode) {
		owner.lend(p, h, asked, func(g *slice.Grant) {
			h.answer(owner, func() {
				if open { // the answer to a call comes once
					open = false
					h.answered(p, g)
				}
			})
		})
	})
	h.s.at(callTimeout, func() {
		h.do(func() {
			if open {
				open = false
				h.answered(p, nil)
			}
		})
	})
}

// answered begins a slice, unless there is none.
func (h *simHolder) answered(p int, g *slice.Grant) {
	switch x := &h.of[p]; {
	case g == nil:
		x.Refused()
		h.quiet[p] = h.clock() + refusedWait
	case x.Granted(h.now(), g):
		lease := time.Duration(g.Lease)
		h.s.at(lease+lease/50, func() { h.do(func() { h.flush(p) }) })
	}
	h.flush(p)
}

func sliceID(text string) uint64 {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return id
}

// recall returns the slice of a partition because its owner needs it.
func (h *simHolder) recall(p int) {
	h.of[p].Recall(h.now())
	h.flush(p)
}

// close returns all slices, because the process is about to end.
func (h *simHolder) close() {
	h.closed = true
	for p := range h.of {
		h.recall(p)
	}
}

// simReturn is the return of a slice, with the calls that were reserved from it and have not
// ended.
type simReturn struct {
	p     int
	id    uint64
	spent int64
	kept  []*simReserved
	since time.Duration
}

// flush begins to return the slices that have ended.
func (h *simHolder) flush(p int) {
	for _, due := range h.of[p].Due(h.now()) {
		r := &simReturn{p: p, id: sliceID(due.ID), spent: due.Spent[0], since: h.clock()}
		if h.sent[r.id] {
			continue
		}
		if h.sent == nil {
			h.sent = map[uint64]bool{}
		}
		h.sent[r.id] = true
		for _, o := range h.open {
			if o.slice == r.id {
				o.kept = true
				r.kept = append(r.kept, o)
			}
		}
		h.sendReturn(r)
	}
}

// sendReturn returns a slice, until the owner has acknowledged it or it is too late.
func (h *simHolder) sendReturn(r *simReturn) {
	if !h.sent[r.id] {
		return
	}
	done := func() {
		if !h.sent[r.id] {
			return
		}
		delete(h.sent, r.id)
		h.of[r.p].Returned(strconv.FormatUint(r.id, 10))
		for _, o := range r.kept {
			o.told = true
			h.sendSettle(o)
		}
	}
	if h.clock()-r.since > returnAge {
		done()
		return
	}
	h.toOwner(r.p, func(owner *simNode) {
		owner.returned(r, func() {
			h.answer(owner, func() {
				h.s.history.acknowledgedTo(h, r.p, r.id)
				done()
			})
		})
	})
	h.s.at(settleEvery, func() { h.do(func() { h.sendReturn(r) }) })
}

// toOwner brings a call of the holder to the owner of a partition, if members know it.
func (h *simHolder) toOwner(p int, f func(owner *simNode)) {
	switch n := h.node; {
	case n != nil:
		n.route(p, 2, f)
	case len(h.s.nodes) > 0:
		n = h.s.nodes[h.s.lending.rng.IntN(len(h.s.nodes))]
		h.transmit(func() { n.do(func() { n.route(p, 2, f) }) })
	}
}

// answer brings the answer of an owner to the holder.
func (h *simHolder) answer(owner *simNode, f func()) {
	switch {
	case h.node == owner:
		f()
	case h.node != nil:
		h.s.transmit(owner, h.node.id, func(to *simNode) {
			if to == h.node {
				f()
			}
		})
	default:
		h.transmit(func() { h.do(f) })
	}
}

// transmit is for messages between an outside client and a member: they are as late, lost or
// repeated as others.
func (h *simHolder) transmit(deliver func()) {
	s := h.s
	copies := 1
	if s.chance(s.repeat) {
		copies = 2
	}
	for range copies {
		if !s.chance(s.loss) {
			s.at(s.between(50*time.Microsecond, s.delay), deliver)
		}
	}
}

// route brings a call to the owner of a partition that members know, over some hops at most.
func (n *simNode) route(p, hops int, f func(owner *simNode)) {
	switch owner := n.m.Current(p).Owner; {
	case owner == n.id:
		f(n)
	case owner.IsZero() || hops == 0 || n.s.members[owner.Name] == nil:
	default:
		n.s.transmit(n, owner, func(to *simNode) { to.route(p, hops-1, f) })
	}
}
