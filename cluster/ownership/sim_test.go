// SPDX-License-Identifier: Apache-2.0

package ownership

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestSimulation runs 3 to 7 members through crashes, restarts while the former
// boot is alive, joins, leaves, splits and heals. Views arrive late, in any order
// or never; messages are delayed, repeated and lost. To repeat one seed, use -run 'TestSimulation/seed_N$'.
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
	// Each kind of event must have happened at least once.
	if total.decided == 0 || total.redirected == 0 || total.contested == 0 || total.fenced == 0 || total.twoOwners == 0 {
		t.Errorf("some kinds of events never happened: %+v", total)
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

// boot is one run of a member, with the behaviour of its router.
type boot struct {
	id    uint64 // from 1, in the order of starts
	name  string
	side  int // of a split
	state *State
	model *naive
	// reached is, per partition, the highest term that any message has brought
	// here, directly or through others. The test tracks it outside of the protocol.
	reached map[int]uint64
}

// simView is what gossip shows on one side of a split: the members that serve and
// the newest boot of each name.
type simView struct {
	serving []string
	newest  map[string]uint64
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
	names      []string
	joined     map[string]bool // names that serve while a boot of them is alive
	boots      []*boot         // alive
	lastBoot   uint64
	partitions []int
	messages   []simMessage
	views      []simDelivery
	taken      map[TermReport]uint64 // the boot that was active at a term
	counts     simCounts
}

func newSim(t *testing.T, seed uint64) *sim {
	s := &sim{t: t, rand: rand.New(rand.NewPCG(seed, 1)), joined: map[string]bool{}, taken: map[TermReport]uint64{}}
	for i := range 3 + s.rand.IntN(5) {
		s.names = append(s.names, fmt.Sprintf("limiter-%d", i))
	}
	for i := range 6 { // far apart and side by side
		s.partitions = append(s.partitions, i/2*1000+s.rand.IntN(500)*2+i%2)
	}
	for _, name := range s.names {
		s.start(name)
	}
	s.announce()
	return s
}

// start runs a new boot of a name, beside those that are still there.
func (s *sim) start(name string) {
	s.lastBoot++
	b := &boot{id: s.lastBoot, name: name, state: mustNew(s.t, name, s.lastBoot), reached: map[int]uint64{}}
	b.model = newNaive(b.state)
	s.boots = append(s.boots, b)
	s.joined[name] = true
}

// view returns the current view of one side.
func (s *sim) view(side int) simView {
	v := simView{newest: map[string]uint64{}}
	for _, b := range s.boots {
		if b.side == side {
			v.newest[b.name] = max(v.newest[b.name], b.id)
		}
	}
	for _, name := range s.names {
		if v.newest[name] > 0 && s.joined[name] {
			v.serving = append(v.serving, name)
		}
	}
	return v
}

// announce sends most boots the view of their side.
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
			s.applyRing(d.to, d.view)
		}
	case n < 50:
		s.call(s.boots[s.rand.IntN(len(s.boots))], s.partitions[s.rand.IntN(len(s.partitions))])
	default:
		if len(s.messages) > 0 {
			i := s.rand.IntN(len(s.messages))
			m := s.messages[i]
			if s.rand.IntN(8) > 0 { // otherwise it is delivered again
				s.messages = slices.Delete(s.messages, i, i+1)
			}
			if s.rand.IntN(8) > 0 { // otherwise it is lost
				s.deliver(m)
			}
		}
	}
}

// change makes a random change to the cluster.
func (s *sim) change() {
	some := s.rand.IntN(len(s.boots))
	switch b := s.boots[some]; s.rand.IntN(7) {
	case 0: // crash
		if len(s.boots) > 2 {
			s.boots = slices.Delete(s.boots, some, some+1)
		}
	case 1: // crash and restart, faster than any failure detector
		s.boots = slices.Delete(s.boots, some, some+1)
		s.start(b.name)
	case 2: // a second boot with a name, for example while the first one is paused
		if len(s.boots) < 12 {
			s.start(b.name)
		}
	case 3: // a member that is away comes back
		name := s.names[s.rand.IntN(len(s.names))]
		if !slices.ContainsFunc(s.boots, func(b *boot) bool { return b.name == name }) {
			s.start(name)
		}
	case 4: // leave or join
		s.joined[b.name] = !s.joined[b.name]
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

// applyRing steps a boot with a view.
func (s *sim) applyRing(b *boot, v simView) {
	e := RingChange{Table: tableOf(s.t, v.serving...), Fenced: v.newest[b.name] > b.id}
	b.model.ring(e.Table, e.Fenced, s.partitions)
	if e.Fenced {
		s.counts.fenced++
	}
	s.stepBoot(b, e)
}

// applyTerms steps a boot with the term of a message.
func (s *sim) applyTerms(b *boot, m simMessage) {
	b.reached[m.partition] = max(b.reached[m.partition], m.reached)
	if b.state.Admit(m.partition, m.term).Learn {
		c := TermReport{m.partition, m.term}
		b.model.report(c)
		s.stepBoot(b, TermReports{c})
	}
}

// stepBoot steps a boot and checks everything that must hold afterwards.
func (s *sim) stepBoot(b *boot, e Event) {
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
			s.t.Fatalf("%s.%d: term of %d decreased from %#x to %#x", b.name, b.id, p, was, is)
		}
		if next.Role(p) != Active {
			continue
		}
		if from.Role(p) != Active && is <= b.reached[p] {
			s.t.Fatalf("%s.%d: became active for %d at %#x, want above %#x, which had reached it", b.name, b.id, p, is, b.reached[p])
		}
		if other, ok := s.taken[TermReport{p, is}]; ok && other != b.id {
			s.t.Fatalf("%s.%d: active for %d at %#x, where boot %d was active", b.name, b.id, p, is, other)
		}
		s.taken[TermReport{p, is}] = b.id
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
		if other.name != b.name && other.state.Table().Digest() == b.state.Table().Digest() {
			s.t.Fatalf("%s.%d and %s.%d are both active for %d with the same table", b.name, b.id, other.name, other.id, p)
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

// send sends a call to a random boot of a name, because members may also have
// different addresses for it.
func (s *sim) send(b *boot, name string, p, hop int) {
	var targets []*boot
	for _, other := range s.boots {
		if other.name == name && other != b {
			targets = append(targets, other)
		}
	}
	if len(targets) > 0 {
		to := targets[s.rand.IntN(len(targets))]
		s.messages = append(s.messages, simMessage{from: b, to: to, partition: p, term: b.state.Term(p), reached: b.reached[p], hop: hop})
	}
}

// deliver delivers a message, unless the receiver has ended or is on the other
// side.
func (s *sim) deliver(m simMessage) {
	s.t.Helper()
	b := m.to
	if b.side != m.from.side || !slices.Contains(s.boots, b) || m.answer && !slices.Contains(s.boots, m.from) {
		return
	}
	decide := b.state.Admit(m.partition, m.term).Decide
	s.applyTerms(b, m)
	switch {
	case m.answer && !m.decided && m.hop == 1:
		s.send(b, b.state.Table().Owner(m.partition), m.partition, 2)
		return
	case m.answer:
		return
	case decide:
		s.counts.decided++
		if b.state.Role(m.partition) != Active || b.state.Term(m.partition) < m.term || b.state.Term(m.partition) < b.reached[m.partition] {
			s.t.Fatalf("%s.%d decides for %d as %s at %#x, a call at %#x", b.name, b.id, m.partition, b.state.Role(m.partition), b.state.Term(m.partition), m.term)
		}
	default:
		s.counts.redirected++
	}
	s.messages = append(s.messages, simMessage{
		from: b, to: m.from, partition: m.partition, hop: m.hop, answer: true, decided: decide,
		term: b.state.Term(m.partition), reached: b.reached[m.partition],
	})
}

// converge heals all splits, delivers the messages in flight and lets every boot
// call the owner twice: once to report its term, once to receive the owner's.
func (s *sim) converge() {
	s.t.Helper()
	for _, b := range s.boots {
		b.side, s.joined[b.name] = 0, true
	}
	s.flush()
	view := s.view(0)
	for _, b := range s.boots {
		s.applyRing(b, view)
	}
	table := tableOf(s.t, view.serving...)
	owners := map[int]*boot{}
	for range 2 {
		for _, p := range s.partitions {
			for _, b := range s.boots {
				if b.name == table.Owner(p) && b.id == view.newest[b.name] {
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
				active = append(active, b.name)
			}
			if b.state.Table().Digest() != table.Digest() || b.state.Term(p) != owners[p].state.Term(p) {
				s.t.Errorf("%s.%d: term of %d is %#x after healing, want that of the owner, %#x", b.name, b.id, p, b.state.Term(p), owners[p].state.Term(p))
			}
		}
		if len(active) != 1 || active[0] != table.Owner(p) {
			s.t.Errorf("active for %d after healing: %s, want %s", p, strings.Join(active, " "), table.Owner(p))
		}
	}
	for report := range s.taken {
		if owner := owners[report.Partition]; report.Term > owner.state.Term(report.Partition) && s.alive(s.taken[report]) {
			s.t.Errorf("%s owns %d at %#x, want at least %#x, which boot %d took", owner.name, report.Partition, owner.state.Term(report.Partition), report.Term, s.taken[report])
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
