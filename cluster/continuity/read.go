// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"fmt"
	"time"
)

// Decides reports whether this member decides exactly for a partition at a time.
// A host that answers from its own copy of the roles and leases must ask before
// it decides and again before it answers.
func (m *Machine) Decides(partition int, now time.Duration) bool {
	return now < m.decidesUntil(partition)
}

// decidesUntil returns until when this member decides if nothing else happens.
func (m *Machine) decidesUntil(partition int) time.Duration {
	p := &m.parts[partition]
	switch {
	case p.sealed || p.stale || !m.member || p.known.Owner != m.self:
		return never
	case !p.known.Heir.IsZero() || p.sticky():
		return p.leaseUntil
	case len(m.roster.Names) == 1:
		return always
	}
	return m.contactUntil
}

// Waits reports whether large charges wait until [Effects.Durable] covers them:
// always, unless this member is the whole roster.
func (m *Machine) Waits() bool {
	names := m.roster.Names
	return len(names) > 1 || len(names) == 1 && names[0] != m.self.Name
}

// Lags reports whether the heir is so far behind that small charges wait as well.
func (m *Machine) Lags(partition int, now time.Duration) bool {
	return now > m.LagsAfter(partition)
}

// LagsAfter returns after which time [Machine.Lags] holds if nothing else happens.
// Only [Changed], [Drained], [Effects.Durable] and a new owner change it.
func (m *Machine) LagsAfter(partition int) time.Duration {
	p := &m.parts[partition]
	if p.copy.Seq <= p.durable {
		return always
	}
	return p.unackedSince + MaxLag
}

// Acknowledged returns the last change that all receivers of changes of a partition
// have, so that the host may forget which they were. It is 0 while one of them has no
// complete copy.
func (m *Machine) Acknowledged(partition int) uint64 {
	p := &m.parts[partition]
	seq := p.copy.Seq
	if !p.known.Heir.IsZero() {
		if !p.heir.complete {
			return 0
		}
		seq = min(seq, p.heir.seq)
	}
	if p.export != nil {
		if !p.export.complete {
			return 0
		}
		seq = min(seq, p.export.seq)
	}
	return seq
}

// Current returns the arrangement of a partition that is known to be chosen.
func (m *Machine) Current(partition int) Arrangement { return m.parts[partition].known }

// Copy returns what the host has of a partition.
func (m *Machine) Copy(partition int) Copy { return m.parts[partition].copy }

// Synced reports whether the heir of a partition is known to have a complete copy.
func (m *Machine) Synced(partition int) bool { return m.parts[partition].synced }

// DurableSeq returns the last change that the heir is known to have.
func (m *Machine) DurableSeq(partition int) uint64 { return m.parts[partition].durable }

// Voter reports whether this member votes.
func (m *Machine) Voter() bool { return m.ready && m.member }

// Roster returns the members whose votes count.
func (m *Machine) Roster() Roster { return m.roster }

// Holdings counts the partitions that this member owns or is the heir of, and
// those with something to report to their owners.
func (m *Machine) Holdings() (owned, heir, journals int) {
	for i := range m.parts {
		p := &m.parts[i]
		switch m.self {
		case p.known.Owner:
			owned++
		case p.known.Heir:
			heir++
		}
		if p.journal {
			journals++
		}
	}
	return owned, heir, journals
}

// Role returns the role of this member for a partition at the time of the last
// event.
func (m *Machine) Role(partition int) Role {
	p := &m.parts[partition]
	switch {
	case p.known.Owner == m.self && p.sealed:
		return Sealed
	case p.known.Owner == m.self && !m.Decides(partition, m.now):
		return Fenced
	case p.known.Owner == m.self && p.export != nil:
		return Exporting
	case p.known.Owner == m.self:
		return Active
	case p.journal:
		return Reconciling
	case p.proposal != nil:
		return Promoting
	case p.known.Heir == m.self && m.self.Boot != 0:
		return Backup
	case p.warming != 0:
		return Warming
	case p.owned:
		return Relay
	}
	return None
}

// Transfer is a copy on its way from the owner of a partition.
type Transfer struct {
	To    ID
	Move  bool // whether To is to be the owner; otherwise it is to be the heir
	Phase TransferPhase
	Lacks uint64 // how many changes To has not acknowledged; of all if Phase is before CatchingUp
}

// TransferPhase is how far a [Transfer] is.
type TransferPhase uint8

// The phases of a transfer, in their order.
const (
	Offered    TransferPhase = iota // the receiver has not answered
	Copying                         // all records are on their way
	CatchingUp                      // changes since then are
	Sealing                         // the owner has stopped deciding, for the last changes
	Voting                          // votes for the new arrangement are asked for

	phases = iota
)

var phaseNames = [phases]string{Offered: "offered", Copying: "copying", CatchingUp: "catching up", Sealing: "sealed", Voting: "voting"}

func (p TransferPhase) String() string {
	if p >= phases {
		return fmt.Sprintf("phase %d", uint8(p))
	}
	return phaseNames[p]
}

// Transfer returns the copy of a partition that this member, its owner, is sending; false
// if there is none.
func (m *Machine) Transfer(partition int) (Transfer, bool) {
	p := &m.parts[partition]
	x := p.export
	if x == nil || p.known.Owner != m.self {
		return Transfer{}, false
	}
	t := Transfer{To: x.to, Move: x.move, Lacks: p.copy.Seq - min(x.seq, p.copy.Seq)}
	switch {
	case p.proposal != nil:
		t.Phase = Voting
	case p.sealed:
		t.Phase = Sealing
	case x.complete:
		t.Phase = CatchingUp
	case x.heard:
		t.Phase = Copying
	}
	return t, true
}
