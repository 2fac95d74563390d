// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"slices"
	"time"
)

// A member may be started again while its last boot still runs, because nobody could
// tell that it does. The newer boot wins: a member that has met it does not answer the
// older one any more. The older one may still hold leases that others have granted, and
// its votes may reach a candidate that has not met the newer one. So
//
//   - it counts as dead only when [Dead] says so, or when its grants and its contact
//     with a majority must be over: see dead
//   - who votes tells the candidate of newer boots first, and the candidate drops the
//     votes of the older ones: see tellBoots

// dead reports whether a boot cannot decide without an heir, or grant leases, any more: it
// is proven to have ended, or a newer boot of its member has been answered instead for
// longer than [Options.Contact]. The latter says something if so many members report it
// that one of them is in each majority.
func (m *Machine) dead(id ID) bool {
	p := m.peer(id.Name)
	if id.IsZero() || p == nil {
		return false
	}
	return p.isDead(id.Boot) || p.Boot > id.Boot && m.now >= max(p.replaced, m.booted)+withDrift(m.o.Contact)
}

// ended reports whether a boot is dead, or a newer boot of its member is known, so that
// there is no use in waiting for it. It may still run.
func (m *Machine) ended(id ID) bool {
	if id.IsZero() || id == m.self {
		return false
	}
	p := m.peer(id.Name)
	return id.Name == m.self.Name || p != nil && (p.Boot > id.Boot || p.isDead(id.Boot))
}

// gone reports whether a boot has ended or its member is not in the roster.
func (m *Machine) gone(id ID) bool { return m.ended(id) || m.removed(id) }

// lost reports whether a boot is dead, as far as this member can tell, or its member is
// not in the roster. Only others can tell whether an older boot of this member is dead.
func (m *Machine) lost(id ID) bool {
	return m.dead(id) || m.removed(id) || id.Name == m.self.Name && id != m.self
}

// replacing reports whether an older boot of a member may still hold something.
func (m *Machine) replacing(p *peer) bool {
	return p != nil && len(p.older) > 0 && m.now < max(p.replaced, m.booted)+m.o.ForgetAfter()
}

// tellBoots tells a candidate of the newer boots of members, before a vote in the same
// message. A member votes in a new boot only after one member of each majority has met
// it. So the votes of its older boot do not count for a candidate that has asked such a
// majority.
func (m *Machine) tellBoots(to ID) {
	p := m.peer(to.Name)
	if p == nil || p.toldStep == m.steps {
		return
	}
	p.toldStep = m.steps
	for i := range m.peers {
		if o := &m.peers[i]; len(o.older) > 0 && o.Name != to.Name {
			m.send(to, Entry{Kind: NewBoot, Value: Arrangement{Owner: o.ID}})
		}
	}
}

// dropVotes forgets the votes of an older boot of a member in all proposals.
func (m *Machine) dropVotes(name string) {
	for i := range m.parts {
		if r := m.parts[i].proposal; r != nil {
			r.promises = slices.DeleteFunc(r.promises, func(o promise) bool { return o.from.Name == name })
			r.accepts = slices.DeleteFunc(r.accepts, func(o string) bool { return o == name })
		}
	}
	if r := m.rosterChange; r != nil {
		r.promises = slices.DeleteFunc(r.promises, func(o rosterPromise) bool { return o.name == name })
		r.accepts = slices.DeleteFunc(r.accepts, func(o string) bool { return o == name })
	}
}

// supersede ends everything that this boot does: a newer one of the same member runs.
func (m *Machine) supersede() {
	if m.superseded {
		return
	}
	m.superseded, m.member, m.ready, m.rosterChange = true, false, false, nil
	for i := range m.parts {
		m.parts[i].proposal = nil
		m.touch(i)
	}
}

// keepDead is how many boots of a member are remembered that are proven dead. An older one
// counts as dead once a newer one was answered for long enough.
const keepDead = 4

func (p *peer) isDead(boot uint64) bool { return slices.Contains(p.dead, boot) }

// noteDead takes note of a proof, which says nothing of other boots. It may come after the
// boot was replaced.
func (p *peer) noteDead(boot uint64) {
	p.older = slices.DeleteFunc(p.older, func(b uint64) bool { return b == boot })
	if p.isDead(boot) {
		return
	}
	if len(p.dead) == keepDead {
		p.dead = slices.Delete(p.dead, 0, 1)
	}
	p.dead = append(p.dead, boot)
}

// noteBoot takes note of a newer boot of a peer.
func (p *peer) noteBoot(id ID, now time.Duration) {
	next := peer{
		ID: id, state: p.state, inView: p.inView, dead: p.dead, heard: never, contact: never, answered: p.answered,
		older: p.older, replaced: p.replaced,
	}
	if p.Boot != 0 && !p.isDead(p.Boot) {
		next.older, next.replaced = append(next.older, p.Boot), now
	}
	*p = next
}
