// SPDX-License-Identifier: Apache-2.0

package continuity

// beat asks the heir for a lease, unless that is asked for by the number of a list.
func (m *Machine) beat(i int) {
	p := &m.parts[i]
	if p.known.Owner != m.self || p.stale || p.beats.granted() {
		return
	}
	if msg := m.message(p.known.Heir); msg != nil {
		if p.beats == nil {
			m.endList(m.peer(p.known.Heir.Name).asks) // it lacks this partition
		}
		if msg.Beats == nil {
			msg.Beats = make([]Beat, 0, m.peer(p.known.Heir.Name).beats)
		}
		msg.Sent = m.now
		msg.Beats = append(msg.Beats, Beat{Partition: uint32(i), Term: p.known.Term})
	}
}

// onBeats grants leases: until they are over, this member takes nothing over.
func (m *Machine) onBeats(msg *Message) {
	contact := m.inContact()
	var reply *Message // stays where it is: nothing else is sent meanwhile
	for _, b := range msg.Beats {
		i := int(b.Partition)
		if i >= len(m.parts) || b.Term>>tagBits > lastRound {
			continue
		}
		p := &m.parts[i]
		switch {
		case p.known.Term > b.Term:
			m.send(msg.From, Entry{Kind: Known, Partition: i, Value: p.known, Flag: p.synced})
			continue
		case p.known.Term < b.Term:
			m.send(msg.From, Entry{Kind: Ask, Partition: i, Ballot: b.Term})
			continue
		case p.known.Owner != msg.From || p.known.Heir != m.self || p.stale || p.sticky() || !contact:
			continue
		}
		if p.proposal != nil { // nothing was proposed yet
			p.proposal = nil
			m.touch(i)
		}
		p.granted = m.now + withDrift(m.o.Lease)
		if reply == nil {
			reply = m.message(msg.From)
		}
		if reply != nil {
			if reply.Grants == nil {
				reply.Grants = make([]Grant, 0, len(msg.Beats))
			}
			reply.Answered = msg.Sent
			reply.Grants = append(reply.Grants, Grant{Partition: b.Partition, Term: b.Term, Copy: p.copy})
		}
	}
	if reply != nil && len(reply.Grants) == len(msg.Beats) {
		m.grantAll(msg)
	}
}

// onGrants renews leases, counted from when the beats were sent.
func (m *Machine) onGrants(msg *Message) {
	for _, g := range msg.Grants {
		i := int(g.Partition)
		if i >= len(m.parts) {
			continue
		}
		p := &m.parts[i]
		if p.known.Owner != m.self || p.known.Term != g.Term || p.known.Heir != msg.From || p.stale {
			continue
		}
		p.heirHeard = max(p.heirHeard, msg.Answered)
		// A proposal of this member may be completed by another one, and the next heir
		// does not know of leases that this heir grants from now on.
		if until := msg.Answered + m.o.Lease; !p.sticky() && until > p.leaseUntil {
			p.leaseUntil = until
			m.show(i)
		}
		m.noteCopy(i, &p.heir, g.Copy)
	}
}

// onAsk tells an heir that it is one.
func (m *Machine) onAsk(msg *Message, e *Entry) {
	if p := &m.parts[e.Partition]; p.known.Term >= e.Ballot {
		m.send(msg.From, Entry{Kind: Known, Partition: e.Partition, Value: p.known, Flag: p.synced})
	}
}

// heirFails reports whether the heir is gone or has been silent for too long.
func (m *Machine) heirFails(i int) bool {
	p := &m.parts[i]
	return m.gone(p.known.Heir) || m.now-p.heirHeard > m.o.HeirSilence
}

// staysAlone reports whether the heir leaves and nobody else is left: then the owner goes on
// without it, so that it may leave.
func (m *Machine) staysAlone(heir ID) bool {
	p := m.peer(heir.Name)
	return len(m.roster.Names) == 2 && !m.leaving && p != nil && p.inView && p.state == Leaving
}

// heirCandidate returns the member that should become the heir: the one that the
// ring names, or if it does not answer, any that does.
func (m *Machine) heirCandidate(i int) (ID, bool) {
	if id, ok := m.usable(m.targets.Heir(i)); ok {
		return id, true
	}
	for n := range m.peers {
		if id, ok := m.usable(m.peers[(i+n)%len(m.peers)].Name); ok {
			return id, true
		}
	}
	return ID{}, false
}

// tend does what is due for a partition that this member owns.
func (m *Machine) tend(i int, transfers *int) {
	p := &m.parts[i]
	heir := p.known.Heir
	m.renew(i)
	m.beat(i)
	if p.export != nil {
		m.tendExport(i)
	}
	switch {
	case p.proposal != nil:
	case !heir.IsZero() && (m.heirFails(i) || m.staysAlone(heir)) && !p.sealed:
		m.propose(i, changeHeir, ID{})
	default:
		m.startTransfer(i, transfers)
	}
	m.touch(i)
}

// startTransfer begins to copy a partition to the member that is to own it or to be its
// heir, if there is one and not too many copies are on their way.
func (m *Machine) startTransfer(i int, transfers *int) {
	p := &m.parts[i]
	if p.export != nil || p.proposal != nil || *transfers >= m.o.MaxTransfers {
		return
	}
	if to, ok := m.usable(m.targets.Owner(i)); ok {
		m.offer(i, to, true)
		*transfers++
	} else if to, ok := m.heirCandidate(i); ok && to != p.known.Heir && (p.known.Heir.IsZero() || to.Name == m.targets.Heir(i)) {
		m.offer(i, to, false)
		*transfers++
	}
}

// startTransfers begins more transfers after some have ended. While calls change what this
// member owns, which need the processors, it leaves partitions with an heir to the next walk:
// no call waits for these.
func (m *Machine) startTransfers() {
	transfers, besideCalls := m.transfers(), m.now-m.changedAt < m.o.Lease
	for i := range m.parts {
		if transfers >= m.o.MaxTransfers {
			return
		}
		p := &m.parts[i]
		heir := p.known.Heir
		if p.known.Owner == m.self && !p.stale && (heir.IsZero() || !besideCalls && !m.heirFails(i) && !m.staysAlone(heir)) {
			m.startTransfer(i, &transfers)
		}
	}
}

// transfers counts the copies on their way.
func (m *Machine) transfers() (n int) {
	for i := range m.parts {
		if m.parts[i].export != nil {
			n++
		}
	}
	return n
}

// offer starts a transfer. The receiver answers with what it has.
func (m *Machine) offer(i int, to ID, next bool) {
	p := &m.parts[i]
	m.nextTransfer++
	p.export = &export{stream: stream{to: to, transfer: m.nextTransfer}, move: next, started: m.now}
	m.tendExport(i)
	m.touch(i)
}

// tendExport repeats the offer, and gives up if the receiver does not answer.
func (m *Machine) tendExport(i int) {
	p := &m.parts[i]
	x := p.export
	_, ok := m.usable(x.to.Name)
	switch {
	case p.proposal != nil:
		return
	case p.sealed && m.now-p.sealedAt >= m.o.SealTimeout, !p.sealed && (!ok || m.gone(x.to)):
		// Nothing was proposed, so the receiver cannot be the owner.
		m.cancelExport(i)
	case !x.complete && (x.offered == 0 || m.now-x.offered >= 3*m.o.Heartbeat):
		x.offered = m.now
		m.send(x.to, Entry{Kind: Offer, Partition: i, Value: p.known, Transfer: x.transfer, Flag: x.move})
	}
}

// cancelExport gives up a transfer of which nothing was proposed.
func (m *Machine) cancelExport(i int) {
	p := &m.parts[i]
	m.send(p.export.to, Entry{Kind: Retry, Partition: i, Transfer: p.export.transfer})
	p.export, p.sealed, p.drained = nil, false, false
	m.touch(i)
}

// onOffer answers an owner that wants to send a copy. A member accepts to become
// the owner only if its own ring agrees.
func (m *Machine) onOffer(msg *Message, e *Entry) {
	p := &m.parts[e.Partition]
	m.learn(e.Partition, e.Value)
	switch {
	case p.known.Term > e.Value.Term:
		m.send(msg.From, Entry{Kind: Known, Partition: e.Partition, Value: p.known, Flag: p.synced})
		return
	case p.known.Owner != msg.From || p.sticky():
		return
	case m.leaving || !m.roster.has(m.self.Name) || e.Flag && m.targets.Owner(e.Partition) != m.self.Name:
		m.send(msg.From, Entry{Kind: Retry, Partition: e.Partition, Transfer: e.Transfer})
		return
	}
	p.warming, p.warmedAt = e.Transfer, m.now
	m.touch(e.Partition)
	m.acknowledge(msg.From, e.Partition, e.Transfer)
}

// onRetry ends a transfer: the receiver does not want it now, or asks whether it goes on,
// or the owner has given it up.
func (m *Machine) onRetry(msg *Message, e *Entry) {
	p := &m.parts[e.Partition]
	x := p.export
	switch {
	case p.known.Owner == msg.From:
		if p.held == e.Transfer {
			p.held = 0
		}
		if p.warming == e.Transfer {
			p.warming = 0
		}
		m.touch(e.Partition)
	case p.known.Owner != m.self || p.stale:
	case x == nil || x.to != msg.From || x.transfer != e.Transfer:
		if p.proposal == nil {
			m.send(msg.From, Entry{Kind: Retry, Partition: e.Partition, Transfer: e.Transfer})
		}
	case !p.sealed && p.proposal == nil:
		m.cancelExport(e.Partition)
	}
}

// advanceExport goes on with a transfer: seal, ask for votes, or both later.
func (m *Machine) advanceExport(i int) {
	p := &m.parts[i]
	x := p.export
	switch {
	case x == nil || !x.complete || p.proposal != nil:
	case !x.move && x.covers(p.durable):
		m.propose(i, changeHeir, x.to)
	case !x.move:
	case !p.sealed && (p.copy.Seq-x.seq <= sealBelow || x.rounds >= maxRounds) && m.Decides(i, m.now):
		p.sealed, p.drained, p.sealedAt = true, false, m.now
		m.fx.Seal = append(m.fx.Seal, i)
		m.touch(i)
	case p.sealed && p.drained && x.covers(p.copy.Seq):
		m.propose(i, move, x.to)
	}
}

// drainedUntil takes note that the host has stopped deciding.
func (m *Machine) drainedUntil(e Drained) {
	p := &m.parts[e.Partition]
	if !p.sealed || p.known.Owner != m.self {
		return
	}
	p.copy.Seq = max(p.copy.Seq, e.Seq)
	p.drained = true
	m.flush(e.Partition)
	m.advanceExport(e.Partition)
}
