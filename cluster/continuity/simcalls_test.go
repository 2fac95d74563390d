// SPDX-License-Identifier: Apache-2.0

package continuity

import "time"

// simCall is one call of a client. A retry has the same id.
type simCall struct {
	id    uint64
	p     int
	cost  int64
	tries int
	done  bool
	// ends is set if it was reserved from a slice, too, whose holder settles it.
	ends bool
}

// verdicts of a decision.
type simVerdict uint8

const (
	admitted simVerdict = iota
	denied
	notOwner
)

const callTimeout = 400 * time.Millisecond

// clients starts calls until the end of the run.
func (s *sim) clients() {
	if s.now > s.history.lastCall {
		return
	}
	if len(s.nodes) > 0 {
		s.nextCall++
		c := &simCall{id: s.nextCall, p: s.rng.IntN(simPartitions), cost: 1 + s.rng.Int64N(5)}
		if s.chance(0.4) {
			c.cost = simLarge + s.rng.Int64N(simLarge)
		}
		n := s.nodes[s.rng.IntN(len(s.nodes))]
		if s.lending != nil {
			s.lending.call(n, c)
		} else {
			n.do(func() { n.call(c) })
		}
	}
	s.at(s.between(0, 20*time.Millisecond), s.clients)
}

// call asks the owner of a partition, once, and the client again if that fails.
func (n *simNode) call(c *simCall) {
	s := n.s
	c.tries++
	try := c.tries
	answer := func(v simVerdict) {
		if c.done || v == notOwner {
			return
		}
		c.done = true
		if v == admitted && c.cost >= simLarge {
			n.open[c.p] = append(n.open[c.p], simCharge{id: c.id, cost: c.cost})
		}
		if v == admitted {
			s.history.admit(n, c, true)
			n.settleLater(c)
		} else {
			s.counters.denied++
		}
	}
	n.ask(c, 2, answer)
	s.at(callTimeout, func() {
		if c.done || c.tries != try || len(s.nodes) == 0 {
			return
		}
		if c.tries < 3 {
			other := s.nodes[s.rng.IntN(len(s.nodes))]
			other.do(func() { other.call(c) })
		} else {
			n.do(func() { n.fallBack(c) })
		}
	})
}

// ask sends a call to the owner that this node knows, with a number of hops left.
func (n *simNode) ask(c *simCall, hops int, answer func(simVerdict)) {
	owner := n.m.Current(c.p).Owner
	switch {
	case owner == n.id:
		n.decide(c.p, c.id, c.cost, true, answer)
	case owner.IsZero() || hops == 0 || n.s.members[owner.Name] == nil:
		answer(notOwner)
	default:
		n.s.transmit(n, owner, func(to *simNode) {
			to.ask(c, hops-1, func(v simVerdict) {
				n.s.transmit(to, n.id, func(from *simNode) {
					if from == n {
						answer(v)
					}
				})
			})
		})
	}
}

// decide charges a call, as its owner. Before it denies one, it recalls slices if recalls is
// set.
func (n *simNode) decide(p int, id uint64, cost int64, recalls bool, answer func(simVerdict)) {
	if !n.mayDecide(p) {
		answer(notOwner)
		return
	}
	n.s.history.decided(n, p)
	n.expireSlices(p)
	st := n.stores[p]
	if i, ok := st.index[id]; ok {
		if n.m.Waits() && st.charges[i].seq > n.m.DurableSeq(p) {
			n.wait(p, id, st.seq, func() { n.answered(p, id, cost, answer) })
			return
		}
		n.answered(p, id, cost, answer)
		return
	}
	if st.level+cost > simLimit {
		if !recalls || !n.recall(p, func() { n.decide(p, id, cost, false, answer) }) {
			answer(denied)
		}
		return
	}
	n.record(p, id, cost, cost >= simLarge, func() { n.answered(p, id, cost, answer) })
}

func (n *simNode) record(p int, id uint64, cost int64, large bool, answer func()) {
	n.recordCharge(p, simCharge{id: id, cost: cost}, large, answer)
}

// recordCharge charges and answers, after the heir has it if need be.
func (n *simNode) recordCharge(p int, c simCharge, large bool, answer func()) {
	st := n.stores[p]
	st.seq = max(st.seq, n.m.Copy(p).Seq) + 1
	st.charge(c)
	n.s.history.charged(n, p, c)
	n.s.logf("%s p%d charges #%d %d as %d", n.id, p, c.id, c.cost, st.seq)
	waits := n.m.Waits() && (large || n.m.Lags(p, n.clock()))
	seq := st.seq
	n.step(Changed{{Partition: p, Seq: seq, Urgent: waits}})
	if !waits || n.s.broken == answersEarly {
		if n.m.Waits() {
			n.early[p] = append(n.early[p], simEarly{c.id, seq})
		}
		answer()
		return
	}
	n.wait(p, c.id, seq, answer)
}

func (n *simNode) wait(p int, id, seq uint64, answer func()) {
	n.waiting[p] = append(n.waiting[p], &simAnswer{id, seq, answer})
}

// answered sends the answer of an exact decision.
func (n *simNode) answered(p int, id uint64, cost int64, answer func(simVerdict)) {
	n.s.history.answered(n, p, id, cost)
	answer(admitted)
}

// fallBack decides without the owner, within this member's share, and remembers
// what was admitted.
func (n *simNode) fallBack(c *simCall) {
	share := simLimit / int64(max(2, len(n.m.Roster().Names)))
	if c.done || n.spent[c.p]+c.cost > share {
		return
	}
	c.done = true
	n.spent[c.p] += c.cost
	n.s.history.admit(n, c, false)
	charge := simCharge{id: c.id, cost: c.cost}
	if c.cost >= simLarge {
		n.open[c.p] = append(n.open[c.p], charge)
	}
	n.addJournal(c.p, charge)
	n.settleLater(c)
}

func (n *simNode) addJournal(p int, charges ...simCharge) {
	n.journal[p] = append(n.journal[p], charges...)
	n.version[p]++
	n.step(Journaled{p})
}

// repay reports charges to the owner. As a host does, it knows only those that it has
// answered itself and that no heir had, not those of other copies.
func (n *simNode) repay(r Repay) {
	p := r.Partition
	if r.FromCopy {
		st := n.stores[p]
		for _, e := range n.early[p] {
			if i, ok := st.index[e.id]; ok && e.seq > r.After && n.s.broken != reportsNothing {
				c := st.charges[i]
				n.journal[p] = append(n.journal[p], simCharge{id: c.id, cost: c.cost, settled: c.settled})
			}
		}
		n.early[p] = nil
		n.version[p]++
	}
	n.s.logf("%s p%d reports %d to %s: %+v", n.id, p, len(n.journal[p]), r.Owner, r)
	version, charges := n.version[p], append([]simCharge(nil), n.journal[p]...)
	done := func() {
		if n.version[p] == version && n.alive() {
			n.journal[p] = nil
			n.s.counters.repaid += len(charges)
			n.step(Repaid{p})
		}
	}
	if r.Owner == n.id {
		n.at0(func() { n.addCharges(p, charges, done) })
		return
	}
	n.s.transmit(n, r.Owner, func(to *simNode) {
		to.addCharges(p, charges, func() {
			n.s.transmit(to, n.id, func(from *simNode) {
				if from == n {
					done()
				}
			})
		})
	})
}

// at0 runs something after the current step.
func (n *simNode) at0(f func()) { n.s.at(0, func() { n.do(f) }) }

// addCharges adds what others have admitted, whatever the limit, unless it is
// known.
func (n *simNode) addCharges(p int, charges []simCharge, done func()) {
	if !n.mayDecide(p) {
		return
	}
	st := n.stores[p]
	n.s.history.decided(n, p)
	for _, c := range charges {
		switch {
		case c.settled:
			n.correctNow(p, c)
		case !st.has(c.id):
			n.recordCharge(p, c, true, func() {})
		}
	}
	if !n.mayDecide(p) {
		return
	}
	if n.m.Waits() && st.seq > n.m.DurableSeq(p) {
		n.wait(p, 0, st.seq, done)
	} else {
		done()
	}
}
