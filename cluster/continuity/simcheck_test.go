// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"maps"
	"slices"
	"time"
)

// simHistory is what an observer of the whole cluster knows. It checks the promises
// I1 to I5 of the cluster.
type simHistory struct {
	s        *sim
	lastCall time.Duration
	parts    [simPartitions]simTruth
}

// simTruth is the history of a partition.
type simTruth struct {
	origin  uint64 // of the last owner
	owner   *simNode
	heir    *simNode // that had everything which was durable
	durable uint64
	log     []simLogged // of the last owner
	// whether the two have been removed from the roster since: others do not ask them for copies
	ownerRemoved, heirRemoved bool
	contents                  map[Copy]simContent
	next                      map[uint64]Arrangement // what replaced an arrangement
	exact                     map[uint64]bool        // ids that an owner has admitted
	fallback                  map[uint64]bool        // ids that were admitted without the owner, whatever the limit
	spent                     int64                  // their sum
	lost                      int64                  // what crashes have lost
	lostIDs                   map[uint64]bool
	// repayable are the charges that a takeover has lost, and who has answered them: that
	// boot must report them if it does not end.
	repayable map[uint64]*simNode

	cost        map[uint64]int64 // what was reserved for an id
	final       map[uint64]int64 // what it was settled with
	settles     []*simSettle
	lostSettles map[uint64]bool
	calls       []simAdmitted

	slices map[uint64]*simSlice
	kept   map[uint64]*simReserved // calls of slices that the last owner has charged on their own
	lent   int64                   // their part of spent: in full while they are lent
	sliced int64                   // what was really admitted from them
	books  simBooks
}

type simLogged struct {
	id, seq  uint64
	cost     int64
	at       time.Duration
	answered bool
	settle   bool // it corrects an earlier charge
}

type simAdmitted struct {
	id      uint64
	cost    int64
	ingress *simNode
}

// net returns what a charge has come to.
func (t *simTruth) net(id uint64, cost int64) int64 {
	if final, ok := t.final[id]; ok {
		return final
	}
	return cost
}

func (t *simTruth) heirID() ID {
	if t.heir == nil {
		return ID{}
	}
	return t.heir.id
}

func newSimHistory(s *sim) *simHistory {
	h := &simHistory{s: s}
	for p := range h.parts {
		h.parts[p] = simTruth{
			contents: map[Copy]simContent{}, next: map[uint64]Arrangement{}, exact: map[uint64]bool{}, fallback: map[uint64]bool{}, lostIDs: map[uint64]bool{},
			repayable: map[uint64]*simNode{},
			cost:      map[uint64]int64{}, final: map[uint64]int64{}, lostSettles: map[uint64]bool{}, slices: map[uint64]*simSlice{}, kept: map[uint64]*simReserved{},
		}
	}
	return h
}

// learned checks that every arrangement is replaced by one other, which is why
// there cannot be two owners.
func (h *simHistory) learned(n *simNode, p int, a Arrangement) {
	next := h.parts[p].next
	other, ok := next[a.Prev]
	if a.Prev != 0 && ok && other != a && !h.s.forgotten {
		h.s.fail("I1: %s knows that %x of p%d was replaced by %s, but it was replaced by %s", n.id, a.Prev, p, a, other)
	}
	next[a.Prev] = a
}

// checkOwners is I1: it is called after each step of n, which is when n can become
// one that decides.
func (s *sim) checkOwners(n *simNode) {
	for p := range simPartitions {
		if !n.m.Decides(p, n.clock()) {
			continue
		}
		s.history.balance(n, p)
		for _, o := range s.nodes {
			if o != n && o.m.Decides(p, o.clock()) {
				s.fail("I1: %s (%s) and %s (%s) both decide for p%d", n.id, n.m.Current(p), o.id, o.m.Current(p), p)
			}
		}
	}
}

// decided is I1 for hosts: n decides now.
func (h *simHistory) decided(n *simNode, p int) {
	for _, o := range h.s.nodes {
		if o != n && o.m.Decides(p, o.clock()) {
			h.s.fail("I1: %s decides for p%d, of which %s is the owner", n.id, p, o.id)
		}
	}
	if c := n.m.Current(p); h.parts[p].origin != c.Origin {
		h.newOwner(n, Change{Partition: p, Current: c}) // all who knew of later owners have lost their memory
	}
}

// charged notes a charge of an owner.
func (h *simHistory) charged(n *simNode, p int, c simCharge) {
	t := &h.parts[p]
	st := n.stores[p]
	h.noteContent(n, p)
	if t.owner == n && t.origin == n.m.Current(p).Origin {
		t.log = append(t.log, simLogged{id: c.id, seq: st.seq, cost: c.cost, at: h.s.now})
	}
	t.books.charges += c.cost
	if c.settled {
		h.finally(t, c.id, c.cost, t.cost[c.id]-c.cost)
	} else {
		t.cost[c.id] = c.cost
	}
	if c.cost >= simLarge {
		h.s.counters.large++
	} else {
		h.s.counters.small++
	}
}

// noteContent notes what a copy of the owner's state must be.
func (h *simHistory) noteContent(n *simNode, p int) {
	st := n.stores[p]
	h.parts[p].contents[Copy{Origin: n.m.Current(p).Origin, Seq: st.seq, Complete: true}] = content(st)
}

// durable notes what owner and heir both have.
func (h *simHistory) durable(n *simNode, p int, seq uint64) {
	t := &h.parts[p]
	if t.owner != n {
		return
	}
	t.durable = max(t.durable, seq)
}

// heirIs notes who is the heir now, and has everything that was durable, unless it
// has just ended.
func (h *simHistory) heirIs(n *simNode, p int, heir ID) {
	t := &h.parts[p]
	if t.owner != n || heir.IsZero() {
		return
	}
	t.heir, t.heirRemoved = nil, false
	for _, o := range h.s.nodes {
		if o.id == heir {
			t.heir = o
		}
	}
}

// answered is I3: what owners admit is within the limit, except for what crashes
// have lost.
func (h *simHistory) answered(n *simNode, p int, id uint64, cost int64) {
	t := &h.parts[p]
	if t.exact[id] || t.fallback[id] {
		return
	}
	t.exact[id] = true
	if final, ok := t.final[id]; ok {
		cost = final
	}
	t.spent += cost
	if t.slices[id] != nil {
		t.lent += cost
	}
	h.s.counters.exact++
	for i := range t.log {
		if t.log[i].id == id && !t.log[i].settle {
			t.log[i].answered = true
		}
	}
	if t.spent > simLimit+t.lost {
		h.s.fail("I3: p%d: %s has admitted %d of %d; crashes have lost %d", p, n.id, t.spent, simLimit, t.lost)
	}
}

// admit notes that a client was told that its call may run.
func (h *simHistory) admit(n *simNode, c *simCall, exact bool) {
	t := &h.parts[c.p]
	if !exact {
		t.fallback[c.id] = true
		h.s.counters.fallback++
	}
	h.s.logf("%s p%d admits #%d %d exact %v", n.id, c.p, c.id, c.cost, exact)
	t.calls = append(t.calls, simAdmitted{c.id, c.cost, n})
	t.cost[c.id] = c.cost
}

// forgive accepts that everything is lost: no copy was found.
func (h *simHistory) forgive(p int) { h.s.counters.losses++ }

// newOwner checks what an owner starts from.
func (h *simHistory) newOwner(n *simNode, c Change) {
	s, p, a := h.s, c.Partition, c.Current
	t := &h.parts[p]
	st := n.stores[p]
	if a.Origin < t.origin {
		switch {
		case !n.m.Decides(p, n.clock()):
			return // it has learned late that it was the owner; decided looks again if it should decide
		case !s.forgotten || t.owner.alive() && !t.owner.superseded():
			s.fail("I1: %s becomes the owner of p%d at %x, after %x", n.id, p, a.Origin, t.origin)
		}
	}
	planned := !a.Heir.IsZero() && t.owner != nil && a.Heir == t.owner.id
	base := Copy{Origin: a.Base.Origin, Seq: n.m.Copy(p).Seq, Complete: true}
	if want, ok := t.contents[base]; ok && want != content(st) {
		s.fail("I2: %s starts with %+v as the copy %+v of p%d, want %+v", n.id, content(st), base, p, want)
	}
	if got, want := st.sum(), st.level; got != want {
		s.fail("I4: %s starts p%d with level %d, but its ids were charged %d", n.id, p, want, got)
	}
	heirGone := t.heirRemoved || !s.reach(n, t.heir)
	bothGone := t.owner == nil || (!t.owner.alive() || t.owner.superseded()) && heirGone
	// A member that was silent for longer than Options.Forget is not asked for its copy any more.
	// When it is back, it reports the calls that it still knows.
	removed := t.ownerRemoved && heirGone
	first, last := time.Duration(-1), time.Duration(-1)
	ended := t.ended()
	for _, l := range t.log {
		if st.has(l.id) && (!l.settle || !st.missesSettle(l.id)) {
			continue
		}
		switch {
		case planned:
			s.fail("I2: %s takes p%d over from %s without charge #%d of %d (seq %d)", n.id, p, t.owner.id, l.id, l.cost, l.seq)
		case bothGone, removed:
		case l.seq <= t.durable:
			s.fail("I3: %s starts p%d without charge %d (seq %d), which %s and %v had", n.id, p, l.id, l.seq, t.owner.id, t.heirID())
		case ended[l.id] && l.settle && !t.lostSettles[l.id]:
			s.fail("I3: %s starts p%d without the settle of #%d (seq %d), which was acknowledged", n.id, p, l.id, l.seq)
		case t.kept[l.id] != nil:
		case l.answered && (l.cost >= simLarge || t.slices[l.id] != nil):
			s.fail("I3: %s starts p%d without the large charge #%d of %d (seq %d)", n.id, p, l.id, l.cost, l.seq)
		case l.answered:
			if first < 0 {
				first = l.at
			}
			last = l.at
		}
		s.logf("%s p%d lacks #%d %d of %s, settle %v, both gone %v", n.id, p, l.id, l.cost, t.owner.id, l.settle, bothGone)
		if l.settle {
			t.lostSettles[l.id] = true
			t.loseEnd(l.id, st)
			continue
		}
		t.lostIDs[l.id] = true
		delete(t.repayable, l.id)
		if l.answered {
			t.lost += t.net(l.id, l.cost)
			if !bothGone && !removed {
				t.repayable[l.id] = t.owner
			}
		}
	}
	if bound := withDrift(MaxLag); last-first > bound {
		s.fail("I3: %s starts p%d without the small charges of %v, want at most %v", n.id, p, last-first, bound)
	}
	if (bothGone || removed) && t.owner != nil { // and what earlier owners had
		for _, l := range t.owner.stores[p].charges {
			if l.settled && st.missesSettle(l.id) {
				t.lostSettles[l.id] = true
				t.loseEnd(l.id, st)
			}
			if st.has(l.id) {
				continue
			}
			delete(t.repayable, l.id) // it was reported, if it was lost before
			if t.lostIDs[l.id] {
				continue
			}
			t.lostIDs[l.id] = true
			if t.exact[l.id] {
				t.lost += t.net(l.id, l.cost)
			}
		}
		s.history.adoptEnds(t, st)
	}
	s.count(planned, bothGone, t)
	t.origin, t.owner, t.heir, t.log, t.durable, t.ownerRemoved, t.heirRemoved = a.Origin, n, nil, nil, 0, !n.m.Roster().has(n.name), false
	st.seq = max(st.seq, n.m.Copy(p).Seq)
	t.contents[Copy{Origin: a.Origin, Seq: st.seq, Complete: true}] = content(st)
	t.books = booksOf(st)
}

// removed notes whom a new roster lacks.
func (h *simHistory) removed(r Roster) {
	for p := range h.parts {
		t := &h.parts[p]
		t.ownerRemoved = t.ownerRemoved || t.owner != nil && !r.has(t.owner.name)
		t.heirRemoved = t.heirRemoved || t.heir != nil && !r.has(t.heir.name)
	}
}

// reach reports whether a boot exists and could talk to n for as long as a candidate
// waits for copies.
func (s *sim) reach(n, other *simNode) bool {
	if other == nil || !other.alive() || other.superseded() || other.paused || other.resumed > 0 && s.now-other.resumed < 2*claimPatience {
		return false
	}
	for _, pair := range [][2]string{{n.name, other.name}, {other.name, n.name}} {
		if at, ok := s.joined[pair]; s.cut[pair] || ok && s.now-at < 2*claimPatience {
			return false
		}
	}
	return !s.deaf[simReach{n.name, other.id}] && !s.deaf[simReach{other.name, n.id}]
}

func (s *sim) count(planned, bothGone bool, t *simTruth) {
	switch {
	case planned:
		s.counters.moves++
	case t.owner == nil:
	case bothGone:
		s.counters.claims++
	default:
		s.counters.takeovers++
	}
}

// checkEnd is the liveness after all faults have ended: one owner, which the ring
// names, one heir with a complete copy, and all journals reported.
func (s *sim) checkEnd() {
	var serving hashTargets
	for _, name := range s.names() {
		if m := s.members[name]; m.node != nil && m.state == Serving {
			serving = append(serving, name)
		} else if m.node != nil {
			owned, heir, journals := m.node.m.Holdings()
			s.fail("liveness: %s is still %d: voter %v, roster %v, owns %d, heir of %d, journals %d", m.node.id, m.state, m.node.m.Voter(), m.node.m.Roster(), owned, heir, journals)
		}
	}
	for _, n := range s.nodes {
		if !slices.Equal(n.m.Roster().Names, serving) {
			s.fail("liveness: %s has the roster %v, want %v", n.id, n.m.Roster(), serving)
		}
	}
	for p := range simPartitions {
		var owner *simNode
		for _, n := range s.nodes {
			if n.m.Decides(p, n.clock()) {
				owner = n
			}
		}
		t := &s.history.parts[p]
		switch {
		case owner == nil:
			s.fail("liveness: nobody decides for p%d", p)
		case owner.name != serving.Owner(p):
			s.fail("liveness: %s decides for p%d, want %s", owner.id, p, serving.Owner(p))
		case len(serving) > 1 && (!owner.m.Synced(p) || owner.m.Current(p).Heir.Name != serving.Heir(p)):
			s.fail("liveness: p%d: heir %s, synced %v, want %s", p, owner.m.Current(p).Heir, owner.m.Synced(p), serving.Heir(p))
		}
		if s.failure != "" {
			return
		}
		st := owner.stores[p]
		if st.sum() != st.level {
			s.fail("I4: p%d has level %d, but its ids were charged %d", p, st.level, st.sum())
		}
		s.history.checkCharges(p, owner)
		s.history.checkSlices(p, owner)
		for _, id := range slices.Sorted(maps.Keys(t.repayable)) {
			n := t.repayable[id]
			if !st.has(id) && n.alive() && !n.superseded() {
				s.fail("I2: p%d: charge #%d, which %s has answered, was not reported to %s", p, id, n.id, owner.id)
			}
		}
		ended := t.ended() // their members do not report them any more
		for _, c := range t.calls {
			if !st.has(c.id) && c.ingress.alive() && (c.cost >= simLarge && !ended[c.id] || !t.lostIDs[c.id]) {
				s.fail("I2: p%d: charge #%d of %d is missing at %s", p, c.id, c.cost, owner.id)
			}
		}
		for _, n := range s.nodes {
			if n.m.Current(p) != owner.m.Current(p) {
				s.fail("liveness: %s knows %s for p%d, %s knows %s", n.id, n.m.Current(p), p, owner.id, owner.m.Current(p))
			}
			if len(n.journal[p]) > 0 {
				s.fail("liveness: %s still has %d charges of p%d to report", n.id, len(n.journal[p]), p)
			}
		}
	}
}
