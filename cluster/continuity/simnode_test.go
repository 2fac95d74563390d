// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"slices"
	"time"
)

// simNode is one boot of a member: the machine and its host.
type simNode struct {
	s       *sim
	name    string
	id      ID
	m       *Machine
	offset  time.Duration
	rate    float64
	paused  bool
	resumed time.Duration // when a pause ended
	held    []func()      // what happens when the process runs again
	missed  map[string]time.Duration

	until   [simPartitions]time.Duration // as the effects say, until when the node decides
	stores  [simPartitions]*simStore
	waiting [simPartitions][]*simAnswer // large charges that wait for the heir
	journal [simPartitions][]simCharge  // what has to be reported to the owner
	early   [simPartitions][]simEarly   // what this owner has answered and the heir lacks
	version [simPartitions]int          // of the journal
	spent   [simPartitions]int64        // in fallback
	open    [simPartitions][]simCharge  // reservations of calls that came in here
	origin  [simPartitions]uint64       // of the owner that was told of them
	lent    [simPartitions][]simLent    // by this boot, as the owner, while it is
	denials [simPartitions][]*simDenial // that wait for slices
	holder  *simHolder
	left    bool
	numbers map[*beatList]uint64 // of heartbeats, for a planted bug
}

// simEarly is a charge that was answered before the heir had it.
type simEarly struct{ id, seq uint64 }

type simAnswer struct {
	id     uint64 // 0: a report
	seq    uint64
	answer func()
}

// clock returns the time on the clock of the node.
func (n *simNode) clock() time.Duration {
	return n.offset + time.Duration(float64(n.s.now)*n.rate)
}

// start starts a member, with no memory of earlier boots.
func (s *sim) start(name string, state MemberState, expect []string) *simNode {
	m := s.members[name]
	if m == nil {
		m = &simMember{name: name}
		s.members[name] = m
	}
	s.nextBoot++
	m.boots = s.nextBoot
	n := &simNode{
		s: s, name: name, id: ID{name, s.nextBoot}, offset: s.between(time.Second, time.Hour),
		rate: 0.992 + 0.016*s.rng.Float64(), missed: map[string]time.Duration{}, numbers: map[*beatList]uint64{},
	}
	machine, err := New(n.id, s.o, n.clock())
	if err != nil {
		panic(err)
	}
	n.m = machine
	m.node, m.state, m.left = n, state, false
	for p := range n.stores {
		n.stores[p], n.until[p] = newSimStore(), never
	}
	n.holder = &simHolder{s: s, node: n}
	s.nodes = append(s.nodes, n)
	s.logf("start %s", n.id)
	n.step(View{})
	if expect != nil {
		n.step(Bootstrap{Names: expect, Round: uint32(s.now / time.Second)})
	}
	s.at(s.between(0, TickInterval), n.tick)
	s.at(s.between(0, 300*time.Millisecond), n.gossip)
	return n
}

// stop ends the process.
func (n *simNode) stop() {
	m := n.s.members[n.name]
	if m.old == n {
		m.old = nil
	} else {
		m.node, m.ended = nil, n.s.now
	}
	n.s.nodes = slices.DeleteFunc(n.s.nodes, func(o *simNode) bool { return o == n })
	n.s.logf("stop %s", n.id)
	n.s.noteMemory(n.m.Roster())
}

// noteMemory notes whether the members that remember their votes are fewer than a
// majority. Older boots do not count.
func (s *sim) noteMemory(roster Roster) {
	voters := 0
	for _, o := range s.nodes {
		if o.m.Roster().Epoch > roster.Epoch {
			roster = o.m.Roster()
		}
	}
	for _, o := range s.nodes {
		if o.m.Voter() && roster.has(o.name) && !o.superseded() {
			voters++
		}
	}
	s.forgotten = s.forgotten || voters < roster.majority()
}

func (n *simNode) alive() bool { return n.s.members[n.name].node == n || n.superseded() }

// superseded reports whether a node runs beside a newer boot of the same member.
func (n *simNode) superseded() bool { return n.s.members[n.name].old == n }

// do runs something in the process, later if it is paused.
func (n *simNode) do(f func()) {
	switch {
	case !n.alive():
	case n.paused:
		n.held = append(n.held, f)
	default:
		f()
	}
}

func (n *simNode) tick() {
	if !n.alive() {
		return
	}
	if !n.paused { // a ticker drops what nobody receives
		if n.clock() >= n.m.NextTick() {
			n.step(Tick{})
		}
		n.sweepSlices()
	}
	n.s.at(TickInterval, n.tick)
}

// gossip delivers views, late.
func (n *simNode) gossip() {
	if !n.alive() {
		return
	}
	late := time.Duration(0)
	if n.s.faults {
		late = n.s.between(0, 2*time.Second)
	}
	if m := n.s.members[n.name]; m.state == Joining && n.m.Voter() && m.node == n {
		m.state = Serving
	}
	if n.s.members[n.name].state == Leaving {
		n.do(n.holder.close)
	}
	v := n.s.view(n)
	n.s.at(late, func() { n.do(func() { n.step(v) }) })
	n.s.at(n.s.between(200*time.Millisecond, 600*time.Millisecond), n.gossip)
}

// misses reports whether gossip has missed a member for long enough.
func (n *simNode) misses(name string) bool {
	if !n.s.cut[[2]string{name, n.name}] {
		delete(n.missed, name)
		return false
	}
	if _, ok := n.missed[name]; !ok {
		n.missed[name] = n.s.now
	}
	return n.s.now-n.missed[name] > 6*time.Second
}

// noteRoster notes whom a new roster lacks, and counts those that run and did not ask to leave,
// once for each member that adopts it.
func (s *sim) noteRoster(before, after Roster) {
	if after.Epoch == before.Epoch {
		return
	}
	s.history.removed(after)
	for _, name := range before.Names {
		if m := s.members[name]; !after.has(name) && m != nil && m.node != nil && m.state != Leaving {
			s.counters.removed++
		}
	}
}

// step gives an event to the machine and acts on the effects.
func (n *simNode) step(e Event) { n.stepState(e, nil) }

// stepState also has the records that came with a StateReceived.
func (n *simNode) stepState(e Event, records *simRecords) {
	if !n.alive() || n.s.failure != "" {
		return
	}
	n.s.plant(n, e)
	before := n.m.roster
	fx := n.m.Step(e, n.clock())
	n.s.noteRoster(before, n.m.roster)
	for _, l := range fx.Leases {
		n.until[l.Partition] = l.Until
	}
	n.s.plantAfter(n, e)
	for p, until := range n.until {
		if got, want := n.clock() < until, n.m.Decides(p, n.clock()); got != want {
			n.s.fail("%s p%d: decides by the effects: %v, by the machine: %v", n.id, p, got, want)
		}
	}
	for _, r := range fx.Repay {
		n.repay(r)
	}
	for _, p := range fx.Drop {
		n.stores[p] = newSimStore()
	}
	for _, a := range fx.Apply {
		t := e.(StateReceived)[a.Transfer]
		if n.s.broken == acksBeforeApply {
			n.s.at(40*time.Millisecond, func() { n.do(func() { n.stores[t.Partition].apply(records, t.Full, n.clock()) }) })
		} else if st := n.stores[t.Partition]; !st.apply(records, t.Full, n.clock()) {
			n.s.fail("I5: %s p%d has level %d after change %d, but its ids were charged %d", n.id, t.Partition, st.level, st.seq, st.total)
		}
	}
	for _, c := range fx.Changes {
		n.changed(c)
	}
	for _, p := range fx.Lost {
		n.s.history.forgive(p)
	}
	for _, p := range fx.Seal {
		n.seal(p)
	}
	for _, d := range fx.Durable {
		n.durable(d.Partition, d.Seq)
	}
	for _, t := range fx.States {
		n.sendState(t)
	}
	for _, msg := range fx.Messages {
		n.s.transmit(n, msg.To, func(to *simNode) { to.step(Received{msg}) })
	}
	if fx.Left && !n.left {
		n.left = true
		n.s.logf("%s has left", n.id)
		n.s.at(2*time.Second, func() {
			switch {
			case !n.alive() || n.superseded():
			case n.m.Roster().has(n.name):
				n.left = false // it was added again: it leaves again
			default:
				n.s.members[n.name].left = true
				n.stop()
			}
		})
	}
	n.s.checkOwners(n)
}

// changed takes note of a new arrangement.
func (n *simNode) changed(c Change) {
	p := c.Partition
	n.s.logf("%s p%d %s %s copy %x/%d", n.id, p, c.Role, c.Current, n.m.Copy(p).Origin, n.m.Copy(p).Seq)
	n.s.history.learned(n, p, c.Current)
	fresh := c.Current.Origin != n.origin[p]
	if c.Current.Owner == n.id {
		if fresh {
			n.s.history.newOwner(n, c)
		}
		n.s.history.heirIs(n, p, c.Current.Heir)
	}
	if !fresh {
		return
	}
	n.origin[p] = c.Current.Origin
	n.waiting[p] = nil      // their callers ask again
	n.lent[p] = nil         // the heir does not know who holds slices
	if len(n.open[p]) > 0 { // tell the new owner of running calls
		n.addJournal(p, n.open[p]...)
	}
}

// seal stops decisions; those in progress take a moment.
func (n *simNode) seal(p int) {
	n.s.logf("%s seals p%d at %d", n.id, p, n.stores[p].seq)
	n.s.at(n.s.between(0, 2*time.Millisecond), func() {
		n.do(func() { n.step(Drained{p, n.stores[p].seq}) })
	})
}

// sendState attaches the records and sends them.
func (n *simNode) sendState(t StateTransfer) {
	records := n.stores[t.Partition].since(t.After, t.Full, n.clock())
	if n.s.broken == dropsDirtySet && !t.Full {
		records.charges = nil
	}
	delay := time.Duration(0)
	if t.Full {
		delay = n.s.between(0, 30*time.Millisecond)
	}
	n.s.at(delay, func() {
		if n.alive() {
			n.s.transmit(n, t.To, func(to *simNode) { to.stepState(StateReceived{t}, records) })
		}
	})
}

// durable answers the callers of large charges.
func (n *simNode) durable(p int, seq uint64) {
	n.s.history.durable(n, p, seq)
	n.early[p] = slices.DeleteFunc(n.early[p], func(e simEarly) bool { return e.seq <= seq })
	for len(n.waiting[p]) > 0 && n.waiting[p][0].seq <= seq {
		a := n.waiting[p][0]
		n.waiting[p] = n.waiting[p][1:]
		a.answer()
	}
}
