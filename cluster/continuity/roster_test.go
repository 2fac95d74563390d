// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"slices"
	"testing"
	"time"
)

// rosterBallot is above all ballots of these tests' machines.
const rosterBallot = 1 << 40

// hear delivers an entry of another member and returns the kinds of the answers to it.
func hear(m *Machine, now time.Duration, from string, e Entry) (kinds []Kind) {
	for _, msg := range m.Step(Received{Message{From: ID{from, 1}, To: m.self, Epoch: m.roster.Epoch, Entries: []Entry{e}}}, now).Messages {
		for _, answer := range msg.Entries {
			if msg.To.Name == from {
				kinds = append(kinds, answer.Kind)
			}
		}
	}
	return kinds
}

// TestMemberVotesForItsOwnRemovalLast: the others take over at once, so that it may not decide,
// or grant leases, any more. Two members need that vote: one may have voted for the other to
// leave, which came back instead (seed 701288 is of one that voted too early).
func TestMemberVotesForItsOwnRemovalLast(t *testing.T) {
	m, now := machineOf(t, 3)
	accept := func(name string, now time.Duration) bool {
		m.rosterVote = rosterVote{}
		next := Roster{Epoch: 2, Names: without(m.roster.Names, name)}
		return slices.Contains(hear(m, now, "n01", Entry{Kind: RosterAccept, Ballot: rosterBallot, Roster: next}), RosterAccepted)
	}
	pong := func(now time.Duration) {
		hear(m, now, "n01", Entry{Kind: Pong, Sent: now})
		m.walk()
	}
	if !accept("n00", now) || accept("n02", now) {
		t.Error("without any answer from others, it votes for the removal of another one, or not for its own")
	}
	m.rosterVote = rosterVote{}
	now += m.o.ForgetAfter() + time.Second
	pong(now)
	over := now + m.o.Contact + withDrift(m.o.Lease)
	if !m.inContact() || accept("n00", over-1) || !accept("n02", over-1) {
		t.Error("while it may decide, it votes for its own removal, or not for that of another one")
	}
	if !accept("n00", over) {
		t.Error("does not vote for its own removal when it cannot decide")
	}
	pong(over)
	if m.inContact() {
		t.Error("decides again though it has voted for its own removal")
	}
}

// TestReceivedVoteIsNotCast: a member that has the vote of another one may have answered the
// member to remove since then.
func TestReceivedVoteIsNotCast(t *testing.T) {
	m, now := machineOf(t, 3)
	now += m.o.ForgetAfter() + time.Second
	next := Roster{Epoch: 2, Names: without(m.roster.Names, "n02")}
	ping, accept := Entry{Kind: Ping}, Entry{Kind: RosterAccept, Ballot: rosterBallot, Roster: next}
	if !slices.Contains(hear(m, now, "n02", ping), Pong) {
		t.Fatal("a ping is not answered")
	}
	hear(m, now, "n01", Entry{Kind: VotesEnd, Flag: true, Ballot: rosterBallot, Accepted: rosterBallot, Roster: next})
	if m.rosterVote.accepted != rosterBallot {
		t.Fatal("the vote is not remembered")
	}
	if slices.Contains(hear(m, now, "n01", accept), RosterAccepted) {
		t.Error("votes to remove a member that it has just answered")
	}
	if slices.Contains(hear(m, now, "n02", ping), Pong) {
		t.Error("goes on answering, so that it can never vote")
	}
	now += m.o.ForgetAfter()
	if !slices.Contains(hear(m, now, "n01", accept), RosterAccepted) {
		t.Error("does not vote after a time without an answer")
	}
	// The same vote of another member, with a later ballot, does not take its own back.
	hear(m, now, "n01", Entry{Kind: VotesEnd, Flag: true, Ballot: 2 * rosterBallot, Accepted: 2 * rosterBallot, Roster: next})
	now += time.Hour
	if slices.Contains(hear(m, now, "n02", ping), Pong) {
		t.Error("answers a member that it has voted to remove")
	}
}

// TestProposerDoesNotAnswerWhomItRemoves: its own vote counts as those of others.
func TestProposerDoesNotAnswerWhomItRemoves(t *testing.T) {
	m, now := machineOf(t, 5)
	now += m.o.ForgetAfter() + time.Second
	m.Step(Forget{Name: "n02"}, now)
	m.Step(Tick{}, now)
	for _, name := range []string{"n01", "n03"} {
		hear(m, now, name, Entry{Kind: RosterPromise, Ballot: m.rosterChange.ballot, Flag: true})
	}
	if m.rosterVote.value.has("n02") || m.rosterVote.accepted == 0 || m.roster.Epoch != 1 {
		t.Fatalf("vote %+v, want one without n02 that is not chosen", m.rosterVote)
	}
	if slices.Contains(hear(m, now, "n02", Entry{Kind: Ping}), Pong) {
		t.Error("answers a member that it has voted to remove")
	}
	for _, name := range []string{"n04", "new"} {
		if !slices.Contains(hear(m, now, name, Entry{Kind: Ping}), Pong) {
			t.Errorf("does not answer %s", name)
		}
	}
}

// TestRefusedRemovalIsForgotten: a member that could not vote for a removal answers again
// when nobody has asked it for so long that it could have voted.
func TestRefusedRemovalIsForgotten(t *testing.T) {
	m, now := machineOf(t, 3)
	ping := Entry{Kind: Ping}
	hear(m, now, "n02", ping)
	hear(m, now, "n01", Entry{Kind: RosterAccept, Ballot: rosterBallot, Roster: Roster{Epoch: 2, Names: without(m.roster.Names, "n02")}})
	if slices.Contains(hear(m, now+m.o.ForgetAfter(), "n02", ping), Pong) {
		t.Error("answers before it could vote")
	}
	if !slices.Contains(hear(m, now+m.o.ForgetAfter()+completeAfter*m.o.VoteTimeout, "n02", ping), Pong) {
		t.Error("never answers again")
	}
}

// TestVotersCompleteARemoval: the member that has asked for the votes ends before it tells
// what came of them, and the one to remove is back. Those that have voted go on, so that it
// is removed and added again (seed 403918).
func TestVotersCompleteARemoval(t *testing.T) {
	s := calm(t, 5)
	was, proposer := s.node("n1").m.Roster(), s.node("n3")
	s.isolate("n0", true)
	s.run(t, s.o.ForgetAfter()+500*time.Millisecond)
	accept := Entry{Kind: RosterAccept, Ballot: rosterBallot, Roster: Roster{Epoch: was.Epoch + 1, Names: without(was.Names, "n0")}}
	for _, name := range []string{"n1", "n2"} {
		n := s.node(name)
		n.step(Received{Message{From: proposer.id, To: n.id, Epoch: was.Epoch, Entries: []Entry{accept}}})
		if !n.m.rosterVote.cast {
			t.Fatalf("%s does not vote", name)
		}
	}
	proposer.stop()
	s.isolate("n0", false)
	s.run(t, time.Second)
	s.start("n3", Joining, s.expect)
	s.until(t, 20*time.Second, "removed", func() bool { return s.node("n1").m.Roster().Epoch > was.Epoch && !s.node("n1").m.Roster().has("n0") })
	s.until(t, 10*time.Second, "a member again", func() bool { return s.node("n1").m.Roster().has("n0") })
	s.run(t, 10*time.Second)
	s.checkEnd()
	s.run(t, 0)
}

// TestVoterHasWhatEarlierRostersKnew: when a roster of five becomes one of four, two of the
// majority that has accepted a value may have been the removed member and one that has
// forgotten it. Two of the other three are not enough then, if none of them has asked the third.
func TestVoterHasWhatEarlierRostersKnew(t *testing.T) {
	m, err := New(ID{"n00", 2}, Defaults(8), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	hear(m, time.Hour, "n01", Entry{Kind: RosterIs, Roster: Roster{Epoch: 7, Names: []string{"n00", "n01", "n02", "n03"}}})
	hear(m, time.Hour, "n01", Entry{Kind: VotesEnd, Flag: true})
	hear(m, time.Hour, "n02", Entry{Kind: VotesEnd, Flag: true})
	if m.Voter() {
		t.Error("votes without what the majority of an earlier roster knew")
	}
	hear(m, time.Hour, "n02", Entry{Kind: VotesEnd, Flag: true, Transfer: 1})
	if !m.Voter() || m.settled != 7 {
		t.Errorf("votes: %v, settled in epoch %d, want true, 7", m.Voter(), m.settled)
	}
}

// TestVotersOfTheRosterBeforeSettle: they are those who know what its majority knew, so that
// new members, which wait for them, need not vote yet.
func TestVotersOfTheRosterBeforeSettle(t *testing.T) {
	for from, want := range map[string]uint64{"n01": 2, "n03": 1} {
		m, now := machineOf(t, 3)
		hear(m, now, "n01", Entry{Kind: RosterIs, Roster: Roster{Epoch: 2, Names: []string{"n00", "n01", "n02", "n03"}}})
		hear(m, now, from, Entry{Kind: VotesEnd, Flag: true})
		if m.settled != want {
			t.Errorf("with the votes of %s, settled in epoch %d, want %d", from, m.settled, want)
		}
	}
}

// TestRemovalNeedsAMajorityOfThoseWhoStay: the third member may have started a moment ago, and
// ask only this one what a majority knew (seed 701288).
func TestRemovalNeedsAMajorityOfThoseWhoStay(t *testing.T) {
	m, now := machineOf(t, 3)
	m.rosterChange = &rosterChange{want: Roster{Epoch: 2, Names: []string{"n00", "n01"}}, phase: 2, value: Roster{Epoch: 2, Names: []string{"n00", "n01"}}, accepts: []string{"n00"}, ballot: rosterBallot, started: now}
	hear(m, now, "n02", Entry{Kind: RosterAccepted, Ballot: rosterBallot})
	if m.roster.Epoch != 1 {
		t.Error("removed by its own vote")
	}
	hear(m, now, "n01", Entry{Kind: RosterAccepted, Ballot: rosterBallot})
	if m.roster.Epoch != 2 {
		t.Error("not removed")
	}
}

// TestLeaseWithoutContact: an owner without an heir that has no majority in contact decides
// nothing while members vote for its next heir: it may be removed meanwhile.
func TestLeaseWithoutContact(t *testing.T) {
	for _, contact := range []bool{true, false} {
		m, now := machineOf(t, 3)
		m.learn(0, Arrangement{Term: ballotAbove(1<<50, 7), Origin: ballotAbove(0, 7), Owner: m.self})
		if contact {
			hear(m, now, "n01", Entry{Kind: Pong, Sent: now})
			m.walk()
		}
		p := &m.parts[0]
		p.export = &export{stream: stream{to: ID{"n02", 1}, complete: true, seq: p.copy.Seq}}
		p.proposal = nil
		m.propose(0, changeHeir, p.export.to)
		hear(m, now, "n01", Entry{Kind: Promise, Ballot: p.proposal.ballot})
		if !p.sticky() {
			t.Fatal("nothing is proposed")
		}
		if got := m.Decides(0, now); got != contact {
			t.Errorf("in contact %v: decides %v", contact, got)
		}
	}
}
