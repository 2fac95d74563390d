// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"maps"
	"slices"
	"time"

	"github.com/bucketring/bucketring/limiter/slice"
)

// The observer checks these promises of slices:
//
//   - S1: what is left of a limit, what is lent, what was spent of slices and what was charged
//     besides are the limit together, after each step of the owner.
//   - S2: owners and holders together admit no more than the limit, except for what crashes
//     have lost, and a holder no more than its slice.
//   - S3: each slice ends once in the history of the owners, and no holder decides from it
//     after that.
//   - S4: a slice is charged with at least what was spent of it, and exactly with that if it
//     was returned in time.

// simEnd is how a slice has ended.
type simEnd uint8

const (
	lentSlice simEnd = iota
	returnedSlice
	expiredSlice
)

func (e simEnd) String() string { return []string{"lent", "returned", "expired"}[e] }

// simSlice is the history of a slice.
type simSlice struct {
	id     uint64
	amount int64
	lender *simNode
	at     time.Duration
	lease  time.Duration // for which the owner keeps it

	spent int64 // what was really admitted from it, or what that has come to
	simEnded
	ends         []simEnded // all, also of owners whose history is lost
	inTime       bool       // its return came to an owner in time
	acknowledged bool       // its return was
	forgotten    bool       // its end was lost with its owner and its heir
}

// simEnded is the end of a slice in the history of the last owner.
type simEnded struct {
	end      simEnd
	seq      uint64
	charged  int64          // what was spent, by the owner
	kept     []*simReserved // what was charged besides
	repeated int64          // of those that were reserved at the owner, too
}

// simBooks are what the state of the last owner adds up to.
type simBooks struct{ charges, lent, spent int64 }

func booksOf(st *simStore) (b simBooks) {
	for _, c := range st.charges {
		switch {
		case !c.slice:
			b.charges += c.cost
		case c.settled:
			b.spent += c.cost
		default:
			b.lent += c.cost
		}
	}
	return b
}

// balance is S1.
func (h *simHistory) balance(n *simNode, p int) {
	t := &h.parts[p]
	if t.owner != n || t.origin != n.m.Current(p).Origin {
		return
	}
	left, b := simLimit-n.stores[p].level, t.books
	if left+b.charges+b.lent+b.spent != simLimit {
		h.s.fail("S1: %s has %d left of p%d, with %d charged, %d lent and %d spent of slices, want %d together", n.id, left, p, b.charges, b.lent, b.spent, simLimit)
	}
}

// lent notes that an owner has lent a slice.
func (h *simHistory) lent(n *simNode, p int, x *simSlice) {
	t := &h.parts[p]
	st := n.stores[p]
	h.noteContent(n, p)
	if t.owner == n && t.origin == n.m.Current(p).Origin {
		t.log = append(t.log, simLogged{id: x.id, seq: st.seq, cost: x.amount, at: h.s.now})
	}
	t.slices[x.id] = x
	t.books.lent += x.amount
	h.s.counters.lent++
	h.balance(n, p)
}

// took notes that a holder has admitted a call from a slice.
func (h *simHistory) took(holder *simHolder, c *simCall, id uint64) {
	t := &h.parts[c.p]
	x := t.slices[id]
	h.s.logf("%s p%d admits #%d %d from #%d", holder, c.p, c.id, c.cost, id)
	h.s.counters.sliced++
	x.spent += c.cost
	t.sliced += c.cost
	if x.spent > x.amount {
		h.s.fail("S2: %s has admitted %d from slice #%d of p%d, of %d", holder, x.spent, id, c.p, x.amount)
	}
	if x.end != lentSlice && !t.lostIDs[id] {
		h.s.fail("S3: %s decides from slice #%d of p%d, which its owner has ended: %s", holder, id, c.p, x.end)
	}
	h.checkAdmitted(c.p)
}

// checkAdmitted is S2.
func (h *simHistory) checkAdmitted(p int) {
	t := &h.parts[p]
	if owned := t.spent - t.lent; owned+t.sliced > simLimit+t.lost {
		h.s.fail("S2: p%d: owners have admitted %d and holders %d of %d; crashes have lost %d", p, owned, t.sliced, simLimit, t.lost)
	}
}

// correctedInSlice notes what a call has come to while its slice is held.
func (h *simHistory) correctedInSlice(holder *simHolder, r *simReserved) {
	t := &h.parts[r.p]
	x := t.slices[r.slice]
	h.s.logf("%s p%d settles #%d of slice #%d with %d of %d", holder, r.p, r.id, r.slice, r.final, r.cost)
	h.s.counters.corrected++
	x.spent -= r.cost - r.final
	t.sliced -= r.cost - r.final
	if x.end != lentSlice && !t.lostIDs[r.slice] {
		h.s.fail("S3: %s settles in slice #%d of p%d, which its owner has ended: %s", holder, r.slice, r.p, x.end)
	}
}

// sliceEnded notes that an owner has ended a slice, and what was charged for the calls that
// are kept.
func (h *simHistory) sliceEnded(n *simNode, p int, id uint64, spent int64, how simEnd, kept []*simReserved, repeated int64) {
	t := &h.parts[p]
	x := t.slices[id]
	h.noteContent(n, p)
	if t.owner == n && t.origin == n.m.Current(p).Origin {
		t.log = append(t.log, simLogged{id: id, seq: n.stores[p].seq, at: h.s.now, settle: true})
	}
	if x.end != lentSlice {
		h.s.fail("S3: %s ends slice #%d of p%d, which has ended: %s", n.id, id, p, x.end)
	}
	e := simEnded{end: how, seq: n.stores[p].seq, charged: spent, kept: kept, repeated: repeated}
	x.ends = append(x.ends, e)
	t.setEnd(x, &e)
	t.books.lent -= x.amount
	t.books.spent += spent
	for _, r := range kept {
		h.s.counters.kept++
		t.books.charges += r.cost
		if t.owner == n && t.origin == n.m.Current(p).Origin {
			t.log = append(t.log, simLogged{id: r.id, seq: e.seq, cost: r.cost, at: h.s.now, answered: true})
		}
	}
	if how == returnedSlice {
		h.s.counters.returned++
	} else {
		h.s.counters.expired++
	}
	h.balance(n, p)
}

// setEnd notes how a slice has ended. What is kept are ordinary calls from now on.
func (t *simTruth) setEnd(x *simSlice, e *simEnded) {
	x.simEnded = *e
	t.final[x.id] = e.charged
	if t.exact[x.id] {
		t.spent -= x.amount - e.charged
		t.lent -= x.amount - e.charged
	}
	t.sliced -= e.repeated
	for _, r := range e.kept {
		t.kept[r.id], t.cost[r.id], t.exact[r.id] = r, r.cost, true
		delete(t.lostIDs, r.id)
		t.spent += r.cost
		t.lent += r.cost
	}
}

// ignored notes that an owner does not know a call that is settled: its slice was not returned
// in time.
func (h *simHistory) ignored(n *simNode, r *simReserved) {
	t := &h.parts[r.p]
	r.ignored = true
	if x := t.slices[r.slice]; x.inTime && !t.lostIDs[r.id] && !t.lostIDs[r.slice] {
		h.s.fail("S4: %s does not know #%d, which was kept when slice #%d of p%d was returned in time", n.id, r.id, r.slice, r.p)
	}
}

// unsetEnd forgets how a slice has ended.
func (t *simTruth) unsetEnd(x *simSlice) {
	if t.exact[x.id] {
		t.spent += x.amount - x.charged
		t.lent += x.amount - x.charged
	}
	delete(t.final, x.id)
	t.sliced += x.repeated
	for _, r := range x.kept {
		net := t.net(r.id, r.cost)
		t.spent, t.lent, t.sliced = t.spent-net, t.lent-net, t.sliced+r.cost-net
		delete(t.exact, r.id)
		delete(t.kept, r.id)
		delete(t.final, r.id)
		for i := range t.log {
			t.log[i].answered = t.log[i].answered && t.log[i].id != r.id
		}
	}
	x.simEnded, x.inTime, x.acknowledged = simEnded{}, false, false
}

// loseEnd notes that an owner does not know of the end of a slice, which it has. Its return
// will come again, with what is kept, or it ends by itself.
func (t *simTruth) loseEnd(id uint64, st *simStore) {
	if x := t.slices[id]; x != nil && x.end != lentSlice && st.has(id) {
		x.forgotten = x.forgotten || x.acknowledged
		t.unsetEnd(x)
	}
}

// adoptEnds notes that slices have ended for an owner as they had for an earlier one, whose
// state it has found when others were lost.
func (h *simHistory) adoptEnds(t *simTruth, st *simStore) {
	for _, id := range slices.Sorted(maps.Keys(t.slices)) {
		x := t.slices[id]
		i, ok := st.index[id]
		if !ok || !st.charges[i].settled || x.end != lentSlice && x.seq == st.charges[i].seq && x.charged == st.charges[i].cost {
			continue
		}
		for _, e := range x.ends {
			if e.seq != st.charges[i].seq || e.charged != st.charges[i].cost {
				continue
			}
			h.s.logf("slice #%d has ended as it was: %s with %d", id, e.end, e.charged)
			if x.end != lentSlice {
				t.unsetEnd(x)
			}
			x.forgotten = true
			t.setEnd(x, &e)
			for _, r := range e.kept {
				if j, ok := st.index[r.id]; ok && st.charges[j].settled {
					h.finally(t, r.id, st.charges[j].cost, r.cost-st.charges[j].cost)
				}
			}
			break
		}
	}
}

// acknowledgedTo notes that a holder knows that an owner has its return: its end must be known
// from then on.
func (h *simHistory) acknowledgedTo(holder *simHolder, p int, id uint64) {
	t := &h.parts[p]
	if x := t.slices[id]; x.end == lentSlice && !x.forgotten && !t.lostIDs[id] {
		h.s.fail("S4: %s was told that slice #%d of p%d has ended, which it has not", holder, id, p)
	}
}

// returnedTo notes that an owner has decided the return of a slice. It must have ended the
// slice with it if that was in time: before the slowest clock shows the end of the lease.
func (h *simHistory) returnedTo(n *simNode, p int, id uint64, live bool) {
	t := &h.parts[p]
	x := t.slices[id]
	inTime := h.s.now-x.at <= x.lease*100/(100+slice.Skew)
	switch {
	case live && x.lender != n:
		h.s.counters.elsewhere++
	case !live && x.end == returnedSlice:
		h.s.counters.repeated++
	case !live && !inTime:
		h.s.counters.late++
	}
	h.balance(n, p)
	if t.lostIDs[id] || !inTime {
		return
	}
	x.inTime = true
	if x.end != returnedSlice {
		h.s.fail("S4: slice #%d of p%d was returned to %s %v after it was lent, of %v, but it has ended: %s", id, p, n.id, h.s.now-x.at, x.lease, x.end)
	}
}

// checkSlices is S4 at the end, when all slices are over.
func (h *simHistory) checkSlices(p int, owner *simNode) {
	t, st := &h.parts[p], owner.stores[p]
	for _, id := range slices.Sorted(maps.Keys(t.slices)) {
		x := t.slices[id]
		i, ok := st.index[id]
		charged := x.repeated
		if ok {
			charged += st.charges[i].cost
		}
		for _, r := range x.kept {
			charged += r.cost
			switch {
			case r.ignored && !x.forgotten && !t.lostIDs[r.id]:
				h.s.fail("S4: the settle of #%d of slice #%d of p%d came before its return", r.id, id, p)
			case !st.has(r.id) && !t.lostIDs[r.id]:
				h.s.fail("S4: #%d of slice #%d of p%d is missing at %s", r.id, id, p, owner.id)
			case r.acknowledged && st.missesSettle(r.id) && !t.lostIDs[r.id] && !t.lostSettles[r.id]:
				h.s.fail("S4: the settle of #%d of slice #%d of p%d is missing at %s", r.id, id, p, owner.id)
			}
		}
		switch {
		case !ok && t.lostIDs[id]:
		case !ok:
			h.s.fail("S4: slice #%d of p%d is missing at %s", id, p, owner.id)
		case !st.charges[i].settled:
			h.s.fail("liveness: slice #%d of p%d has not ended at %s", id, p, owner.id)
		case charged < x.spent:
			h.s.fail("S4: slice #%d of p%d was charged with %d, but %d were spent", id, p, charged, x.spent)
		case x.inTime && charged != x.spent:
			h.s.fail("S4: slice #%d of p%d was returned in time, and charged with %d, but %d were spent", id, p, charged, x.spent)
		}
	}
	if h.s.lending == nil {
		return
	}
	holders := slices.Clone(h.s.lending.clients)
	for _, n := range h.s.nodes {
		holders = append(holders, n.holder)
	}
	for _, o := range holders {
		if n := o.of[p].Unacknowledged(); n > 0 || len(o.of[p].Due(o.now())) > 0 {
			h.s.fail("liveness: %s has %d slices of p%d to return", o, n, p)
		}
		for _, r := range o.open {
			if r.ended || !r.kept {
				h.s.fail("liveness: %s has #%d of slice #%d of p%d to settle: ended %v, kept %v", o, r.id, r.slice, r.p, r.ended, r.kept)
			}
		}
	}
}
