// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"slices"
	"time"
)

// The arrangement of a partition is a register that the roster keeps by voting. The
// algorithm is CASPaxos (D. Rystsov, 2018), that is Paxos with a value that may be
// replaced: a candidate asks a majority to promise a ballot, learns the value with
// the highest ballot that any of them accepted, computes the next value from it,
// and asks a majority to accept that.
//
// A vote counts only within [Options.VoteTimeout] of the question. A voter that has
// lost its memory relies on that: see collectVotes.

// reason is why a candidate proposes.
type reason uint8

const (
	changeHeir reason = iota // the owner goes on with another heir, or with none
	move                     // the owner hands over
	takeOver                 // the owner is gone or its lease is over, or there is no owner
	resolve                  // to learn the current value
)

// claimWait is how long a candidate waits for members beyond the majority, which
// may have fresher copies.
const claimWait = 150 * time.Millisecond

// claimPatience is how long it waits if no copy of the last owner was found.
const claimPatience = 2 * time.Second

// proposal is an attempt of this member to change the register of a partition.
type proposal struct {
	reason  reason
	target  ID     // of changeHeir and move
	base    uint64 // the term that is to be replaced
	ballot  uint64
	phase   int  // 0: waiting for retryAt; 1: for promises; 2: for acceptance
	sent    bool // whether an acceptance was ever asked for: it may be chosen at any time
	seen    uint64
	tries   int
	created time.Duration
	reached time.Duration // when a majority had first promised, 0: not yet
	heirEnd time.Duration // when so many first found the heir dead that it grants no more leases, 0: not yet
	started time.Duration
	retryAt time.Duration

	promises []promise
	accepts  []string
	value    Arrangement
}

// promise is the answer of a voter in phase 1.
type promise struct {
	from                ID
	accepted            uint64
	value               Arrangement
	copy                Copy
	ownerDead, heirDead bool
}

// sticky reports whether a proposal of this member may be chosen at any time.
func (p *partition) sticky() bool { return p.proposal != nil && p.proposal.sent }

// propose starts a proposal, unless there is one.
func (m *Machine) propose(i int, why reason, target ID) {
	p := &m.parts[i]
	if p.proposal != nil || !m.Voter() {
		return
	}
	m.endList(p.beats)
	p.proposal = &proposal{reason: why, target: target, base: p.known.Term, created: m.now}
	m.touch(i)
	m.prepare(i)
}

// prepare starts phase 1 with a new ballot.
func (m *Machine) prepare(i int) {
	p := &m.parts[i]
	r := p.proposal
	if !m.Voter() {
		m.retryLater(r)
		return
	}
	r.ballot = ballotAbove(max(p.promised, r.seen, m.floor), m.tag)
	r.phase, r.started, r.accepts = 1, m.now, nil
	p.promised, m.voted = r.ballot, m.now
	r.promises = append(r.promises[:0], promise{
		from: m.self, accepted: p.accepted, value: p.value, copy: p.copy, ownerDead: m.dead(p.known.Owner), heirDead: m.dead(p.known.Heir),
	})
	m.sendVoters(Entry{Kind: Prepare, Partition: i, Ballot: r.ballot, Value: p.known})
	m.endPhase1(i)
}

// retryLater schedules the next attempt. The delay differs between members, so that
// rivals do not repel each other for ever.
func (m *Machine) retryLater(r *proposal) {
	r.phase, r.promises, r.accepts = 0, nil, nil
	r.tries++
	spread := uint64(min(r.tries, 6)) * 30
	jitter := (uint64(m.tag)*0x9e3779b97f4a7c15 + uint64(r.tries)*0xbf58476d1ce4e5b9) >> 40 % spread
	r.retryAt = m.now + time.Duration(10+jitter)*time.Millisecond
}

// tickProposal repeats what got no answer.
func (m *Machine) tickProposal(i int) {
	p := &m.parts[i]
	r := p.proposal
	late := m.now-r.started >= m.o.VoteTimeout
	switch {
	case r.phase != 0 && late:
		m.retryLater(r)
	case r.phase == 0 && m.now >= r.retryAt:
		if !r.sent && !m.stillWanted(i) {
			p.proposal = nil
			m.touch(i)
			return
		}
		m.prepare(i)
	case r.phase == 1:
		m.endPhase1(i)
	}
}

// stillWanted reports whether the reason of a proposal still holds.
func (m *Machine) stillWanted(i int) bool {
	p := &m.parts[i]
	r := p.proposal
	switch r.reason {
	case changeHeir:
		if p.known.Owner != m.self {
			return false
		}
		if r.target.IsZero() {
			return !p.known.Heir.IsZero() && (m.heirFails(i) || m.staysAlone(p.known.Heir))
		}
		return p.export != nil && p.export.to == r.target
	case move:
		return p.known.Owner == m.self && p.sealed && p.export != nil && p.export.to == r.target
	case takeOver:
		return m.mayTakeOver(i)
	}
	return p.stale
}

// votes reports whether a message of this kind may be answered: both sides must
// have the same roster, and this member must remember how it voted.
func (m *Machine) votesFor(msg *Message) bool {
	if !m.Voter() || msg.Epoch != m.roster.Epoch || !m.roster.has(msg.From.Name) {
		return false
	}
	m.tellBoots(msg.From)
	return true
}

func (m *Machine) onPrepare(msg *Message, e *Entry) {
	p := &m.parts[e.Partition]
	if !m.votesFor(msg) {
		return
	}
	if e.Ballot < p.promised {
		m.send(msg.From, Entry{Kind: Refused, Partition: e.Partition, Ballot: e.Ballot, Accepted: p.promised})
		return
	}
	p.promised, m.voted = e.Ballot, m.now
	m.send(msg.From, Entry{
		Kind: Promise, Partition: e.Partition, Ballot: e.Ballot, Accepted: p.accepted, Value: p.value, Copy: p.copy,
		OwnerDead: m.dead(e.Value.Owner), HeirDead: m.dead(e.Value.Heir),
	})
}

// counts reports whether a vote counts for a proposal that began at a time: it is for its
// ballot, not late, and of a member of the present roster.
func (m *Machine) counts(msg *Message, e *Entry, ballot uint64, began time.Duration) bool {
	return e.Ballot == ballot && m.now-began < m.o.VoteTimeout && msg.Epoch == m.roster.Epoch && m.roster.has(msg.From.Name)
}

func (m *Machine) onPromise(msg *Message, e *Entry) {
	r := m.parts[e.Partition].proposal
	if r == nil || r.phase != 1 || !m.counts(msg, e, r.ballot, r.started) {
		return
	}
	r.promises = slices.DeleteFunc(r.promises, func(o promise) bool { return o.from.Name == msg.From.Name })
	r.promises = append(r.promises, promise{
		from: msg.From, accepted: e.Accepted, value: e.Value, copy: e.Copy, ownerDead: e.OwnerDead, heirDead: e.HeirDead,
	})
	m.endPhase1(e.Partition)
}

// endPhase1 goes on with phase 2 once a majority has promised and the next value
// is known.
func (m *Machine) endPhase1(i int) {
	p := &m.parts[i]
	r := p.proposal
	if len(r.promises) < m.roster.majority() {
		return
	}
	if r.reached == 0 {
		r.reached = m.now
	}
	var best promise
	for _, o := range r.promises {
		if o.accepted > best.accepted {
			best = o
		}
	}
	current := best.value
	if p.known.Term > current.Term {
		current = p.known
	}
	next, verdict := current, goOn
	if current.Term == p.known.Term {
		next, verdict = m.next(i, r, current)
	}
	switch verdict {
	case wait:
		return
	case giveUp:
		if !r.sent {
			p.proposal = nil
			m.touch(i)
			return
		}
		next = current
	case goOn:
	}
	if p.promised != r.ballot {
		r.seen = max(r.seen, p.promised)
		m.retryLater(r)
		return
	}
	m.accept(i, next)
}

// accept starts phase 2.
func (m *Machine) accept(i int, value Arrangement) {
	p := &m.parts[i]
	r := p.proposal
	if !r.sent && p.known.Owner == m.self && p.known.Heir.IsZero() {
		// Someone else may complete this proposal. Until this member knows, it relies on
		// the heir that is proposed, who waits for this long. If the member is removed
		// from the roster instead, its contact with a majority and a lease are over.
		p.leaseUntil = never
		if m.inContact() {
			p.leaseUntil = m.now + m.o.Lease
		}
	}
	r.phase, r.sent, r.started, r.value = 2, true, m.now, value
	r.accepts = append(r.accepts[:0], m.self.Name)
	p.accepted, p.value, m.voted = r.ballot, value, m.now
	m.sendVoters(Entry{Kind: Accept, Partition: i, Ballot: r.ballot, Value: value})
	m.touch(i)
	m.endPhase2(i)
}

func (m *Machine) onAccept(msg *Message, e *Entry) {
	p := &m.parts[e.Partition]
	if !m.votesFor(msg) {
		return
	}
	if e.Ballot < p.promised {
		m.send(msg.From, Entry{Kind: Refused, Partition: e.Partition, Ballot: e.Ballot, Accepted: p.promised})
		return
	}
	p.promised, p.accepted, p.value, m.voted = e.Ballot, e.Ballot, e.Value, m.now
	m.send(msg.From, Entry{Kind: Accepted, Partition: e.Partition, Ballot: e.Ballot})
}

func (m *Machine) onAccepted(msg *Message, e *Entry) {
	r := m.parts[e.Partition].proposal
	if r == nil || r.phase != 2 || !m.counts(msg, e, r.ballot, r.started) || slices.Contains(r.accepts, msg.From.Name) {
		return
	}
	r.accepts = append(r.accepts, msg.From.Name)
	m.endPhase2(e.Partition)
}

// endPhase2 ends a proposal that a majority has accepted, and announces it.
func (m *Machine) endPhase2(i int) {
	p := &m.parts[i]
	r := p.proposal
	if len(r.accepts) < m.roster.majority() {
		return
	}
	p.stale = false
	if r.reason == takeOver && r.value.Term == r.ballot && r.value.Base == (Copy{}) && p.known.Term != 0 {
		m.fx.Lost = append(m.fx.Lost, i)
	}
	m.learn(i, r.value)
	p.proposal = nil
	m.touch(i)
	m.sendAll(Entry{Kind: Known, Partition: i, Value: p.known, Flag: p.synced})
}

func (m *Machine) onRefused(e *Entry) {
	r := m.parts[e.Partition].proposal
	if r == nil || r.phase == 0 || r.ballot != e.Ballot {
		return
	}
	r.seen = max(r.seen, e.Accepted)
	m.retryLater(r)
}
