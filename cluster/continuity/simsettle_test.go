// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"slices"
	"time"
)

// simSettle is the end of a call that was admitted: its charge is corrected downwards,
// once. The member where the call came in repeats it until the owner's heir has it.
type simSettle struct {
	id          uint64
	p           int
	cost, final int64
	ingress     *simNode
	done        bool
}

// settleEvery is the time between two attempts to settle.
const settleEvery = 400 * time.Millisecond

// settleLater settles a call that was admitted, in seeds that have settles.
func (n *simNode) settleLater(c *simCall) {
	s := n.s
	if c.ends || !s.settles || s.chance(0.4) {
		return
	}
	x := &simSettle{id: c.id, p: c.p, cost: c.cost, final: s.rng.Int64N(c.cost), ingress: n}
	s.at(s.between(5*time.Millisecond, 3*time.Second), func() {
		n.do(func() {
			n.open[x.p] = slices.DeleteFunc(n.open[x.p], func(o simCharge) bool { return o.id == x.id })
			s.history.parts[x.p].settles = append(s.history.parts[x.p].settles, x)
			n.sendSettle(x)
		})
	})
}

// sendSettle asks the owner to settle, until it has.
func (n *simNode) sendSettle(x *simSettle) {
	if x.done {
		return
	}
	owner := n.m.Current(x.p).Owner
	switch {
	case owner == n.id:
		n.correct(x.p, simCharge{id: x.id, cost: x.final, settled: true}, func() { n.settled(x) })
	case !owner.IsZero() && n.s.members[owner.Name] != nil:
		n.s.transmit(n, owner, func(to *simNode) {
			to.correct(x.p, simCharge{id: x.id, cost: x.final, settled: true}, func() {
				n.s.transmit(to, n.id, func(from *simNode) {
					if from == n {
						n.settled(x)
					}
				})
			})
		})
	}
	n.s.at(settleEvery, func() { n.do(func() { n.sendSettle(x) }) })
}

func (n *simNode) settled(x *simSettle) {
	if !x.done {
		x.done = true
		n.s.counters.settles++
		n.s.logf("%s p%d has settled #%d with %d of %d", n.id, x.p, x.id, x.final, x.cost)
	}
}

// correct settles a charge, as its owner. A charge that is not known, since it was lost or
// was not reported yet, is charged with what it came to.
func (n *simNode) correct(p int, c simCharge, done func()) {
	if !n.mayDecide(p) {
		return
	}
	n.s.history.decided(n, p)
	n.correctNow(p, c)
	if !n.mayDecide(p) {
		return
	}
	if st := n.stores[p]; n.m.Waits() && st.seq > n.m.DurableSeq(p) && n.s.broken != settlesEarly {
		n.wait(p, 0, st.seq, done)
	} else {
		done()
	}
}

func (n *simNode) correctNow(p int, c simCharge) {
	st := n.stores[p]
	i, ok := st.index[c.id]
	switch {
	case !ok:
		n.recordCharge(p, c, true, func() {})
		return
	case st.charges[i].settled && n.s.broken == refundsTwice:
		st.level -= n.s.history.parts[p].cost[c.id] - c.cost
		return
	case st.charges[i].settled:
		return
	}
	st.seq = max(st.seq, n.m.Copy(p).Seq) + 1
	refund := st.correct(i, c.cost)
	n.s.logf("%s p%d corrects #%d by %d as %d", n.id, p, c.id, refund, st.seq)
	n.s.history.corrected(n, p, c.id, refund)
	n.step(Changed{{Partition: p, Seq: st.seq, Urgent: true}})
}

// corrected notes a correction of an owner.
func (h *simHistory) corrected(n *simNode, p int, id uint64, refund int64) {
	t := &h.parts[p]
	st := n.stores[p]
	h.noteContent(n, p)
	if origin := n.m.Current(p).Origin; t.owner == n && t.origin == origin {
		t.log = append(t.log, simLogged{id: id, seq: st.seq, at: h.s.now, settle: true})
	}
	t.books.charges -= refund
	h.finally(t, id, st.charges[st.index[id]].cost, refund)
}

// finally notes what a call came to. What was admitted exactly falls by that, once.
func (h *simHistory) finally(t *simTruth, id uint64, final, refund int64) {
	if _, ok := t.final[id]; ok {
		return
	}
	t.final[id] = final
	if t.exact[id] {
		t.spent -= refund
	}
	if t.kept[id] != nil {
		t.lent -= refund
		t.sliced -= refund
	}
}

// ended returns the calls whose settle was acknowledged, and the slices whose return was.
func (t *simTruth) ended() map[uint64]bool {
	ended := map[uint64]bool{}
	for _, x := range t.settles {
		if x.done {
			ended[x.id] = true
		}
	}
	for id, x := range t.slices {
		ended[id] = x.acknowledged
	}
	for id, r := range t.kept {
		ended[id] = r.acknowledged
	}
	return ended
}

// missesSettle reports whether a store lacks that a charge was settled.
func (st *simStore) missesSettle(id uint64) bool {
	i, ok := st.index[id]
	return !ok || !st.charges[i].settled
}

// checkCharges is I4 and I5 at the end: each id nets to one charge, which is what it was
// reserved with, or what it was settled with.
func (h *simHistory) checkCharges(p int, owner *simNode) {
	t, st := &h.parts[p], owner.stores[p]
	for _, c := range st.charges {
		if c.slice {
			continue
		}
		want, ok := t.cost[c.id]
		if c.settled {
			want, ok = t.final[c.id]
		}
		if ok && c.cost != want {
			h.s.fail("I4: %s charges #%d of p%d with %d, settled %v, want %d", owner.id, c.id, p, c.cost, c.settled, want)
		}
	}
	for _, x := range t.settles {
		switch {
		case !x.done && x.ingress.alive():
			h.s.fail("liveness: #%d of p%d was not settled", x.id, p)
		case x.done && st.missesSettle(x.id) && !t.lostIDs[x.id] && !t.lostSettles[x.id]:
			h.s.fail("I2: the settle of #%d of p%d from %d to %d is missing at %s", x.id, p, x.cost, x.final, owner.id)
		}
	}
}
