// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// runSim runs one history: start, faults, healing.
func runSim(seed uint64, broken bug, tracing bool) *sim {
	s := newSim(seed, broken)
	s.tracing = tracing
	options := rand.New(rand.NewPCG(seed, 1))
	s.settles, s.falseViews, s.overlaps = options.IntN(2) == 0, options.IntN(3) == 0, options.IntN(3) == 0
	if options.IntN(3) == 0 {
		s.operator = rand.New(rand.NewPCG(seed, 2))
	}
	if options.IntN(2) == 0 && !slices.Contains(beforeSlices, int(seed)) {
		s.lending = newSimLending(s, rand.New(rand.NewPCG(seed, 3)))
	}
	if options.IntN(4) == 0 && !slices.Contains(beforeRemovals, int(seed)) {
		s.removals = true
		s.o.Contact = 2500 * time.Millisecond
		s.o.Forget = s.o.ForgetAfter() + 200*time.Millisecond
	}
	n := 3 + s.rng.IntN(5)
	if s.chance(0.3) { // owner and heir act at the same time, and messages are slow
		s.o.HeirSilence = s.o.Lease + s.between(-20*time.Millisecond, 120*time.Millisecond)
		s.slow = s.between(20*time.Millisecond, 80*time.Millisecond)
	}
	var expect []string
	for i := range n {
		expect = append(expect, fmt.Sprintf("n%d", i))
	}
	if s.chance(0.2) { // a single node that others join
		s.start("n0", Joining, []string{"n0"})
		for _, name := range expect[1:] {
			s.at(s.between(0, 3*time.Second), func() { s.start(name, Joining, nil) })
		}
	} else {
		s.expect = expect
		for _, name := range expect {
			s.at(s.between(0, time.Second), func() { s.start(name, Joining, expect) })
		}
	}
	s.history.lastCall = 20 * time.Second
	s.clients()
	s.runFor(s.between(time.Second, 5*time.Second))
	s.faults = true
	s.delay = max(s.delay, s.slow)
	s.order()
	s.lending.fault()
	for end := s.now + s.between(3*time.Second, 11*time.Second); s.now < end && s.failure == ""; {
		s.fault()
		s.runFor(s.between(0, 1200*time.Millisecond))
	}
	s.heal()
	s.history.lastCall = s.now + time.Second
	s.runFor(20 * time.Second)
	if s.failure == "" {
		s.checkEnd()
	}
	return s
}

// fault does one bad thing to the cluster.
func (s *sim) fault() {
	name := s.names()[s.rng.IntN(len(s.members))]
	m := s.members[name]
	other := s.names()[s.rng.IntN(len(s.members))]
	switch {
	case s.falseViews && s.chance(0.15):
		s.hide(name)
		return
	case s.overlaps && s.chance(0.15):
		s.overlap(m)
		return
	case s.removals && s.chance(0.2):
		s.silence(name)
		return
	}
	kind := s.rng.IntN(11)
	if s.slow > 0 && s.chance(0.5) {
		kind = 9
	}
	switch kind {
	case 0, 1:
		if m.node != nil {
			s.crash(m)
		}
	case 2:
		if m.node != nil && !m.node.paused {
			s.pause(m.node)
		}
	case 3:
		if name == other {
			return
		}
		s.counters.cuts++
		s.logf("cut %s -> %s", name, other)
		s.cut[[2]string{name, other}] = true
		s.at(s.between(100*time.Millisecond, 6*time.Second), func() { s.join([2]string{name, other}) })
	case 4:
		s.split()
	case 5:
		s.loss, s.repeat = s.rng.Float64()*0.2, s.rng.Float64()*0.2
		s.delay = s.between(time.Millisecond, 60*time.Millisecond)
		s.at(s.between(time.Second, 4*time.Second), func() { s.loss, s.repeat, s.delay = 0, 0, max(time.Millisecond, s.slow) })
	case 6:
		s.leave(m)
	case 7:
		if s.counters.joins < 2 {
			s.counters.joins++
			s.start(fmt.Sprintf("x%d", s.counters.joins), Joining, nil)
		}
	case 9, 10:
		s.separate(s.rng.IntN(simPartitions))
	case 8: // a rolling restart, one planned leave without waiting
		s.leave(m)
		if m.state == Leaving {
			s.at(s.between(time.Second, 3*time.Second), func() {
				if m.node == nil && m.left {
					s.start(name, Joining, nil)
				}
			})
		}
	}
}

// order has some member forget one that does not answer, from time to time while there are
// faults, as an operator may: without force, and only if the member may vote and a majority
// answers.
func (s *sim) order() {
	if s.operator == nil || !s.faults {
		return
	}
	s.at(time.Duration(s.operator.Int64N(int64(time.Second))), s.order)
	n := s.nodes[s.operator.IntN(max(1, len(s.nodes))):]
	if len(n) == 0 || n[0].paused || n[0].superseded() {
		return
	}
	m, now := n[0].m, n[0].clock()
	for _, name := range m.Roster().Names {
		if name != n[0].name && !m.Answers(name, now) && m.Voter() && m.Answering(now) >= m.Roster().majority() {
			s.counters.orders++
			s.logf("%s is told to forget %s", n[0].id, name)
			n[0].step(Forget{Name: name})
			return
		}
	}
}

// crash kills a process. Others may find its ports closed.
func (s *sim) crash(m *simMember) {
	s.counters.crashes++
	id, alone := m.node.id, len(m.node.m.Roster().Names) == 1 // nobody could forget it
	m.node.stop()
	s.findDead(id)
	if !s.buried && len(s.members) > 4 && s.chance(0.1) && !alone {
		s.logf("%s does not come back", m.name)
		s.buried, m.left = true, true
		return
	}
	s.at(s.between(20*time.Millisecond, 4*time.Second), func() { s.restart(m) })
}

// findDead lets some members find that the ports of a boot which has ended are closed.
func (s *sim) findDead(id ID) {
	for _, n := range s.nodes {
		if s.chance(0.7) && !s.cut[[2]string{id.Name, n.name}] && !s.cut[[2]string{n.name, id.Name}] {
			s.at(s.between(2*time.Millisecond, 60*time.Millisecond), func() { n.do(func() { n.step(Dead{id}) }) })
		}
	}
}

func (s *sim) restart(m *simMember) {
	if m.node == nil && !m.left {
		s.start(m.name, Joining, s.expect)
	}
}

func (s *sim) pause(n *simNode) {
	s.counters.pauses++
	s.logf("pause %s", n.id)
	n.paused = true
	s.at(s.between(50*time.Millisecond, 5*time.Second), func() { s.resume(n) })
}

// resume runs what has waited. The clock has gone on.
func (s *sim) resume(n *simNode) {
	if !n.paused {
		return
	}
	s.logf("resume %s", n.id)
	n.paused, n.resumed = false, s.now
	held := n.held
	n.held = nil
	for _, f := range held {
		n.do(f)
	}
}

// split cuts the cluster in two for a while.
func (s *sim) split() {
	s.counters.cuts++
	side := map[string]bool{}
	for _, name := range s.names() {
		side[name] = s.chance(0.5)
	}
	s.logf("split %v", side)
	var pairs [][2]string
	for _, a := range s.names() {
		for _, b := range s.names() {
			if side[a] != side[b] {
				pairs = append(pairs, [2]string{a, b})
				s.cut[[2]string{a, b}] = true
			}
		}
	}
	s.at(s.between(200*time.Millisecond, 7*time.Second), func() {
		for _, pair := range pairs {
			s.join(pair)
		}
	})
}

// separate cuts an owner from its heir while others see both.
func (s *sim) separate(p int) {
	for _, n := range s.nodes {
		k := n.m.Current(p)
		if k.Owner != n.id || k.Heir.IsZero() {
			continue
		}
		s.counters.cuts++
		s.logf("separate %s and %s", k.Owner, k.Heir)
		pair, back := [2]string{k.Owner.Name, k.Heir.Name}, [2]string{k.Heir.Name, k.Owner.Name}
		s.cut[pair] = true
		if s.chance(0.7) {
			s.cut[back] = true
		}
		s.at(s.between(100*time.Millisecond, 5*time.Second), func() {
			s.join(pair)
			s.join(back)
		})
		return
	}
}

// silence keeps a member from being heard by some for so long that they may remove it, while
// it may hear them.
func (s *sim) silence(name string) {
	s.counters.cuts++
	deaf := s.chance(0.3)
	for _, other := range s.names() {
		if other == name || s.chance(0.2) {
			continue
		}
		s.logf("%s does not hear %s", other, name)
		pair, back := [2]string{name, other}, [2]string{other, name}
		s.cut[pair] = true
		s.cut[back] = s.cut[back] || deaf
		s.at(s.o.Forget+s.between(-500*time.Millisecond, 1500*time.Millisecond), func() {
			s.join(pair)
			s.join(back)
		})
	}
}

// hide lets gossip show some members that a live one is gone.
func (s *sim) hide(name string) {
	s.counters.falseViews++
	until := s.now + s.between(time.Second, 6*time.Second)
	s.logf("gossip loses %s until %v", name, until)
	for _, other := range s.names() {
		if other != name && s.chance(0.7) {
			s.hidden[[2]string{other, name}] = until
		}
	}
}

// overlap starts a member again while its last boot still runs. For a moment, others reach
// one of the two boots, or both, or none.
func (s *sim) overlap(m *simMember) {
	if m.node == nil || m.old != nil || m.state != Serving || len(m.node.m.Roster().Names) < 2 {
		return
	}
	s.counters.overlaps++
	old := m.node
	m.old, m.node = old, nil
	s.logf("%s runs beside its next boot", old.id)
	for _, name := range s.names() {
		reach := s.rng.IntN(6)
		s.deaf[simReach{name, old.id}] = reach < 2
		s.deaf[simReach{name, ID{m.name, s.nextBoot + 1}}] = reach > 0 && reach < 4
	}
	s.start(m.name, Joining, s.expect)
	s.noteMemory(old.m.Roster())
	s.at(s.between(50*time.Millisecond, 5*time.Second), func() { s.endOverlap(m, old) })
}

// endOverlap ends the older boot. Others may find its ports closed.
func (s *sim) endOverlap(m *simMember, old *simNode) {
	if m.old != old {
		return
	}
	old.stop()
	for reach, deaf := range s.deaf {
		if reach.boot.Name == m.name {
			delete(s.deaf, reach)
			if deaf {
				s.joined[[2]string{reach.name, m.name}] = s.now
			}
		}
	}
	s.findDead(old.id)
}

// join ends a cut.
func (s *sim) join(pair [2]string) {
	if s.cut[pair] {
		delete(s.cut, pair)
		s.joined[pair] = s.now
	}
}

// leave starts a graceful leave, if enough members stay.
func (s *sim) leave(m *simMember) {
	serving := 0
	for _, name := range s.names() {
		if o := s.members[name]; o.node != nil && o.state == Serving {
			serving++
		}
	}
	if m.node == nil || m.state != Serving || serving < 4 {
		return
	}
	s.counters.leaves++
	s.logf("leave %s", m.node.id)
	m.state = Leaving
}

// heal ends all faults.
func (s *sim) heal() {
	s.logf("heal")
	s.faults = false
	s.loss, s.repeat, s.delay = 0, 0, time.Millisecond
	clear(s.hidden)
	for _, a := range s.names() {
		for _, b := range s.names() {
			s.join([2]string{a, b})
		}
	}
	for _, name := range s.names() {
		m := s.members[name]
		if m.old != nil {
			s.endOverlap(m, m.old)
		}
		if m.node != nil {
			s.resume(m.node)
		} else {
			s.restart(m)
		}
	}
	s.lending.heal()
	s.at(time.Second, s.bootstrapAgain)
	s.at(4*time.Second, s.forgetBuried)
}

// forgetBuried is what an operator does if members have ended for good and too many
// others have lost their memory.
func (s *sim) forgetBuried() {
	for _, n := range s.nodes {
		for _, name := range n.m.Roster().Names {
			if m := s.members[name]; m.node == nil && m.left && !n.m.Voter() {
				s.forgotten = true
				s.logf("%s forgets %s", n.id, name)
				n.step(Forget{Name: name, Force: true})
				return
			}
		}
	}
}

// bootstrapAgain is what an operator does if all members have lost the roster.
func (s *sim) bootstrapAgain() {
	var names []string
	for _, name := range s.names() {
		if m := s.members[name]; m.node != nil {
			names = append(names, name)
			if m.node.m.Roster().Epoch > 0 {
				return
			}
		}
	}
	for _, name := range names {
		s.members[name].node.step(Bootstrap{Names: names, Round: uint32(s.now / time.Second)})
	}
}
