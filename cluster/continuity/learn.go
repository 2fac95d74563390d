// SPDX-License-Identifier: Apache-2.0

package continuity

// learn takes note of an arrangement that is chosen.
func (m *Machine) learn(i int, a Arrangement) {
	p := &m.parts[i]
	if a.Term <= p.known.Term {
		return
	}
	was := p.known
	m.setKnown(i, a, false)
	// What is chosen may be voted for, whatever was promised since.
	p.promised = max(p.promised, a.Term)
	if a.Term > p.accepted {
		p.accepted, p.value = a.Term, a
	}
	if p.proposal != nil && p.proposal.base < a.Term {
		p.proposal = nil
	}
	if a.Origin != was.Origin {
		m.reportSurplus(i, was, a)
		if was.Owner == m.self {
			p.endOwnership()
			m.transfersEnded = true
		}
	}
	switch m.self {
	case a.Owner:
		if was.Owner == m.self && a.Origin == was.Origin {
			m.keepOwnership(i, was)
		} else {
			m.becomeOwner(i)
		}
	case a.Heir:
		p.adopt(a)
		p.granted = m.now + withDrift(m.o.Lease)
	}
	if a.Origin != was.Origin || a.Heir == m.self {
		p.warming, p.held = 0, 0
	}
	m.touch(i)
}

// setKnown replaces the known arrangement and keeps the digest.
func (m *Machine) setKnown(i int, a Arrangement, synced bool) {
	p := &m.parts[i]
	m.endList(p.beats)
	m.digest -= digestOf(i, p.known.Term, p.synced)
	p.known, p.synced = a, synced
	m.digest += digestOf(i, a.Term, synced)
}

// digestOf mixes a term; the sum over all partitions is compared between members.
func digestOf(i int, term uint64, synced bool) uint64 {
	if term == 0 {
		return 0
	}
	h := term ^ uint64(i+1)*0x9e3779b97f4a7c15
	if synced {
		h ^= 1 << 63
	}
	h ^= h >> 30
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 27
	h *= 0x94d049bb133111eb
	return h ^ h>>31
}

// adopt renames a copy that equals the one that the owner started from.
func (p *partition) adopt(a Arrangement) {
	if p.copy.Complete && p.copy == a.Base {
		p.copy.Origin = a.Origin
	}
}

// reportSurplus reports to a new owner the changes that this member has and that
// the new owner did not start from: those of an owner that was cut off, or of a
// copy that nobody found in time. If others were the owner in between, a former owner
// does not know what they started from, only what its heir had.
func (m *Machine) reportSurplus(i int, was, a Arrangement) {
	p := &m.parts[i]
	c, after, uncertain := p.copy, uint64(0), false
	switch {
	case was.Owner == m.self && was.Origin == c.Origin && c.Complete && c.Origin < a.Base.Origin && c.Seq > p.durable:
		after, uncertain = p.durable, true
	case !c.Complete || a.Owner == m.self && c.Origin != a.Base.Origin || c.Origin == a.Origin || c.Origin < a.Base.Origin:
		return
	case c.Origin == a.Base.Origin:
		if c.Seq <= a.Base.Seq || a.Owner == m.self {
			return
		}
		after = a.Base.Seq
	}
	m.fx.Repay = append(m.fx.Repay, Repay{Partition: i, Owner: a.Owner, FromCopy: true, After: after, Uncertain: uncertain})
	p.journal, p.repayAt = true, m.now+repayEvery
}

// endOwnership ends the role of owner.
func (p *partition) endOwnership() {
	p.sealed, p.drained, p.export, p.heir = false, false, nil, stream{}
	p.leaseUntil = never
}

// keepOwnership goes on with another heir.
func (m *Machine) keepOwnership(i int, was Arrangement) {
	p := &m.parts[i]
	p.heirHeard = m.now
	p.sealed, p.drained = false, false
	m.transfersEnded = true
	switch x := p.export; {
	case p.known.Heir == was.Heir:
		if x != nil && x.move { // the move was given up by a vote
			p.export = nil
		}
	case x != nil && x.to == p.known.Heir && !x.move:
		p.heir = x.stream
		p.heir.transfer = 0
		p.export = nil
		m.noteSynced(i)
	default:
		p.heir = stream{to: p.known.Heir}
	}
	m.beat(i)
}

// becomeOwner starts to own a partition. The lease starts with the heir's first
// acknowledgement.
func (m *Machine) becomeOwner(i int) {
	p := &m.parts[i]
	a := p.known
	switch {
	case a.Base == (Copy{}) && a.Origin == a.Term:
		if p.present && !p.copy.Complete {
			m.fx.Drop = append(m.fx.Drop, i)
			p.copy = Copy{}
		}
	case p.copy.Complete && (p.copy.Origin == a.Base.Origin && p.copy.Seq >= a.Base.Seq || p.copy.Origin == a.Origin):
	default:
		m.fx.Lost = append(m.fx.Lost, i)
	}
	p.copy = Copy{Origin: a.Origin, Seq: max(p.copy.Seq, a.Base.Seq), Complete: true}
	p.present, p.owned = true, true
	p.durable, p.unackedSince, p.marked = 0, m.now, 0
	p.sealed, p.drained, p.export = false, false, nil
	p.leaseUntil, p.heirHeard = never, m.now
	p.heir = stream{to: a.Heir}
	m.beat(i)
}

// onKnown learns an arrangement, and whether its heir is complete.
func (m *Machine) onKnown(e *Entry) {
	p := &m.parts[e.Partition]
	m.learn(e.Partition, e.Value)
	if e.Flag && p.known.Term == e.Value.Term && !p.synced {
		m.setKnown(e.Partition, p.known, true)
		m.touch(e.Partition)
	}
}

// dropIfUseless drops a copy once another member has it.
func (m *Machine) dropIfUseless(i int) {
	p := &m.parts[i]
	if !p.present || p.known.Owner == m.self || p.known.Heir == m.self || !p.synced || p.promised > p.known.Term || p.warming != 0 || p.held != 0 {
		return
	}
	p.present, p.copy = false, Copy{}
	m.fx.Drop = append(m.fx.Drop, i)
}
