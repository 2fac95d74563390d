// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"slices"
	"time"
)

// The roster changes by one member at a time, by a vote of a majority of its
// members, so that any majority of the old roster and any of the new one have a
// member in common (D. Ongaro, Consensus, 2014, section 4.1). The votes about the
// next roster are a register for each epoch, by the same algorithm as those of
// partitions.

// rosterVote is the vote of this member about the next roster.
type rosterVote struct {
	promised, accepted uint64
	value              Roster
	cast               bool          // accepted by this boot, and not only received from a member that did
	at                 time.Duration // when it was accepted, or received
}

// completeAfter is after how many times [Options.VoteTimeout] without a request to vote a
// member that has accepted a roster proposes it itself: the one that asked for the votes has
// ended, or cannot be heard.
const completeAfter = 10

// rosterChange is an attempt of this member to change the roster.
type rosterChange struct {
	want     Roster
	leave    bool // this member asks for its own removal
	ballot   uint64
	phase    int
	sent     bool
	seen     uint64
	tries    int
	started  time.Duration
	retryAt  time.Duration
	promises []rosterPromise
	accepts  []string
	value    Roster
}

type rosterPromise struct {
	name     string
	accepted uint64
	value    Roster
	agrees   bool // with the roster that was asked for
}

// bootstrap asks all expected members to form the first roster. All must agree, and
// each agrees to one set only.
func (m *Machine) bootstrap() {
	if m.roster.Epoch > 0 || indexOf(m.expected, m.self.Name) < 0 || len(m.agreed) > 0 && m.now < m.nextCollect {
		return
	}
	m.nextCollect = m.now + collectEvery
	m.agree(m.self.Name)
	for _, name := range m.expected {
		if p := m.peer(name); p != nil && m.roster.Epoch == 0 {
			m.send(p.ID, Entry{Kind: AskBootstrap, Roster: Roster{Names: m.expected}})
		}
	}
}

func (m *Machine) agree(name string) {
	if m.roster.Epoch > 0 || indexOf(m.expected, name) < 0 || slices.Contains(m.agreed, name) {
		return
	}
	m.agreed = append(m.agreed, name)
	if len(m.agreed) == len(m.expected) {
		m.adoptRoster(Roster{Epoch: 1, Names: m.expected})
	}
}

// adoptRoster takes over a roster that is chosen.
func (m *Machine) adoptRoster(r Roster) {
	if r.Epoch <= m.roster.Epoch {
		return
	}
	for i := range m.peers {
		if p := &m.peers[i]; m.roster.has(p.Name) && !r.has(p.Name) {
			p.stays = false // until it says that it stays
		}
	}
	m.noteFormer(r)
	missed := m.roster.Epoch > 0 && (r.Epoch > m.roster.Epoch+1 || !r.has(m.self.Name))
	m.before = Roster{}
	if m.Voter() && m.settled == m.roster.Epoch && r.Epoch == m.roster.Epoch+1 {
		m.before = m.roster
	}
	m.roster, m.rosterVote, m.rosterChange, m.votesFrom, m.nextCollect, m.shunned = r, rosterVote{}, nil, nil, m.now, ""
	m.collects, m.asked = m.now, false
	if m.member = r.has(m.self.Name) && !m.superseded; !m.member {
		m.ready = false
	}
	if m.forget != "" && !r.has(m.forget) {
		m.forget = ""
	}
	for i := range m.parts {
		p := &m.parts[i]
		m.endList(p.beats)
		if missed && p.known.Term != 0 {
			p.stale = true
		}
		if p.proposal != nil { // ask the new roster
			m.retryLater(p.proposal)
			p.proposal.retryAt = m.now
		}
		m.touch(i)
	}
	m.sendAll(Entry{Kind: RosterIs, Roster: r})
	m.updateContact()
	m.collectVotes()
	m.countVotes()
	m.noteLeft()
}

// noteLeft says that a member which is to leave may stop: it is not in the roster, and holds
// nothing. The others may have removed it before it was to leave, and it may still have to
// report charges then. If they add it and remove it again, it says so again.
func (m *Machine) noteLeft() {
	left := false
	if m.leaving && m.roster.Epoch > 0 && !m.roster.has(m.self.Name) {
		owned, heir, journals := m.Holdings()
		left = owned+heir+journals == 0
	}
	if left && !m.left {
		m.fx.Left = true
	}
	m.left = left
}

// tickRoster starts or repeats a change of the roster.
func (m *Machine) tickRoster() {
	m.noteLeft()
	if m.rosterChange == nil {
		if want, ok := m.wantedRoster(); ok {
			m.rosterChange = &rosterChange{want: want, leave: !want.has(m.self.Name), retryAt: m.now}
		}
	}
	r := m.rosterChange
	switch {
	case r == nil:
	case r.phase == 0 && m.now >= r.retryAt:
		if want, ok := m.wantedRoster(); !r.sent && (!ok || !slices.Equal(want.Names, r.want.Names)) {
			m.rosterChange = nil
			return
		}
		m.prepareRoster()
	case r.phase > 0 && m.now-r.started >= m.o.VoteTimeout:
		m.retryRosterLater()
	}
}

// wantedRoster returns the next roster that this member should propose.
func (m *Machine) wantedRoster() (Roster, bool) {
	if !m.Voter() || m.settled != m.roster.Epoch {
		return Roster{}, false
	}
	if v := &m.rosterVote; v.accepted != 0 && v.value.has(m.self.Name) && m.now-v.at > completeAfter*m.o.VoteTimeout {
		return v.value, true // it may be chosen, and nobody may know
	}
	next := Roster{Epoch: m.roster.Epoch + 1}
	if m.leaving {
		owned, heir, journals := m.Holdings()
		next.Names = without(m.roster.Names, m.self.Name)
		return next, owned+heir+journals == 0 && len(next.Names) > 0 && (len(next.Names) == 1 || !m.mayHaveLastCopy())
	}
	first := true // this member is the one that proposes
	for _, name := range m.roster.Names {
		if _, ok := m.usable(name); ok && name < m.self.Name {
			first = false
		}
	}
	for i := range m.peers {
		if p := &m.peers[i]; first && !m.roster.has(p.Name) && p.inView && p.stays && m.now-p.contact <= m.o.HeirSilence {
			next.Names = append(slices.Clone(m.roster.Names), p.Name)
			slices.Sort(next.Names)
			return next, true
		}
	}
	if p := m.peer(m.forget); p != nil && p.contact > m.forgetFrom {
		m.forget = "" // it runs
	}
	for _, name := range m.roster.Names {
		heard := m.booted
		if p := m.peer(name); p != nil {
			heard = max(heard, p.heard)
		}
		if name != m.self.Name && (name == m.forget || first && m.now-heard > m.o.Forget) {
			next.Names = without(m.roster.Names, name)
			return next, true
		}
	}
	return Roster{}, false
}

// mayHaveLastCopy reports whether this member has a copy of a partition whose heir is not
// known to have one. If the owner is lost, nobody asks a member that has left.
func (m *Machine) mayHaveLastCopy() bool {
	for i := range m.parts {
		if p := &m.parts[i]; p.present && p.copy.Complete && !p.synced {
			return true
		}
	}
	return false
}

func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}

func (m *Machine) retryRosterLater() {
	r := m.rosterChange
	r.phase, r.promises, r.accepts = 0, nil, nil
	r.tries++
	r.retryAt = m.now + time.Duration(20+(uint64(m.tag)+uint64(r.tries)*7919)%200)*time.Millisecond
}

func (m *Machine) prepareRoster() {
	r, v := m.rosterChange, &m.rosterVote
	if !m.Voter() {
		m.retryRosterLater()
		return
	}
	r.ballot = ballotAbove(max(v.promised, r.seen), m.tag)
	r.phase, r.started, r.accepts = 1, m.now, nil
	v.promised = r.ballot
	r.promises = append(r.promises[:0], rosterPromise{
		name: m.self.Name, accepted: v.accepted, value: v.value, agrees: m.mayAcceptRoster(m.self, r.want, r.leave),
	})
	m.sendVoters(Entry{Kind: RosterPrepare, Ballot: r.ballot, Roster: r.want, Flag: r.leave})
	m.endRosterPhase1()
}

func (m *Machine) endRosterPhase1() {
	r, v := m.rosterChange, &m.rosterVote
	if len(r.promises) < m.roster.majority() {
		return
	}
	value, best, agree := r.want, uint64(0), 0
	for _, o := range r.promises {
		if o.accepted > best {
			value, best = o.value, o.accepted
		}
		if o.agrees {
			agree++
		}
	}
	switch {
	case v.promised != r.ballot:
		r.seen = max(r.seen, v.promised)
		m.retryRosterLater()
		return
	case best == 0 && agree < m.roster.majority():
		return
	}
	r.phase, r.sent, r.started, r.value = 2, true, m.now, value
	r.accepts = r.accepts[:0]
	if m.mayAcceptRoster(m.self, value, r.leave) {
		r.accepts = append(r.accepts, m.self.Name)
		m.acceptRoster(r.ballot, value)
	} else {
		m.shun(value)
	}
	m.sendVoters(Entry{Kind: RosterAccept, Ballot: r.ballot, Roster: value, Flag: r.leave && !value.has(m.self.Name)})
	m.endRosterPhase2()
}

// endRosterPhase2 ends the vote for a roster. If a removed member has voted for it as well, a
// majority of those who stay must have, too: what only the removed member knows is lost to a
// member that has just started, and asks the others what a majority knew.
func (m *Machine) endRosterPhase2() {
	r, stay := m.rosterChange, 0
	for _, name := range r.accepts {
		if r.value.has(name) {
			stay++
		}
	}
	if len(r.accepts) >= m.roster.majority() && (stay == len(r.accepts) || stay >= r.value.majority()) {
		m.adoptRoster(r.value)
	}
}

// mayAcceptRoster reports whether this member may vote for a roster: a member is
// removed only if it asks for it, is gone, or cannot have had a majority in reach
// for so long that all leases that it granted or has are over. Since votes may
// have been known to the removed member only, this member must have the votes of
// a majority first.
func (m *Machine) mayAcceptRoster(from ID, r Roster, leave bool) bool {
	if r.Epoch != m.roster.Epoch+1 {
		return false
	}
	for _, name := range m.roster.Names {
		if r.has(name) {
			continue
		}
		p := m.peer(name)
		switch {
		case m.settled != m.roster.Epoch:
			return false
		case leave && from.Name == name && !m.replacing(p), m.rosterVote.cast && slices.Equal(m.rosterVote.value.Names, r.Names):
			// It holds nothing, or this member has not answered it since it voted so.
		case name == m.self.Name:
			if m.now < m.contactUntil+withDrift(m.o.Lease) {
				return false
			}
		case p != nil && m.dead(p.ID) && !m.replacing(p):
		case m.now < max(m.answeredAt(p), m.booted)+m.o.ForgetAfter():
			return false
		}
	}
	return true
}

// acceptRoster votes for a roster. A member that it removes is not answered from now on. If
// that is this member, it relies on no answers any more.
func (m *Machine) acceptRoster(ballot uint64, value Roster) {
	m.rosterVote = rosterVote{promised: ballot, accepted: ballot, value: value, cast: true, at: m.now}
}

// shun stops answering a member whose removal may have been voted for by some.
// Once it cannot have a majority in reach any more, this member votes for it too. If nobody
// asks it to do so by then, it answers again.
func (m *Machine) shun(r Roster) {
	for _, name := range m.roster.Names {
		if r.Epoch == m.roster.Epoch+1 && !r.has(name) && name != m.self.Name {
			m.shunned, m.shunnedUntil = name, m.now+m.o.ForgetAfter()+completeAfter*m.o.VoteTimeout
		}
	}
}

// shuns reports whether the pings of another member are not answered.
func (m *Machine) shuns(name string) bool {
	return name == m.shunned && m.now < m.shunnedUntil || m.votedOut(name)
}

// votedOut reports whether this boot has voted to remove a member.
func (m *Machine) votedOut(name string) bool {
	return m.rosterVote.cast && m.roster.has(name) && !m.rosterVote.value.has(name)
}

func (m *Machine) answeredAt(p *peer) time.Duration {
	if p == nil {
		return never
	}
	return p.answered
}

// handleRoster handles what concerns the roster and vote tables.
func (m *Machine) handleRoster(msg *Message, e *Entry) {
	r, v := m.rosterChange, &m.rosterVote
	counts := r != nil && m.counts(msg, e, r.ballot, r.started)
	switch e.Kind {
	case RosterIs:
		m.adoptRoster(e.Roster)
	case AskBootstrap:
		if m.roster.Epoch == 0 && len(m.expected) > 0 && slices.Equal(m.expected, e.Roster.Names) {
			m.send(msg.From, Entry{Kind: AgreeBootstrap, Roster: e.Roster})
		}
	case AgreeBootstrap:
		if slices.Equal(m.expected, e.Roster.Names) {
			m.agree(msg.From.Name)
		}
	case AskVotes:
		m.onAskVotes(msg, e)
	case Vote:
		m.onVote(msg, e)
	case VotesEnd:
		m.onVotesEnd(msg, e)
	case RosterPrepare:
		if m.votesFor(msg) && e.Ballot >= v.promised {
			v.promised = e.Ballot
			agrees := m.mayAcceptRoster(msg.From, e.Roster, e.Flag)
			m.send(msg.From, Entry{Kind: RosterPromise, Ballot: e.Ballot, Accepted: v.accepted, Roster: v.value, Flag: agrees})
		}
	case RosterPromise:
		if counts && r.phase == 1 {
			r.promises = slices.DeleteFunc(r.promises, func(o rosterPromise) bool { return o.name == msg.From.Name })
			r.promises = append(r.promises, rosterPromise{name: msg.From.Name, accepted: e.Accepted, value: e.Roster, agrees: e.Flag})
			m.endRosterPhase1()
		}
	case RosterAccept:
		switch {
		case !m.votesFor(msg) || e.Ballot < v.promised:
		case !m.mayAcceptRoster(msg.From, e.Roster, e.Flag):
			m.shun(e.Roster)
		default:
			m.acceptRoster(e.Ballot, e.Roster)
			m.send(msg.From, Entry{Kind: RosterAccepted, Ballot: e.Ballot})
		}
	case RosterAccepted:
		if counts && r.phase == 2 && !slices.Contains(r.accepts, msg.From.Name) {
			r.accepts = append(r.accepts, msg.From.Name)
			m.endRosterPhase2()
		}
	default:
	}
}
