// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/limiter/slice"
)

// simLending is what a seed has besides if owners lend slices of their partitions: outside
// clients that hold them as members do, and keys that are asked for often.
type simLending struct {
	s       *sim
	rng     *rand.Rand
	hot     []int        // partitions
	clients []*simHolder // outside clients
	names   int
}

// simLent is what an owner remembers of a slice that it has lent.
type simLent struct {
	id       uint64
	holder   *simHolder
	recalled time.Duration // when it was, on the owner's clock; 0: it was not
}

// simDenial is a call that would be denied, and waits until slices are returned.
type simDenial struct {
	ids   []uint64
	again func() // nil: it was decided
}

// recallWait is how long a denial waits for slices, as in production.
const recallWait = 20 * time.Millisecond

func newSimLending(s *sim, rng *rand.Rand) *simLending {
	l := &simLending{s: s, rng: rng, hot: rng.Perm(simPartitions)[:3]}
	for range 1 + rng.IntN(3) {
		l.clients = append(l.clients, l.newClient())
	}
	for range 1 + rng.IntN(3) {
		s.at(time.Duration(2+rng.IntN(8))*time.Second, l.flood)
	}
	return l
}

func (l *simLending) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(l.rng.Int64N(int64(hi-lo)+1))
}

// newClient returns an outside client that has just started.
func (l *simLending) newClient() *simHolder {
	l.names++
	return &simHolder{
		s: l.s, name: "client" + strconv.Itoa(l.names), offset: l.between(time.Second, time.Hour), rate: 0.99 + 0.02*l.rng.Float64(),
	}
}

// call lets a holder decide a call that came to n, or n. Most calls are small and for few
// keys, so that slices are of use.
func (l *simLending) call(n *simNode, c *simCall) {
	if l.rng.IntN(4) > 0 {
		c.p = l.hot[l.rng.IntN(len(l.hot))]
		if l.rng.IntN(4) > 0 {
			c.cost = 1 + l.rng.Int64N(20)
		}
	}
	h := n.holder
	if l.rng.IntN(2) == 0 {
		h = l.clients[l.rng.IntN(len(l.clients))]
	}
	h.do(func() { h.call(n, c) })
}

// flood asks for so much at once that calls are denied.
func (l *simLending) flood() {
	p := l.hot[l.rng.IntN(len(l.hot))]
	for range 20 + l.rng.IntN(30) {
		if len(l.s.nodes) == 0 {
			return
		}
		l.s.nextCall++
		c := &simCall{id: l.s.nextCall, p: p, cost: simLarge + l.rng.Int64N(simLarge)}
		n := l.s.nodes[l.rng.IntN(len(l.s.nodes))]
		n.do(func() { n.call(c) })
	}
}

// fault pauses or ends outside clients, from time to time while there are faults.
func (l *simLending) fault() {
	if l == nil || !l.s.faults {
		return
	}
	l.s.at(l.between(100*time.Millisecond, 3*time.Second), l.fault)
	i := l.rng.IntN(len(l.clients))
	h := l.clients[i]
	if l.rng.IntN(3) == 0 {
		l.s.logf("%s ends", h)
		h.ended = true
		l.clients[i] = l.newClient()
		return
	}
	h.paused = true
	l.s.at(l.between(50*time.Millisecond, 5*time.Second), h.resume)
}

// heal ends the pauses of outside clients.
func (l *simLending) heal() {
	if l == nil {
		return
	}
	for _, h := range l.clients {
		h.resume()
	}
}

// lend lends a slice to a holder, as the owner, and answers nil if there is too little left. It
// answers with a slice only when the heir has its charge.
func (n *simNode) lend(p int, h *simHolder, asked time.Duration, answer func(*slice.Grant)) {
	if !n.mayDecide(p) {
		return
	}
	s := n.s
	s.history.decided(n, p)
	n.expireSlices(p)
	ttl, left := slice.MemberLease, []time.Duration{0, 0, 0, 400 * time.Millisecond, time.Second, 2500 * time.Millisecond}[s.lending.rng.IntN(6)]
	if h.node == nil {
		ttl = slice.ClientLease
	}
	lease, kept := slice.Lease(ttl, left)
	st := n.stores[p]
	amount := slice.Size(simLimit-st.level, simLimit, 50+s.lending.rng.Int64N(951), 5, len(n.lent[p])+1)
	if amount == 0 || h.node == n || !n.mayDecide(p) {
		answer(nil)
		return
	}
	due := n.clock() + kept
	if s.broken == endsSlicesEarly {
		due = n.clock() + lease
	}
	s.nextCall++
	id := s.nextCall
	st.seq = max(st.seq, n.m.Copy(p).Seq) + 1
	st.charge(simCharge{id: id, cost: amount, slice: true, due: due})
	s.history.lent(n, p, &simSlice{id: id, amount: amount, lender: n, at: s.now, lease: kept})
	s.logf("%s p%d lends #%d %d to %s as %d", n.id, p, id, amount, h, st.seq)
	n.lent[p] = append(n.lent[p], simLent{id: id, holder: h})
	seq, waits := st.seq, n.m.Waits()
	n.step(Changed{{Partition: p, Seq: seq, Urgent: waits}})
	lent := func() {
		s.history.answered(n, p, id, amount)
		answer(&slice.Grant{ID: strconv.FormatUint(id, 10), Amounts: []int64{amount}, Costs: []int64{1}, Lease: int64(lease), AskedAt: int64(asked)})
	}
	if waits && s.broken != lendsEarly {
		n.wait(p, id, seq, lent)
	} else {
		lent()
	}
}

// returned ends a slice, as the owner, unless it has ended, and charges the calls that are
// kept. It is done when the heir has what it knows.
func (n *simNode) returned(r *simReturn, done func()) {
	s, p, id := n.s, r.p, r.id
	if !n.mayDecide(p) {
		s.counters.former++
		return
	}
	s.history.decided(n, p)
	n.expireSlices(p)
	if !n.mayDecide(p) {
		return
	}
	st := n.stores[p]
	i, ok := st.index[id]
	live := ok && !st.charges[i].settled
	switch {
	case live:
		n.endSlice(p, i, r.spent, returnedSlice, r.kept...)
	case ok && s.broken == returnsTwice:
		st.level -= s.history.parts[p].slices[id].amount - r.spent
	}
	s.history.returnedTo(n, p, id, live)
	acknowledged := func() {
		s.history.parts[p].slices[id].acknowledged = true
		done()
	}
	if n.m.Waits() && st.seq > n.m.DurableSeq(p) && (live || s.broken != forgetsReturns) {
		n.wait(p, 0, st.seq, acknowledged)
	} else {
		acknowledged()
	}
}

// expireSlices ends the slices that were not returned in time. They count as spent in full.
func (n *simNode) expireSlices(p int) {
	if len(n.stores[p].lent) == 0 {
		return
	}
	for _, id := range slices.Clone(n.stores[p].lent) {
		st := n.stores[p]
		if i := st.index[id]; st.charges[i].due <= n.clock() && n.mayDecide(p) {
			n.endSlice(p, i, st.charges[i].cost, expiredSlice)
		}
	}
}

// sweepSlices ends slices of which nobody is reminded.
func (n *simNode) sweepSlices() {
	for p := range n.stores {
		if len(n.stores[p].lent) > 0 && n.mayDecide(p) {
			n.s.history.decided(n, p)
			n.expireSlices(p)
		}
	}
}

// endSlice replaces the charge of a slice by what was spent and what is kept, in one change. A
// call that is known, since it came here, too, is not charged again.
func (n *simNode) endSlice(p, i int, spent int64, how simEnd, kept ...*simReserved) {
	st := n.stores[p]
	id := st.charges[i].id
	st.seq = max(st.seq, n.m.Copy(p).Seq) + 1
	st.correct(i, spent)
	repeated := int64(0)
	kept = slices.DeleteFunc(slices.Clone(kept), func(r *simReserved) bool {
		if st.has(r.id) {
			repeated += r.cost
			return true
		}
		return n.s.broken == dropsKept
	})
	for _, r := range kept {
		st.charge(simCharge{id: r.id, cost: r.cost})
	}
	n.s.history.sliceEnded(n, p, id, spent, how, kept, repeated)
	n.s.logf("%s p%d ends #%d with %d as %d: %s", n.id, p, id, spent, st.seq, how)
	n.lent[p] = slices.DeleteFunc(n.lent[p], func(l simLent) bool { return l.id == id })
	n.step(Changed{{Partition: p, Seq: st.seq, Urgent: true}})
	for _, d := range slices.Clone(n.denials[p]) {
		if d.ids = slices.DeleteFunc(d.ids, func(o uint64) bool { return o == id }); len(d.ids) == 0 {
			n.endDenial(p, d)
		}
	}
}

// settleKept settles a call that was reserved from a slice, as the owner, if it knows it.
func (n *simNode) settleKept(r *simReserved, done func()) {
	if !n.mayDecide(r.p) {
		return
	}
	n.s.history.decided(n, r.p)
	if !n.stores[r.p].has(r.id) {
		n.s.history.ignored(n, r)
		done()
		return
	}
	n.correct(r.p, simCharge{id: r.id, cost: r.final, settled: true}, func() {
		r.acknowledged = true
		done()
	})
}

// recall has members return the slices that they hold, for a call that would be denied. The
// call is decided again when they have, or did not in time. It returns false if there is
// nothing to wait for.
func (n *simNode) recall(p int, again func()) bool {
	var ids []uint64
	for i := range n.lent[p] {
		l := &n.lent[p][i]
		if l.holder.node == nil || l.recalled != 0 && n.clock()-l.recalled >= recallWait {
			continue
		}
		ids = append(ids, l.id)
		if l.recalled == 0 {
			l.recalled = n.clock()
			n.s.counters.recalled++
			h := l.holder
			n.s.transmit(n, h.node.id, func(to *simNode) {
				if to == h.node {
					h.recall(p)
				}
			})
		}
	}
	if len(ids) == 0 {
		return false
	}
	d := &simDenial{ids: ids, again: again}
	n.denials[p] = append(n.denials[p], d)
	n.s.at(recallWait, func() { n.do(func() { n.endDenial(p, d) }) })
	return true
}

// endDenial decides a call again.
func (n *simNode) endDenial(p int, d *simDenial) {
	n.denials[p] = slices.DeleteFunc(n.denials[p], func(o *simDenial) bool { return o == d })
	if again := d.again; again != nil {
		d.again = nil
		again()
	}
}
