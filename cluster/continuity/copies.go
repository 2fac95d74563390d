// SPDX-License-Identifier: Apache-2.0

package continuity

import "time"

// stream is what an owner knows of the copy of its heir, or of its successor.
type stream struct {
	to       ID
	transfer uint64 // 0: to the heir
	heard    bool   // whether the receiver has said what it has
	complete bool
	seq      uint64        // that the receiver has acknowledged
	sent     uint64        // that was sent last
	waiting  time.Duration // since when nothing new was acknowledged, if sent is above seq
	fullAt   time.Duration // when all records were sent, 0: not yet
}

// covers reports whether the receiver has everything until seq.
func (s *stream) covers(seq uint64) bool { return s.complete && s.seq >= seq }

// export is a copy on its way to a new heir or to the next owner.
type export struct {
	stream
	move    bool
	started time.Duration
	offered time.Duration
	rounds  int
}

// sealBelow is how many changes the next owner may lack when the partition is
// sealed; maxRounds is after how many rounds it is sealed anyway.
const (
	sealBelow = 256
	maxRounds = 3
)

// changed takes note of a change of the owner's state.
func (m *Machine) changed(e *Progress) {
	p := &m.parts[e.Partition]
	if p.known.Owner != m.self || e.Seq <= p.copy.Seq {
		return
	}
	p.markChange(m.now)
	p.copy.Seq, m.changedAt = e.Seq, m.now
	m.busy.set(e.Partition)
	if e.Urgent {
		m.flush(e.Partition)
	}
}

// mark says that all changes after seq were made at a time or later.
type mark struct {
	seq uint64
	at  time.Duration
}

// markChange remembers when a change is made, at least once per [TickInterval] while the
// heir lacks changes.
func (p *partition) markChange(now time.Duration) {
	last := p.unackedSince
	if p.marked > 0 {
		last = p.marks[p.marked-1].at
	}
	switch {
	case p.durable >= p.copy.Seq:
		p.unackedSince, p.marked = now, 0
	case p.marked < lagMarks && now-last >= TickInterval:
		p.marks[p.marked] = mark{p.copy.Seq, now}
		p.marked++
	}
}

// unmark computes how old the changes after the durable ones are. An acknowledgement may
// come late, or be read late by a process that was suspended, so its time says nothing.
func (p *partition) unmark() {
	n := 0
	for n < p.marked && p.marks[n].seq <= p.durable {
		p.unackedSince = p.marks[n].at
		n++
	}
	p.marked = copy(p.marks[:], p.marks[n:p.marked])
}

// flush sends what heir and successor lack.
func (m *Machine) flush(i int) {
	p := &m.parts[i]
	m.pump(i, &p.heir)
	if p.export != nil {
		m.pump(i, &p.export.stream)
	}
}

// pump sends what a receiver lacks, unless it is on its way.
func (m *Machine) pump(i int, s *stream) {
	p := &m.parts[i]
	if !s.heard || s.to.IsZero() {
		return
	}
	t := StateTransfer{
		From: m.self, To: s.to, Partition: i, Term: p.known.Term, Origin: p.known.Origin, Transfer: s.transfer, Through: p.copy.Seq,
	}
	switch {
	case !s.complete && (s.fullAt == 0 || m.now-s.fullAt >= resendSnapshot):
		t.Full, s.fullAt = true, m.now
	case s.complete && s.sent > s.seq && m.now-s.waiting >= resendDelta:
		t.After, s.sent, s.waiting = s.seq, p.copy.Seq, m.now
	case s.complete && p.copy.Seq > max(s.seq, s.sent):
		// What is on its way is not sent twice. If it is lost, all is repeated later.
		if s.sent <= s.seq {
			s.waiting = m.now
		}
		t.After, s.sent = max(s.seq, s.sent), p.copy.Seq
	default:
		return
	}
	m.fx.States = append(m.fx.States, t)
}

// receiveState says whether to apply what an owner sent, and acknowledges it. It is the
// transfer with that index.
func (m *Machine) receiveState(index int, t *StateTransfer) {
	if t.To != m.self || m.meet(t.From) == nil || t.Partition < 0 || t.Partition >= len(m.parts) {
		return
	}
	p := &m.parts[t.Partition]
	if t.Term < p.known.Term {
		m.send(t.From, Entry{Kind: Known, Partition: t.Partition, Value: p.known, Flag: p.synced})
		return
	}
	asHeir := t.Transfer == 0 && p.known.Heir == m.self
	if t.Term != p.known.Term || t.From != p.known.Owner || !asHeir && p.warming != t.Transfer || p.stale || p.sticky() {
		return
	}
	before := p.copy
	upToDate := before.Complete && before.Origin == t.Origin
	switch {
	case upToDate && before.Seq >= t.Through:
	case t.Full, upToDate && before.Seq >= t.After:
		p.copy, p.present = Copy{Origin: t.Origin, Seq: t.Through, Complete: true}, true
		m.fx.Apply = append(m.fx.Apply, Application{Transfer: index, Before: before})
	}
	m.acknowledge(t.From, t.Partition, t.Transfer)
}

// acknowledge tells the owner what this member has. If it is a complete copy, the owner
// may make this member the next owner or heir at any time, even if this member does not
// hear of it for long. So it keeps the copy until the owner has given up the transfer.
func (m *Machine) acknowledge(owner ID, i int, transfer uint64) {
	p := &m.parts[i]
	if transfer != 0 && p.copy.Complete && p.copy.Origin == p.known.Origin {
		p.held = transfer
	}
	if msg := m.message(owner); msg != nil {
		if msg.Acks == nil {
			msg.Acks = make([]Acknowledgement, 0, m.transfersIn)
		}
		msg.Acks = append(msg.Acks, Acknowledgement{Partition: uint32(i), Term: p.known.Term, Transfer: transfer, Copy: p.copy})
	}
}

// onAcks takes note of what receivers have.
func (m *Machine) onAcks(msg *Message) {
	for n := range msg.Acks {
		a := &msg.Acks[n]
		i := int(a.Partition)
		if i >= len(m.parts) {
			continue
		}
		p := &m.parts[i]
		switch {
		case p.known.Owner != m.self || a.Term != p.known.Term || p.stale:
		case a.Transfer == 0 && msg.From == p.known.Heir:
			m.noteCopy(i, &p.heir, a.Copy)
		case p.export != nil && a.Transfer == p.export.transfer && msg.From == p.export.to:
			m.noteCopy(i, &p.export.stream, a.Copy)
		}
	}
}

// noteCopy takes note of what a receiver has, and does what follows from it.
func (m *Machine) noteCopy(i int, s *stream, c Copy) {
	p := &m.parts[i]
	s.heard = true
	switch {
	case !c.Complete || c.Origin != p.known.Origin:
		// The copy was lost, if this is not an old message. All records are sent, again at
		// worst.
		if s.complete && (s.fullAt == 0 || m.now-s.fullAt >= resendSnapshot) {
			s.complete, s.fullAt = false, 0
		}
	default:
		if s.complete && c.Seq > s.seq && p.export != nil && s == &p.export.stream {
			p.export.rounds++
		}
		s.complete = true
		if c.Seq > s.seq {
			s.seq, s.waiting = c.Seq, m.now
		}
	}
	m.noteSynced(i)
	m.noteDurable(i)
	m.flush(i)
	if m.isBusy(i) {
		m.busy.set(i)
	}
	if p.export != nil {
		m.advanceExport(i)
		m.touch(i)
	}
}

// noteSynced announces that the heir has a complete copy.
func (m *Machine) noteSynced(i int) {
	p := &m.parts[i]
	if !p.synced && p.heir.complete && p.heir.to == p.known.Heir && !p.known.Heir.IsZero() {
		m.setKnown(i, p.known, true)
		m.sendAll(Entry{Kind: Known, Partition: i, Value: p.known, Flag: true})
	}
}

// noteDurable reports what survives the owner. While the heir is being replaced,
// both have to have it.
func (m *Machine) noteDurable(i int) {
	p := &m.parts[i]
	if !p.heir.complete || p.known.Heir.IsZero() {
		return
	}
	seq := p.heir.seq
	if p.proposal != nil && p.proposal.reason == changeHeir && p.export != nil && !p.export.move {
		seq = min(seq, p.export.seq)
	}
	if seq > p.durable {
		p.durable = seq
		p.unmark()
		m.fx.Durable = append(m.fx.Durable, Durable{Partition: i, Seq: seq})
	}
}
