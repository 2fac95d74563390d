// SPDX-License-Identifier: Apache-2.0

package continuity

import "time"

// A heartbeat that names partitions has a number. If the heir grants the leases of all of
// them, both sides keep the list, and the owner asks for all of them again by the number
// alone. On either side, the first change of a partition of which the heir's answer, or its
// worth to the owner, depends ends the list: another arrangement, a proposal, another roster,
// a copy that was restored, a newer boot of the other side. Then the owner names its
// partitions again. So a number renews only what naming the partitions would have renewed.

// beatList is the list of the partitions in a heartbeat of an owner to an heir.
type beatList struct {
	number     uint64 // 0: it has ended
	partitions []uint32
	// at is, at the owner, when it sent the latest heartbeat of which all leases were granted,
	// and at the heir, when it granted them last.
	at time.Duration
}

// maxUnanswered is after how many heartbeats without an answer members look at all partitions
// with each heartbeat.
const maxUnanswered = 3

func (l *beatList) ended() bool { return l == nil || l.number == 0 }

// endList ends a list. The leases that were granted stay granted.
func (m *Machine) endList(l *beatList) {
	if l.ended() {
		return
	}
	for _, i := range l.partitions {
		p := &m.parts[i]
		switch {
		case p.beats != l:
			continue
		case p.known.Owner == m.self:
			m.renew(int(i))
		default:
			p.granted = m.grantedUntil(p)
		}
		p.beats = nil
	}
	l.number, m.restsUntil = 0, never
}

// renew takes note of the leases of an owner that the heir has granted for a list.
func (m *Machine) renew(i int) {
	if p := &m.parts[i]; p.beats != nil {
		p.heirHeard = max(p.heirHeard, p.beats.at)
		p.leaseUntil = max(p.leaseUntil, p.beats.at+m.o.Lease)
		m.show(i)
	}
}

// grantedUntil returns until when the owner of a partition may count on a lease from this
// member, its heir.
func (m *Machine) grantedUntil(p *partition) time.Duration {
	if p.beats == nil {
		return p.granted
	}
	return max(p.granted, p.beats.at+withDrift(m.o.Lease))
}

// granted reports whether the heir has granted all leases of a list.
func (l *beatList) granted() bool { return !l.ended() && l.at > never }

// numberBeats numbers the heartbeats of a walk, which name all partitions of lists that were
// not granted.
func (m *Machine) numberBeats() {
	for n := range m.out {
		msg := &m.out[n]
		p := m.peer(msg.To.Name)
		if len(msg.Beats) == 0 || p == nil || p.ID != msg.To || m.changedSince(msg.Beats) {
			continue
		}
		if p.asks.ended() || len(p.asks.partitions) != len(msg.Beats) {
			m.endList(p.asks)
			m.lastBeat++
			p.asks = m.newList(m.lastBeat, msg.Beats, never)
		}
		msg.Entries = append(msg.Entries, Entry{Kind: BeatAll, Transfer: p.asks.number, Sent: m.now, Flag: true})
	}
}

// changedSince reports whether a partition has changed since its lease was asked for in this
// step.
func (m *Machine) changedSince(beats []Beat) bool {
	for _, b := range beats {
		if p := &m.parts[b.Partition]; p.known.Owner != m.self || p.known.Term != b.Term || p.proposal != nil {
			return true
		}
	}
	return false
}

func (m *Machine) newList(number uint64, beats []Beat, at time.Duration) *beatList {
	l := &beatList{number: number, partitions: make([]uint32, len(beats)), at: at}
	for n, b := range beats {
		l.partitions[n] = b.Partition
		m.parts[b.Partition].beats = l
	}
	return l
}

// grantAll keeps the list of a heartbeat of which all leases were granted, if it has a number,
// and says so.
func (m *Machine) grantAll(msg *Message) {
	p := m.peer(msg.From.Name) // in this boot, since it gets an answer
	for n := range msg.Entries {
		if e := &msg.Entries[n]; e.Kind == BeatAll && e.Flag && e.Transfer != 0 {
			m.endList(p.grants)
			p.grants = m.newList(e.Transfer, msg.Beats, m.now)
			m.send(p.ID, Entry{Kind: GrantAll, Transfer: e.Transfer, Sent: e.Sent, Flag: true})
		}
	}
}

// onBeatAll grants the leases of a list again, unless it has ended.
func (m *Machine) onBeatAll(msg *Message, e *Entry) {
	l := m.peer(msg.From.Name).grants
	ok := !l.ended() && l.number == e.Transfer && m.inContact()
	if ok {
		l.at = m.now
	}
	m.send(msg.From, Entry{Kind: GrantAll, Transfer: e.Transfer, Sent: e.Sent, Flag: ok})
}

// onGrantAll renews the leases of a list, counted from when they were asked for. If the list
// has ended at the heir, the next tick names the partitions.
func (m *Machine) onGrantAll(msg *Message, e *Entry) {
	l := m.peer(msg.From.Name).asks
	switch {
	case l.ended() || l.number != e.Transfer:
	case e.Flag:
		l.at = max(l.at, e.Sent)
	default:
		m.endList(l)
		m.nextWalk = m.now
	}
}

// atRest reports whether nothing becomes due for a partition as long as its heartbeats are
// answered.
func (m *Machine) atRest(p *partition) bool {
	return (p.beats != nil || p.known.Owner != m.self && p.known.Heir != m.self) &&
		p.proposal == nil && p.export == nil && !p.stale && !p.journal && p.held == 0 && p.warming == 0
}

// endLists ends what this member keeps of the heartbeats of a boot.
func (m *Machine) endLists(p *peer) {
	m.endList(p.asks)
	m.endList(p.grants)
}

// rests reports whether all partitions are at rest, so that the next heartbeat need not look
// at them.
func (m *Machine) rests() bool {
	since := m.now - maxUnanswered*m.o.Heartbeat
	for i := range m.peers {
		if p := &m.peers[i]; p.contact < since || !p.asks.ended() && p.asks.at < since || !p.grants.ended() && p.grants.at < since {
			return false
		}
	}
	return m.now < m.restsUntil
}
