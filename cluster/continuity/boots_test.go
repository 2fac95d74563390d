// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"slices"
	"testing"
	"time"
)

// beside starts a member again while its last boot still runs and does not hear of it.
func (s *sim) beside(name string) (old *simNode) {
	m := s.members[name]
	old = m.node
	m.old, m.node = old, nil
	s.hidden[[2]string{name, name}] = s.now + time.Hour
	s.start(name, Joining, s.expect)
	return old
}

// TestOlderBootKeepsItsLease starts an owner again while its last boot still decides. The
// heir takes over as soon as the lease is over, and no earlier.
func TestOlderBootKeepsItsLease(t *testing.T) {
	s := calm(t, 3)
	p := s.ownedBy("n1")[0]
	old := s.beside("n1")
	heir := s.node(old.m.Current(p).Heir.Name)
	s.until(t, time.Second, "met", func() bool { return heir.m.ended(old.id) })
	s.until(t, s.o.Lease, "over", func() bool { return s.decider(p) != old }) // each step checks that nobody else decides
	took := s.until(t, time.Second, "taken over", func() bool { return s.decider(p) != nil })
	if s.decider(p) != heir || took > s.o.Lease/10+s.o.Heartbeat+100*time.Millisecond {
		t.Errorf("%v decides after %v, want the heir %s soon", s.decider(p).id, took, heir.id)
	}
	old.stop()
	clear(s.hidden)
	s.run(t, 10*time.Second)
	s.checkEnd()
	s.run(t, 0)
}

// TestOlderBootStops checks that a boot does nothing more once it hears of a newer one.
func TestOlderBootStops(t *testing.T) {
	m, now := machineOf(t, 3)
	beatAll(m, now+m.o.Heartbeat, others(m, false))
	now += m.o.Heartbeat + 1
	if !m.Decides(0, now) {
		t.Fatal("does not decide")
	}
	fx := m.Step(View{Members: []Member{{ID{"n00", 2}, Serving}, {ID{"n01", 1}, Serving}}}, now)
	if m.Decides(0, now) || m.Voter() {
		t.Errorf("decides %v, votes %v, want false, false", m.Decides(0, now), m.Voter())
	}
	if !slices.ContainsFunc(fx.Leases, func(l Lease) bool { return l.Partition == 0 && l.Until <= now }) {
		t.Error("the effects do not say so")
	}
	prepare := Entry{Kind: Prepare, Partition: 0, Ballot: ballotAbove(1<<60, 1)}
	if fx := m.Step(Received{Message{From: ID{"n01", 1}, To: m.self, Epoch: 1, Entries: []Entry{prepare}}}, now); len(fx.Messages) > 0 {
		t.Errorf("answers %+v", fx.Messages)
	}
}

// TestProofIsOfOneBoot checks that a proof that a boot has ended says nothing of an older
// one, which may still run (seed 498 of the first version). That one counts as dead when it has no
// majority in reach any more.
func TestProofIsOfOneBoot(t *testing.T) {
	m, now := machineOf(t, 5)
	older, newer := ID{"n01", 1}, ID{"n01", 2}
	m.Step(Received{Message{From: newer, To: m.self, Epoch: 1}}, now)
	m.Step(Dead{newer}, now)
	if m.dead(older) || !m.dead(newer) || !m.ended(older) {
		t.Errorf("dead: %v, %v, ended %v, want false, true, true", m.dead(older), m.dead(newer), m.ended(older))
	}
	if m.mayAcceptRoster(m.self, Roster{Epoch: 2, Names: without(m.roster.Names, "n01")}, false) {
		t.Error("agrees to remove a member whose older boot may still decide")
	}
	m.Step(Tick{}, now+withDrift(m.o.Contact)-1)
	if m.dead(older) {
		t.Error("dead too early")
	}
	m.Step(Tick{}, now+withDrift(m.o.Contact))
	if !m.dead(older) {
		t.Error("not dead when its contact must be over")
	}
	m, now = machineOf(t, 5)
	m.Step(Received{Message{From: newer, To: m.self, Epoch: 1}}, now)
	m.Step(Dead{older}, now)
	if !m.dead(older) || m.dead(newer) {
		t.Errorf("dead: %v, %v, want true, false", m.dead(older), m.dead(newer))
	}
}

// TestProofAfterTheNextBoot: a proof that a boot has ended counts as well if the next boot
// was met before. Without it a member that was started again could not leave for a minute.
func TestProofAfterTheNextBoot(t *testing.T) {
	m, now := machineOf(t, 5)
	older, newer := ID{"n01", 1}, ID{"n01", 2}
	m.Step(Received{Message{From: newer, To: m.self, Epoch: 1}}, now)
	without := Roster{Epoch: 2, Names: without(m.roster.Names, "n01")}
	if m.mayAcceptRoster(newer, without, true) {
		t.Error("agrees that a member leaves whose older boot may still decide")
	}
	m.Step(Dead{older}, now)
	if !m.mayAcceptRoster(newer, without, true) {
		t.Error("does not agree that a member leaves whose older boot is dead")
	}
}

// TestVotesOfOlderBootsAreDropped checks that a voter tells a candidate of a newer boot
// before it votes, and that the candidate then does not count the votes of the older one.
func TestVotesOfOlderBootsAreDropped(t *testing.T) {
	older, newer := ID{"n01", 1}, ID{"n01", 2}
	voter, now := machineOf(t, 5)
	voter.Step(Received{Message{From: newer, To: voter.self, Epoch: 1}}, now)
	candidate := ID{"n02", 1}
	fx := voter.Step(Received{Message{From: candidate, To: voter.self, Epoch: 1, Entries: []Entry{
		{Kind: Prepare, Partition: 0, Ballot: ballotAbove(1<<40, 1)},
		{Kind: Prepare, Partition: 1, Ballot: ballotAbove(1<<40, 1)},
	}}}, now)
	var kinds []Kind
	for _, msg := range fx.Messages {
		for _, e := range msg.Entries {
			if kinds = append(kinds, e.Kind); e.Kind == NewBoot && e.Value.Owner != newer {
				t.Errorf("tells of %s, want %s", e.Value.Owner, newer)
			}
		}
	}
	if want := []Kind{NewBoot, Promise, Promise}; !slices.Equal(kinds, want) {
		t.Errorf("answers with the kinds %v, want %v", kinds, want)
	}

	m, now := machineOf(t, 5)
	m.propose(0, changeHeir, ID{})
	promise := Entry{Kind: Promise, Partition: 0, Ballot: m.parts[0].proposal.ballot}
	m.Step(Received{Message{From: older, To: m.self, Epoch: 1, Entries: []Entry{promise}}}, now)
	if r := m.parts[0].proposal; len(r.promises) != 2 {
		t.Fatalf("%d promises, want 2", len(r.promises))
	}
	told := []Entry{{Kind: NewBoot, Value: Arrangement{Owner: newer}}, promise}
	m.Step(Received{Message{From: ID{"n03", 1}, To: m.self, Epoch: 1, Entries: told}}, now)
	if r := m.parts[0].proposal; r.phase != 1 || len(r.promises) != 2 {
		t.Errorf("phase %d with %d promises, want 1 with 2: that of %s does not count", r.phase, len(r.promises), older)
	}
}

// TestOlderBootMayRemember: a member that was started again believes that nobody remembers
// more than all others say only if its last boot does not run any more. With the last boot of
// another member that one may be a majority (seed 506260).
func TestOlderBootMayRemember(t *testing.T) {
	t.Run("asked", func(t *testing.T) {
		m, now := machineOf(t, 3)
		older, newer := ID{"n01", 1}, ID{"n01", 2}
		says := func(now time.Duration) bool {
			fx := m.Step(Received{Message{From: newer, To: m.self, Epoch: 1, Entries: []Entry{{Kind: AskVotes}}}}, now)
			for _, e := range fx.Messages[0].Entries {
				if e.Kind == NewBoot && e.Value.Owner == newer {
					return true
				}
			}
			return false
		}
		if !says(now) || !says(now+m.o.ForgetAfter()-1) {
			t.Error("does not say that an older boot may run")
		}
		if says(now + m.o.ForgetAfter()) {
			t.Error("says so for ever")
		}
		m, now = machineOf(t, 3)
		m.Step(Dead{older}, now)
		if says(now) {
			t.Error("says so of a dead boot")
		}
	})
	t.Run("asks", func(t *testing.T) {
		m, err := New(ID{"n00", 2}, Defaults(8), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		answer := func(name string, entries ...Entry) {
			m.Step(Received{Message{From: ID{name, 1}, To: m.self, Epoch: 1, Entries: entries}}, time.Hour)
		}
		names := []string{"n00", "n01", "n02"}
		answer("n01", Entry{Kind: RosterIs, Roster: Roster{Epoch: 1, Names: names}})
		answer("n01", Entry{Kind: NewBoot, Value: Arrangement{Owner: m.self}}, Entry{Kind: VotesEnd, Flag: true})
		answer("n02", Entry{Kind: VotesEnd})
		if m.Voter() {
			t.Error("votes while its last boot may run")
		}
		asked := false
		for _, msg := range m.Step(Tick{}, time.Hour+m.o.VoteTimeout*2).Messages {
			asked = asked || msg.To.Name == "n01" && slices.ContainsFunc(msg.Entries, func(e Entry) bool { return e.Kind == AskVotes })
		}
		if !asked {
			t.Error("does not ask again")
		}
		answer("n01", Entry{Kind: VotesEnd, Flag: true})
		if !m.Voter() {
			t.Error("does not vote")
		}
	})
}
