// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// moveTo starts a member that the ring prefers for some partition, and runs until such a
// partition is sealed for the move, and no votes were asked for yet. It returns the partition
// and both sides.
func (s *sim) moveTo(t *testing.T, name string) (p int, from, to *simNode) {
	t.Helper()
	to = s.start(name, Joining, nil)
	s.until(t, 10*time.Second, "sealed", func() bool {
		for _, n := range s.nodes {
			for i := range simPartitions {
				if x := n.m.parts[i].export; n.m.parts[i].sealed && n.m.parts[i].proposal == nil && x.to == to.id {
					p, from = i, n
					return true
				}
			}
		}
		return false
	})
	return p, from, to
}

// TestFormerOwnerLearnsLate pauses a successor while it is chosen, until the former owner
// has taken over and has died (seed 104786). The successor then learns what it missed,
// and decides nothing with it.
func TestFormerOwnerLearnsLate(t *testing.T) {
	s := calm(t, 3)
	p, from, to := s.moveTo(t, "x1")
	to.paused = true
	s.until(t, 5*time.Second, "taken over", func() bool {
		return from.m.Current(p).Owner == from.id && from.m.Current(p).Prev != 0 && from.m.Current(p).Heir.IsZero() && from.m.Decides(p, from.clock())
	})
	from.record(p, 1, 5, false, func() {})
	from.stop()
	late := from.m.Current(p).Prev
	s.resume(to)
	if k := to.m.Current(p); k.Term < late {
		t.Fatalf("%s knows %s, want at least term %x, which made it the owner", to.id, k, late)
	}
	for range 100 {
		if to.m.Decides(p, to.clock()) && to.m.Current(p).Term <= late {
			t.Fatalf("%s decides with %s", to.id, to.m.Current(p))
		}
		s.run(t, time.Millisecond)
	}
	s.start(from.name, Joining, nil)
	s.run(t, 15*time.Second)
	s.checkEnd()
	s.run(t, 0)
}

// TestSuccessorKeepsItsCopy cuts a successor off when it has a complete copy, just before
// it is chosen, for longer than a copy is usually waited for (seed 117294). The former
// owner is paused and cannot take over. When the successor hears that it is the owner,
// it still has every charge.
func TestSuccessorKeepsItsCopy(t *testing.T) {
	s := calm(t, 3)
	for _, n := range s.nodes {
		for p := range simPartitions {
			if n.m.Decides(p, n.clock()) {
				n.record(p, uint64(100+p), 5, true, func() {})
			}
		}
	}
	p, from, to := s.moveTo(t, "x1")
	s.isolate("x1", true)
	s.until(t, time.Second, "chosen", func() bool { return from.m.Current(p).Owner == to.id })
	from.paused = true
	s.run(t, 6500*time.Millisecond)
	if to.m.Current(p).Owner == to.id {
		t.Fatal("the successor has heard of it")
	}
	s.isolate("x1", false)
	s.until(t, 3*time.Second, "the owner", func() bool { return to.m.Current(p).Owner == to.id })
	if !to.stores[p].has(uint64(100 + p)) {
		t.Errorf("%s has %+v, which lacks a charge", to.id, to.m.Copy(p))
	}
	s.resume(from)
	s.run(t, 10*time.Second)
	s.checkEnd()
	s.run(t, 0)
}

// TestReceiverReleasesItsCopy checks that a receiver keeps a copy for an owner that has
// given up the transfer only until it can ask.
func TestReceiverReleasesItsCopy(t *testing.T) {
	s := calm(t, 3)
	p, from, to := s.moveTo(t, "x1")
	s.isolate("x1", true)
	from.m.parts[p].sealedAt, from.m.nextWalk = from.m.now-s.o.SealTimeout, from.m.now
	from.step(Tick{}) // gives up, and the message is lost
	if x := from.m.parts[p].export; x != nil && x.transfer == to.m.parts[p].held {
		t.Fatalf("%s still exports p%d", from.id, p)
	}
	s.run(t, 6500*time.Millisecond)
	if to.m.parts[p].held == 0 || !to.m.Copy(p).Complete {
		t.Fatalf("holds %d, copy %+v, want a copy that is held", to.m.parts[p].held, to.m.Copy(p))
	}
	s.members["x1"].state = Joining // it is not offered another one
	to.m.targets = hashTargets(s.expect)
	s.isolate("x1", false)
	s.until(t, time.Second, "released", func() bool { return to.m.parts[p].held == 0 })
}

// TestLagCountsFromTheOldestChange reads an acknowledgement late, as a process does that
// was suspended (seed 118254): a change that it does not cover is older than that.
func TestLagCountsFromTheOldestChange(t *testing.T) {
	m, now := machineOf(t, 3)
	k := m.Current(0)
	m.Step(Changed{{0, 1, false}}, now)
	m.Step(Changed{{0, 2, false}}, now+30*time.Millisecond)
	now += time.Second
	m.Step(Received{Message{From: k.Heir, To: m.self, Epoch: 1, Acks: []Acknowledgement{
		{Term: k.Term, Copy: Copy{k.Origin, 1, true}},
	}}}, now)
	if m.DurableSeq(0) != 1 || !m.Lags(0, now) {
		t.Errorf("durable %d, lags %v, want 1, true: change 2 was made 970 ms ago", m.DurableSeq(0), m.Lags(0, now))
	}
}

// TestLag checks at random times that an owner never takes the changes that its heir lacks
// for younger than they are.
func TestLag(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, now := partition{}, time.Hour
		at := []time.Duration{0} // when each change was made
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += time.Duration(rapid.IntRange(0, 15).Draw(t, "ms")) * time.Millisecond
			if rapid.Bool().Draw(t, "change") {
				p.markChange(now)
				p.copy.Seq++
				at = append(at, now)
			} else if seq := rapid.Uint64Range(p.durable, p.copy.Seq).Draw(t, "ack"); seq > p.durable {
				p.durable = seq
				p.unmark()
			}
			if p.durable == p.copy.Seq {
				continue
			}
			oldest := at[p.durable+1]
			if p.unackedSince > oldest {
				t.Fatalf("the changes after %d were made %v ago, it says %v", p.durable, now-oldest, now-p.unackedSince)
			}
		}
	})
}

// TestSlowLinkDoesNotLag acknowledges every change after 70 ms: the charges do not wait.
func TestSlowLinkDoesNotLag(t *testing.T) {
	p, now := partition{}, time.Hour
	const delay = 70 // changes, one per millisecond
	for seq := uint64(1); seq < 1000; seq++ {
		now += time.Millisecond
		if p.markChange(now); seq > delay {
			p.durable = seq - delay
			p.unmark()
		}
		p.copy.Seq = seq
		if age := now - p.unackedSince; age > MaxLag {
			t.Fatalf("change %d: the oldest is %v old, want at most %v", seq, age, MaxLag)
		}
	}
}

// TestLeaverStaysWithTheLastCopy checks that a member which holds nothing any more does not
// leave before the heir of each partition that it has a copy of is known to have one (seed
// 210396).
func TestLeaverStaysWithTheLastCopy(t *testing.T) {
	m, _ := machineOf(t, 4)
	for i := range m.parts {
		a := m.parts[i].known
		a.Prev, a.Term, a.Owner, a.Heir = a.Term, ballotAbove(a.Term, 9), ID{"n01", 1}, ID{"n02", 1}
		a.Origin = a.Term
		m.learn(i, a)
		p := &m.parts[i] // what it had is reported and dropped
		p.journal, p.present, p.copy = false, false, Copy{}
	}
	m.leaving = true
	if _, ok := m.wantedRoster(); !ok {
		t.Error("does not want to leave without any copy")
	}
	p := &m.parts[7]
	p.present, p.copy = true, Copy{Origin: p.known.Prev, Seq: 3, Complete: true}
	if _, ok := m.wantedRoster(); ok {
		t.Error("wants to leave with what may be the last copy")
	}
	m.setKnown(7, p.known, true)
	if _, ok := m.wantedRoster(); !ok {
		t.Error("does not want to leave when the heir has a copy")
	}
}

// TestLeaverThatWasRemoved: a member that the others have removed before it is to leave may
// stop once it holds nothing (seed 9208). If it is added and removed again, it says so again.
func TestLeaverThatWasRemoved(t *testing.T) {
	m, now := machineOf(t, 4)
	other, heir := m.peers[0].ID, m.peers[1].ID
	in, out := m.roster.Names, without(m.roster.Names, m.self.Name)
	expect := func(want bool, when string, e Event) {
		t.Helper()
		now += TickInterval
		got := m.Step(e, now).Left
		if got = m.Step(Tick{}, now).Left || got; got != want {
			t.Fatalf("%s: left %v, want %v", when, got, want)
		}
	}
	roster := func(epoch uint64, names []string) Event {
		return from(m, other, Entry{Kind: RosterIs, Roster: Roster{Epoch: epoch, Names: names}})
	}
	expect(false, "removed while it serves", roster(2, out))
	leaving := View{Members: []Member{{m.self, Leaving}}}
	for i := range m.peers {
		leaving.Members = append(leaving.Members, Member{m.peers[i].ID, Serving})
	}
	expect(false, "an owner, as far as it knows", leaving)
	m.Step(Journaled{7}, now)
	for i := range m.parts {
		a := Arrangement{Prev: m.parts[i].known.Term, Term: ballotAbove(m.parts[i].known.Term, 9), Owner: other, Heir: heir}
		a.Origin = a.Term
		m.Step(from(m, other, Entry{Kind: Known, Partition: i, Value: a, Flag: true}), now)
		if i != 7 {
			m.Step(Repaid{i}, now)
		}
	}
	expect(false, "with charges to report", leaving)
	expect(true, "without anything", Repaid{7})
	expect(false, "said before", leaving)
	expect(false, "added again", roster(3, in))
	expect(true, "removed again", roster(4, out))
}

// TestRemovedMemberReportsBeforeItLeaves cuts a member off until it is removed, lets it hear
// of that, and has it leave before the others can add it again.
func TestRemovedMemberReportsBeforeItLeaves(t *testing.T) {
	s := calm(t, 4)
	n := s.node("n1")
	p := s.ownedBy("n0")[0]
	s.isolate("n1", true)
	s.until(t, s.o.Forget+5*time.Second, "removed", func() bool { return !s.node("n0").m.Roster().has("n1") })
	n.addJournal(p, simCharge{id: 1 << 40, cost: 5})
	n.step(from(n.m, s.node("n0").id, Entry{Kind: RosterIs, Roster: s.node("n0").m.Roster()}))
	s.members["n1"].state = Leaving
	s.run(t, time.Second)
	if n.left {
		t.Error("has left with charges to report")
	}
	s.isolate("n1", false)
	s.until(t, 5*time.Second, "gone", func() bool { return n.left })
	if owner := s.decider(p); owner == nil || !owner.stores[p].has(1<<40) {
		t.Errorf("p%d: the owner lacks a charge", p)
	}
	s.run(t, 5*time.Second)
	s.checkEnd()
	s.run(t, 0)
}
