// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"slices"
	"time"
)

// keepFormer is how many former members are remembered.
const keepFormer = 64

// forgetMember has this member propose a roster without another one until there is one,
// or the other one answers.
func (m *Machine) forgetMember(e Forget) {
	if !m.roster.has(e.Name) || e.Name == m.self.Name {
		return
	}
	m.forget, m.forgetFrom = e.Name, m.now
	if e.Force {
		m.adoptRoster(Roster{Epoch: m.roster.Epoch + 1, Names: without(m.roster.Names, e.Name)})
		m.ready = true
	}
}

// noteFormer remembers who is not in the next roster any more.
func (m *Machine) noteFormer(next Roster) {
	m.former = slices.DeleteFunc(m.former, next.has)
	for _, name := range m.roster.Names {
		if !next.has(name) {
			m.former = append(m.former, name)
		}
	}
	m.former = slices.Delete(m.former, 0, max(0, len(m.former)-keepFormer))
}

// Former reports whether a member was in a roster that this boot has known, and is not in
// the last one. Only the latest ones are remembered.
func (m *Machine) Former(name string) bool { return slices.Contains(m.former, name) }

// Silence returns for how long another member has not answered, counted from when the last
// ping was sent that it did answer; false if it has never answered this boot.
func (m *Machine) Silence(name string, now time.Duration) (time.Duration, bool) {
	p := m.peer(name)
	if p == nil || p.contact == never {
		return 0, false
	}
	return max(0, now-p.contact), true
}

// Answers reports whether another member runs, as far as this one can tell: it has
// answered a ping within [Options.Lease] and is not known to have ended since.
func (m *Machine) Answers(name string, now time.Duration) bool {
	p := m.peer(name)
	silence, ever := m.Silence(name, now)
	return ever && silence < m.o.Lease && !p.isDead(p.Boot)
}

// Answering counts the members of the roster that answer, this one included.
func (m *Machine) Answering(now time.Duration) (n int) {
	for _, name := range m.roster.Names {
		if name == m.self.Name && m.member || m.Answers(name, now) {
			n++
		}
	}
	return n
}

// ForgetAfter returns how long a member must not have answered any ping of those who vote
// for its removal, unless it is proven dead.
func (o *Options) ForgetAfter() time.Duration { return withDrift(o.Contact + o.Lease) }
