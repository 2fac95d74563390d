// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"slices"
	"time"
)

// A member that has just started, or joined the roster, has forgotten or never had
// votes that others count on. It votes only after it has the votes of so many
// others that every majority of the past is among them, or those of all others, if more
// have forgotten theirs. It asks only after [Options.VoteTimeout]: until then others may
// count a vote of its last boot for a proposal that those whom it asks have not accepted yet.
//
// The votes of all others say nothing of the last boot of this member if that still runs: with
// the older boots of others it may be a majority that goes on. So a member that has met that
// boot says so, until it is proven dead or has had no answer for [Options.ForgetAfter].

// votesFrom says that the votes of a member were received in this epoch.
type votesFrom struct {
	name    string
	voter   bool
	settled bool // it has what a majority of the rosters before knew
	older   bool // it has met an older boot of this member that may still run
}

// collectEvery is the time between two requests for votes.
const collectEvery = 200 * time.Millisecond

// A member that votes already asks others only to know what a majority of the roster before
// knew, before the roster changes again, and before others have to know it. If it voted within
// settleCalm, others are about to vote as well: their votes differ from its own until then, and
// each would send all of its votes. So it waits for a pause, for settleWait at most, unless a
// member that does not vote yet has asked it.
const (
	settleCalm = 200 * time.Millisecond
	settleWait = 2 * time.Second
)

// busyVoting reports whether votes are better collected later.
func (m *Machine) busyVoting() bool {
	return m.ready && !m.asked && m.now-m.voted < settleCalm && m.now-m.collects < settleWait
}

// collectVotes asks for the votes of others until this member may vote, and has
// what a majority knows in this epoch.
func (m *Machine) collectVotes() {
	if !m.roster.has(m.self.Name) || m.ready && m.settled == m.roster.Epoch || m.now < max(m.nextCollect, m.booted+withDrift(m.o.VoteTimeout)) || m.busyVoting() {
		return
	}
	m.nextCollect = m.now + collectEvery
	// As many as are needed, others in the next round.
	n, asked := len(m.roster.Names), 0
	for i := 0; i < n && asked < m.roster.majority(); i++ {
		name := m.roster.Names[(m.nextAsked+i)%n]
		p := m.peer(name)
		if p == nil || slices.ContainsFunc(m.votesFrom, func(v votesFrom) bool {
			return v.name == name && v.voter && (m.ready || v.settled && !v.older)
		}) {
			continue
		}
		asked++
		m.send(p.ID, Entry{Kind: AskVotes, Digest: m.voteDigest(), Flag: m.ready})
	}
	m.nextAsked = (m.nextAsked + max(1, asked)) % n
	m.countVotes()
}

// voteDigest is equal for members that have the same votes, as they have when
// nothing is in progress. Then they are not sent.
func (m *Machine) voteDigest() (sum uint64) {
	for i := range m.parts {
		p := &m.parts[i]
		sum += digestOf(2*i, p.promised, false) + digestOf(2*i+1, p.accepted, false)
	}
	return sum
}

// onAskVotes sends all votes of this member in one message.
func (m *Machine) onAskVotes(msg *Message, e *Entry) {
	if msg.Epoch != m.roster.Epoch || !m.roster.has(msg.From.Name) || !m.roster.has(m.self.Name) {
		return
	}
	m.tellBoots(msg.From)
	same := e.Digest == m.voteDigest()
	for i := range m.parts {
		if p := &m.parts[i]; p.promised != 0 && !same {
			m.send(msg.From, Entry{Kind: Vote, Partition: i, Ballot: p.promised, Accepted: p.accepted, Value: p.value})
		}
	}
	if m.replacing(m.peer(msg.From.Name)) {
		m.send(msg.From, Entry{Kind: NewBoot, Value: Arrangement{Owner: msg.From}})
	}
	m.asked = m.asked || !e.Flag
	v, settled := &m.rosterVote, uint64(0)
	if m.settled == m.roster.Epoch {
		settled = 1
	}
	m.send(msg.From, Entry{Kind: VotesEnd, Flag: m.ready, Transfer: settled, Ballot: v.promised, Accepted: v.accepted, Roster: v.value})
}

// onVote remembers a vote of another member as if it were this member's own.
func (m *Machine) onVote(msg *Message, e *Entry) {
	if msg.Epoch != m.roster.Epoch {
		return
	}
	p := &m.parts[e.Partition]
	p.promised = max(p.promised, e.Ballot)
	if e.Accepted > p.accepted {
		p.accepted, p.value = e.Accepted, e.Value
	}
}

func (m *Machine) onVotesEnd(msg *Message, e *Entry) {
	if msg.Epoch != m.roster.Epoch || !m.roster.has(msg.From.Name) {
		return
	}
	v := &m.rosterVote
	v.promised = max(v.promised, e.Ballot)
	if e.Accepted > v.accepted {
		v.cast = v.cast && slices.Equal(v.value.Names, e.Roster.Names)
		v.accepted, v.value, v.at = e.Accepted, e.Roster, m.now
	}
	m.votesFrom = slices.DeleteFunc(m.votesFrom, func(o votesFrom) bool { return o.name == msg.From.Name })
	older := slices.ContainsFunc(msg.Entries, func(e Entry) bool { return e.Kind == NewBoot && e.Value.Owner == m.self })
	m.votesFrom = append(m.votesFrom, votesFrom{name: msg.From.Name, voter: e.Flag, settled: e.Transfer != 0, older: older})
	m.countVotes()
}

// countVotes decides whether this member may vote, and whether it is settled: whether it has what
// majorities of the rosters before knew. Some member of each has to tell it, or one that is
// settled.
func (m *Machine) countVotes() {
	n, voters, before, settled, older := len(m.roster.Names), 0, 0, false, false
	for _, v := range m.votesFrom {
		if v.voter {
			voters++
			settled = settled || v.settled
			if m.before.has(v.name) {
				before++
			}
		}
		older = older || v.older
	}
	if !m.ready && (settled && voters >= m.roster.inEach() || len(m.votesFrom) == n-1 && !older) {
		// Either some voter of every majority has answered, or everybody has: then
		// nobody remembers more, unless an older boot of this member still runs.
		m.ready = true
		m.walk()
	}
	if m.ready && (settled || voters+1 >= m.roster.majority() || before+1 >= m.before.inEach() && m.before.Epoch > 0) {
		m.settled = m.roster.Epoch
	}
}
