// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"math/bits"
	"time"
)

// repayEvery is the time between two requests to report a journal.
const repayEvery = 500 * time.Millisecond

// calmWalk is the time between two looks at all partitions by a member that is alone and
// owns all of them: no time that passes changes anything there.
const calmWalk = time.Second

// NextTick returns when the next [Tick] is due if no other event comes before: after
// [TickInterval] while there is something to do, and otherwise with the next heartbeat. Each
// event may change it, so a host asks after each. To tick earlier does no harm.
func (m *Machine) NextTick() time.Duration {
	soon := m.ticked + TickInterval
	if m.superseded || !m.calm() {
		return soon
	}
	return max(soon, m.nextWalk)
}

// calm reports whether nothing happens between two heartbeats but what other events say.
func (m *Machine) calm() bool {
	if m.roster.Epoch == 0 || !m.ready || m.settled != m.roster.Epoch || m.rosterChange != nil || m.leaving || m.forget != "" || m.transfersEnded {
		return false
	}
	for i := range m.peers {
		if m.peers[i].tells || !m.roster.has(m.peers[i].Name) {
			return false
		}
	}
	for _, word := range m.busy {
		if word != 0 {
			return false
		}
	}
	return true
}

// alone reports whether this member is the whole cluster, and owns all partitions.
func (m *Machine) alone() bool {
	if !m.Voter() || len(m.roster.Names) != 1 || len(m.peers) > 0 || m.leaving {
		return false
	}
	for i := range m.parts {
		if p := &m.parts[i]; p.known.Owner != m.self || !p.known.Heir.IsZero() || p.stale || p.journal || p.held != 0 || p.warming != 0 || m.isBusy(i) {
			return false
		}
	}
	return true
}

// isBusy reports whether the next tick has to look at a partition, and not only the next
// heartbeat.
func (m *Machine) isBusy(i int) bool {
	p := &m.parts[i]
	if p.proposal != nil {
		return true
	}
	return p.known.Owner == m.self && (p.export != nil || !p.known.Heir.IsZero() && !p.heir.covers(p.copy.Seq))
}

// tick looks at the partitions with something to do, and at all of them once per
// heartbeat.
func (m *Machine) tick() {
	m.ticked = m.now
	m.bootstrap()
	m.collectVotes()
	m.tickRoster()
	m.tell()
	if m.now >= m.nextWalk {
		m.nextWalk = m.now + m.o.Heartbeat
		m.ping()
		if !m.rests() {
			m.walk()
		}
		if m.alone() {
			m.nextWalk = m.now + calmWalk
		}
	} else if m.transfersEnded {
		m.startTransfers()
	}
	m.transfersEnded = false
	for w, word := range m.busy {
		for ; word != 0; word &= word - 1 {
			i := w*64 + bits.TrailingZeros64(word)
			p := &m.parts[i]
			if p.proposal != nil {
				m.tickProposal(i)
			}
			if p.known.Owner == m.self {
				m.flush(i)
				m.advanceExport(i)
			}
			if !m.isBusy(i) {
				m.busy.clear(i)
			}
		}
	}
}

// walk does what is due for every partition.
func (m *Machine) walk() {
	m.updateContact()
	transfers, rest := m.transfers(), true
	for i := range m.parts {
		p := &m.parts[i]
		if p.warming != 0 && m.now-p.warmedAt > 5*time.Second {
			p.warming = 0
			m.touch(i)
		}
		if p.held != 0 && p.warming == 0 {
			m.send(p.known.Owner, Entry{Kind: Retry, Partition: i, Transfer: p.held})
		}
		switch {
		case p.stale:
			m.propose(i, resolve, ID{})
		case p.known.Owner == m.self:
			m.tend(i, &transfers)
		case p.proposal == nil && m.mayTakeOver(i):
			m.propose(i, takeOver, ID{})
		default:
			m.dropIfUseless(i)
		}
		if p.journal && m.now >= p.repayAt && p.known.Term != 0 {
			p.repayAt = m.now + repayEvery
			m.fx.Repay = append(m.fx.Repay, Repay{Partition: i, Owner: p.known.Owner})
		}
		rest = rest && m.atRest(p)
	}
	m.numberBeats()
	if m.restsUntil = never; rest {
		m.restsUntil = m.now + m.o.Lease/4
	}
}

func (m *Machine) ping() {
	for i := range m.peers {
		m.send(m.peers[i].ID, Entry{Kind: Ping, Sent: m.now, Digest: m.digest, Flag: !m.leaving})
		if p := &m.peers[i]; p.asks.granted() {
			m.send(p.ID, Entry{Kind: BeatAll, Transfer: p.asks.number, Sent: m.now})
		}
	}
}

// receive handles the entries of a message in order.
func (m *Machine) receive(msg Message) {
	if msg.To != m.self {
		return // it was meant for an earlier boot
	}
	p := m.meet(msg.From)
	if p == nil {
		return
	}
	p.heard = m.now
	if msg.Epoch < m.roster.Epoch {
		m.send(msg.From, Entry{Kind: RosterIs, Roster: m.roster})
	}
	for n := range msg.Entries {
		e := &msg.Entries[n]
		if e.Partition < 0 || e.Partition >= len(m.parts) || max(e.Ballot, e.Accepted, e.Value.Term)>>tagBits > lastRound {
			continue
		}
		m.handle(&msg, e)
	}
	m.onAcks(&msg)
	m.onBeats(&msg)
	m.onGrants(&msg)
}

func (m *Machine) handle(msg *Message, e *Entry) {
	switch e.Kind {
	case Ping:
		m.onPing(msg, e)
	case Pong:
		if p := m.peer(msg.From.Name); p != nil && e.Sent > p.contact {
			p.contact = e.Sent
		}
	case Known:
		m.onKnown(e)
	case AskKnown:
		if p := m.peer(msg.From.Name); !p.tells {
			p.tells, p.tellFrom = true, 0
		}
	case Ask:
		m.onAsk(msg, e)
	case Offer:
		m.onOffer(msg, e)
	case Retry:
		m.onRetry(msg, e)
	case Prepare:
		m.onPrepare(msg, e)
	case Promise:
		m.onPromise(msg, e)
	case Accept:
		m.onAccept(msg, e)
	case Accepted:
		m.onAccepted(msg, e)
	case Refused:
		m.onRefused(e)
	case BeatAll:
		if !e.Flag {
			m.onBeatAll(msg, e)
		}
	case GrantAll:
		m.onGrantAll(msg, e)
	case NewBoot:
		m.meet(e.Value.Owner)
	default:
		m.handleRoster(msg, e)
	}
}

// tellAtOnce is how many arrangements a tick tells a member that has asked for all. All of
// them at once would keep both sides from everything else for some 20 ms.
const tellAtOnce = 256

// tell goes on telling members all arrangements.
func (m *Machine) tell() {
	for n := range m.peers {
		o := &m.peers[n]
		if !o.tells {
			continue
		}
		end := min(o.tellFrom+tellAtOnce, len(m.parts))
		for i := o.tellFrom; i < end; i++ {
			if p := &m.parts[i]; p.known.Term != 0 {
				m.send(o.ID, Entry{Kind: Known, Partition: i, Value: p.known, Flag: p.synced})
			}
		}
		o.tellFrom, o.tells = end, end < len(m.parts)
	}
}

// While arrangements change, members hear of them one after the other, so that digests
// differ though nothing was missed. A member asks for all of them after maxDiffers pings
// with other digests than its own, or after steadyDiffers of which both digests stayed the
// same.
const (
	steadyDiffers = 3
	maxDiffers    = 10
)

// askEvery is the time between two requests for all arrangements: the answer to the first
// one is often enough.
const askEvery = 400 * time.Millisecond

// onPing answers, and asks for all arrangements if the other side has known
// others for some time.
func (m *Machine) onPing(msg *Message, e *Entry) {
	p := m.peer(msg.From.Name)
	p.stays = e.Flag
	if !m.shuns(p.Name) {
		p.answered = m.now
		m.send(msg.From, Entry{Kind: Pong, Sent: e.Sent})
	}
	steady := e.Digest == p.digest && m.digest == p.mine
	p.digest, p.mine = e.Digest, m.digest
	if e.Digest == m.digest {
		p.differs, p.steady = 0, 0
		return
	}
	p.differs++
	if p.steady++; !steady {
		p.steady = 1
	}
	if (p.steady >= steadyDiffers || p.differs >= maxDiffers) && m.now >= max(p.nextKnown, m.nextKnown) {
		p.nextKnown, m.nextKnown = m.now+time.Second, m.now+askEvery
		m.send(msg.From, Entry{Kind: AskKnown})
	}
}
