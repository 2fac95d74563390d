// SPDX-License-Identifier: Apache-2.0

package continuity

// verdict says whether a candidate may propose.
type verdict uint8

const (
	goOn verdict = iota
	wait
	giveUp
)

// next returns the arrangement that a candidate proposes in place of the current
// one, which this member knows to be chosen.
func (m *Machine) next(i int, r *proposal, current Arrangement) (Arrangement, verdict) {
	p := &m.parts[i]
	mine := current.Owner == m.self
	switch {
	case r.reason == resolve:
		return current, goOn
	case r.reason == takeOver && !mine:
		return m.nextOwner(i, r, current)
	case !mine:
		return current, giveUp
	}
	same := Arrangement{Term: r.ballot, Prev: current.Term, Origin: current.Origin, Owner: m.self, Heir: current.Heir, Base: current.Base}
	valid := p.export != nil && p.export.to == r.target && m.roster.has(r.target.Name) && !m.gone(r.target)
	switch {
	case r.reason == changeHeir && r.target.IsZero():
		same.Heir = ID{}
		return same, goOn
	case r.reason == changeHeir && valid && p.export.covers(p.durable):
		same.Heir = r.target
		return same, goOn
	case r.reason == move && valid && p.sealed && p.drained && p.export.covers(p.copy.Seq):
		return Arrangement{Term: r.ballot, Prev: current.Term, Origin: r.ballot, Owner: r.target, Heir: m.self, Base: p.copy}, goOn
	case r.sent:
		// The earlier proposal may have been accepted somewhere. This one replaces it,
		// and only then the owner may go on.
		return same, goOn
	}
	return same, giveUp
}

// nextOwner returns the arrangement in which the owner is replaced.
func (m *Machine) nextOwner(i int, r *proposal, current Arrangement) (Arrangement, verdict) {
	p := &m.parts[i]
	if current.Term != 0 && !m.mayReplace(p, r, current) {
		return current, wait
	}
	next := Arrangement{Term: r.ballot, Prev: current.Term, Origin: r.ballot, Owner: m.self}
	if current.Heir == m.self && p.copy.Complete && p.copy.Origin == current.Origin {
		next.Base = p.copy
		return next, goOn
	}
	for _, o := range r.promises {
		if o.copy.Complete && !m.gone(o.from) && (o.copy.fresher(next.Base) || o.copy == next.Base && o.from.Name < next.Owner.Name) {
			next.Owner, next.Base = o.from, o.copy
		}
	}
	patience := claimWait
	if current.Term != 0 && next.Base.Origin != current.Origin {
		patience = claimPatience
	}
	if len(r.promises) < len(m.roster.Names) && (m.now-r.started < claimWait || m.now-r.reached < patience) {
		return current, wait
	}
	return next, goOn
}

// mayReplace reports whether the owner cannot decide any more, and whoever could
// take over from it either is this member or cannot either.
func (m *Machine) mayReplace(p *partition, r *proposal, current Arrangement) bool {
	owner, heir := 0, 0
	for _, o := range r.promises {
		if o.ownerDead {
			owner++
		}
		if o.heirDead {
			heir++
		}
	}
	ownerDead, heirDead := owner >= m.roster.inEach(), heir >= m.roster.inEach()
	if heirDead && r.heirEnd == 0 {
		r.heirEnd = m.now
	}
	switch {
	case current.Heir == m.self:
		return ownerDead || m.now >= m.grantedUntil(p)
	case current.Heir.IsZero():
		return ownerDead || m.removed(current.Owner)
	case !heirDead && !m.removed(current.Heir):
		return false
	}
	// The heir's last grant may have been just before its end.
	return ownerDead || m.removed(current.Owner) && m.now >= max(r.created, r.heirEnd)+withDrift(m.o.Lease)
}

// mayTakeOver reports whether this member should ask for votes to replace the
// owner, or to create the partition.
func (m *Machine) mayTakeOver(i int) bool {
	p := &m.parts[i]
	k := p.known
	switch {
	case k.Owner == m.self:
		return false
	case k.Heir == m.self:
		return m.now >= m.grantedUntil(p) || m.dead(k.Owner)
	case m.targets.Owner(i) != m.self.Name:
		return false
	}
	return k.Term == 0 || m.lost(k.Owner) && (k.Heir.IsZero() || m.lost(k.Heir))
}
