// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestSimulation runs 3 to 7 members through crashes, restarts that leave the
// former boot alive, joins, leaves, splits and heals. Views arrive late, in any
// order or never; messages are delayed, repeated and lost. A failure prints its
// seed; run that one alone with -run 'TestSimulation/seed_N$'.
func TestSimulation(t *testing.T) {
	seeds := 1000
	if testing.Short() || raceEnabled {
		seeds = 150
	}
	total := simCounts{}
	for seed := range seeds {
		name := fmt.Sprintf("seed_%d", seed)
		t.Run(name, func(t *testing.T) {
			s := newSim(t, uint64(seed))
			for range 400 {
				s.step()
				if t.Failed() {
					return
				}
			}
			s.converge()
			total.add(s.counts)
		})
		if t.Failed() {
			t.Fatalf("seed %d failed", seed)
		}
	}
	t.Logf("%d seeds: %+v", seeds, total)
	// A simulation in which nothing happens proves nothing.
	if total.decided == 0 || total.redirected == 0 || total.contested == 0 || total.fenced == 0 || total.twoOwners == 0 {
		t.Errorf("some of what the simulation is for never happened: %+v", total)
	}
}

type simCounts struct{ decided, redirected, contested, fenced, twoOwners int }

func (c *simCounts) add(d simCounts) {
	c.decided += d.decided
	c.redirected += d.redirected
	c.contested += d.contested
	c.fenced += d.fenced
	c.twoOwners += d.twoOwners
}

// boot is one run of a member, and what its router would do.
type boot struct {
	id    uint64 // from 1, in the order of starts
	slot  string
	side  int // of a split
	state *State
	model *naive
	// reached is, per partition, the highest term that any boot had taken when
	// it sent something that led here. It travels beside the protocol.
	reached map[int]uint64
}

// simView is what gossip on one side would show: who serves, and which boot
// holds each slot.
type simView struct {
	serving []string
	holders map[string]uint64
}

type simMessage struct {
	from, to  *boot
	partition int
	term      uint64
	reached   uint64
	hop       int // of a call: 1, or 2 after a redirect
	answer    bool
	decided   bool
}

type simDelivery struct {
	to   *boot
	view simView
}

type sim struct {
	t          *testing.T
	rand       *rand.Rand
	slots      []string
	joined     map[string]bool // slots that serve while they have a boot
	boots      []*boot         // alive
	lastBoot   uint64
	partitions []int
	messages   []simMessage
	views      []simDelivery
	taken      map[Claim]uint64 // the boot that was active at a term
	counts     simCounts
}

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, rand: rand.New(rand.NewPCG(seed, 1)), joined: map[string]bool{}, taken: map[Claim]uint64{}}
	for i := range 3 + s.rand.IntN(5) {
		s.slots = append(s.slots, fmt.Sprintf("limiter-%d", i))
	}
	for i := range 6 { // far apart and side by side
		s.partitions = append(s.partitions, i/2*1000+s.rand.IntN(500)*2+i%2)
	}
	for _, slot := range s.slots {
		s.start(slot)
	}
	s.announce()
	return s
}

// start runs a new boot of a slot, beside those that are still there.
func (s *sim) start(slot string) {
	s.lastBoot++
	b := &boot{id: s.lastBoot, slot: slot, state: mustNew(s.t, slot, s.lastBoot), reached: map[int]uint64{}}
	b.model = newNaive(b.state)
	s.boots = append(s.boots, b)
	s.joined[slot] = true
}

// view is the truth of one side.
func (s *sim) view(side int) simView {
	v := simView{holders: map[string]uint64{}}
	for _, b := range s.boots {
		if b.side == side {
			v.holders[b.slot] = max(v.holders[b.slot], b.id)
		}
	}
	for _, slot := range s.slots {
		if v.holders[slot] > 0 && s.joined[slot] {
			v.serving = append(v.serving, slot)
		}
	}
	return v
}

// announce sends each boot the view of its side, unless it is skipped.
func (s *sim) announce() {
	for _, b := range s.boots {
		if s.rand.IntN(5) > 0 {
			s.views = append(s.views, simDelivery{b, s.view(b.side)})
		}
	}
}

func (s *sim) step() {
	switch n := s.rand.IntN(100); {
	case n < 4:
		s.change()
		s.announce()
	case n < 20:
		if len(s.views) > 0 {
			i := s.rand.IntN(len(s.views))
			d := s.views[i]
			s.views = slices.Delete(s.views, i, i+1)
			s.follow(d.to, d.view)
		}
	case n < 50:
		s.call(s.boots[s.rand.IntN(len(s.boots))], s.partitions[s.rand.IntN(len(s.partitions))])
	default:
		if len(s.messages) > 0 {
			i := s.rand.IntN(len(s.messages))
			m := s.messages[i]
			if s.rand.IntN(8) > 0 { // else it comes again
				s.messages = slices.Delete(s.messages, i, i+1)
			}
			if s.rand.IntN(8) > 0 { // else it is lost
				s.deliver(m)
			}
		}
	}
}

// change does something to the cluster.
func (s *sim) change() {
	some := s.rand.IntN(len(s.boots))
	switch b := s.boots[some]; s.rand.IntN(7) {
	case 0: // crash
		if len(s.boots) > 2 {
			s.boots = slices.Delete(s.boots, some, some+1)
		}
	case 1: // crash and restart, faster than anyone sees
		s.boots = slices.Delete(s.boots, some, some+1)
		s.start(b.slot)
	case 2: // a second boot of a slot, while the first one is paused, say
		if len(s.boots) < 12 {
			s.start(b.slot)
		}
	case 3: // a slot that is away comes back
		slot := s.slots[s.rand.IntN(len(s.slots))]
		if !slices.ContainsFunc(s.boots, func(b *boot) bool { return b.slot == slot }) {
			s.start(slot)
		}
	case 4: // leaves, or thinks better of it
		s.joined[b.slot] = !s.joined[b.slot]
	case 5: // split
		for _, b := range s.boots {
			b.side = s.rand.IntN(2)
		}
	default: // heal
		for _, b := range s.boots {
			b.side = 0
		}
	}
}

// follow takes a view.
func (s *sim) follow(b *boot, v simView) {
	e := Ring{Table: tableOf(s.t, v.serving...), Fenced: v.holders[b.slot] > b.id}
	b.model.ring(e.Table, e.Fenced, s.partitions)
	if e.Fenced {
		s.counts.fenced++
	}
	s.enter(b, e)
}

// hear takes the term of a message.
func (s *sim) hear(b *boot, m simMessage) {
	b.reached[m.partition] = max(b.reached[m.partition], m.reached)
	if b.state.Admit(m.partition, m.term).Learn {
		c := Claim{m.partition, m.term}
		b.model.heard(c)
		s.enter(b, Heard{c})
	}
}

// enter steps and checks everything that must hold after it.
func (s *sim) enter(b *boot, e Event) {
	s.t.Helper()
	from := b.state
	next, fx := Step(from, e)
	b.state = next
	s.counts.contested += len(fx.Contested)
	if err := b.model.differs(next, s.partitions); err != nil {
		s.t.Fatal(err)
	}
	for _, p := range s.partitions {
		was, is := from.Term(p), next.Term(p)
		if is < was {
			s.t.Fatalf("%s.%d: term of %d fell from %#x to %#x", b.slot, b.id, p, was, is)
		}
		if next.Role(p) != Active {
			continue
		}
		if from.Role(p) != Active && is <= b.reached[p] {
			s.t.Fatalf("%s.%d: became active for %d at %#x, want above %#x, which had reached it", b.slot, b.id, p, is, b.reached[p])
		}
		if other, ok := s.taken[Claim{p, is}]; ok && other != b.id {
			s.t.Fatalf("%s.%d: active for %d at %#x, where boot %d was active", b.slot, b.id, p, is, other)
		}
		s.taken[Claim{p, is}] = b.id
		b.reached[p] = max(b.reached[p], is)
		s.checkTwo(b, p)
	}
}

// checkTwo looks for a second owner. There is one only if views differ.
func (s *sim) checkTwo(b *boot, p int) {
	s.t.Helper()
	for _, other := range s.boots {
		if other == b || other.state.Role(p) != Active {
			continue
		}
		s.counts.twoOwners++
		if other.slot != b.slot && other.state.Table().Digest() == b.state.Table().Digest() {
			s.t.Fatalf("%s.%d and %s.%d are both active for %d with the same table", b.slot, b.id, other.slot, other.id, p)
		}
	}
}

// call sends a call to the owner that a boot sees.
func (s *sim) call(b *boot, p int) {
	if b.state.Role(p) == Active {
		s.counts.decided++
		return
	}
	s.send(b, b.state.Table().Owner(p), p, 1)
}

// send sends a call to the boot that a connection to a slot would reach: a
// random one of its boots, since views of addresses differ too.
func (s *sim) send(b *boot, slot string, p, hop int) {
	var there []*boot
	for _, other := range s.boots {
		if other.slot == slot && other != b {
			there = append(there, other)
		}
	}
	if len(there) > 0 {
		to := there[s.rand.IntN(len(there))]
		s.messages = append(s.messages, simMessage{from: b, to: to, partition: p, term: b.state.Term(p), reached: b.reached[p], hop: hop})
	}
}

// deliver hands a message over, unless who sent or should get it is gone or on
// the other side.
func (s *sim) deliver(m simMessage) {
	s.t.Helper()
	b := m.to
	if b.side != m.from.side || !slices.Contains(s.boots, b) || m.answer && !slices.Contains(s.boots, m.from) {
		return
	}
	decide := b.state.Admit(m.partition, m.term).Decide
	s.hear(b, m)
	switch {
	case m.answer && !m.decided && m.hop == 1:
		s.send(b, b.state.Table().Owner(m.partition), m.partition, 2)
		return
	case m.answer:
		return
	case decide:
		s.counts.decided++
		if b.state.Role(m.partition) != Active || b.state.Term(m.partition) < m.term || b.state.Term(m.partition) < b.reached[m.partition] {
			s.t.Fatalf("%s.%d decides for %d as %s at %#x, a call at %#x", b.slot, b.id, m.partition, b.state.Role(m.partition), b.state.Term(m.partition), m.term)
		}
	default:
		s.counts.redirected++
	}
	s.messages = append(s.messages, simMessage{
		from: b, to: m.from, partition: m.partition, hop: m.hop, answer: true, decided: decide,
		term: b.state.Term(m.partition), reached: b.reached[m.partition],
	})
}

// converge heals everything, lets what is under way arrive and then has every
// boot ask the owner twice: once to tell it, once to be told.
func (s *sim) converge() {
	s.t.Helper()
	for _, b := range s.boots {
		b.side, s.joined[b.slot] = 0, true
	}
	s.flush()
	view := s.view(0)
	for _, b := range s.boots {
		s.follow(b, view)
	}
	table := tableOf(s.t, view.serving...)
	owners := map[int]*boot{}
	for range 2 {
		for _, p := range s.partitions {
			for _, b := range s.boots {
				if b.slot == table.Owner(p) && b.id == view.holders[b.slot] {
					owners[p] = b
				}
			}
			for _, b := range s.boots {
				if b != owners[p] {
					s.messages = append(s.messages, simMessage{from: b, to: owners[p], partition: p, term: b.state.Term(p), reached: b.reached[p], hop: 2})
					s.flush()
				}
			}
		}
	}
	for _, p := range s.partitions {
		var active []string
		for _, b := range s.boots {
			if b.state.Role(p) == Active {
				active = append(active, b.slot)
			}
			if b.state.Table().Digest() != table.Digest() || b.state.Term(p) != owners[p].state.Term(p) {
				s.t.Errorf("%s.%d: term of %d is %#x after healing, want that of the owner, %#x", b.slot, b.id, p, b.state.Term(p), owners[p].state.Term(p))
			}
		}
		if len(active) != 1 || active[0] != table.Owner(p) {
			s.t.Errorf("active for %d after healing: %s, want %s", p, strings.Join(active, " "), table.Owner(p))
		}
	}
	for claim := range s.taken {
		if owner := owners[claim.Partition]; claim.Term > owner.state.Term(claim.Partition) && s.alive(s.taken[claim]) {
			s.t.Errorf("%s owns %d at %#x, want at least %#x, which boot %d took", owner.slot, claim.Partition, owner.state.Term(claim.Partition), claim.Term, s.taken[claim])
		}
	}
}

func (s *sim) alive(id uint64) bool {
	return slices.ContainsFunc(s.boots, func(b *boot) bool { return b.id == id })
}

// flush delivers messages until there are none.
func (s *sim) flush() {
	s.t.Helper()
	for len(s.messages) > 0 {
		m := s.messages[0]
		s.messages = s.messages[1:]
		s.deliver(m)
	}
}
