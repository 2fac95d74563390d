// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"errors"
	"math"
	"slices"
	"strings"
	"time"
)

// never is a time before all others, and always one after all others.
const (
	never  = time.Duration(math.MinInt64 / 4)
	always = time.Duration(math.MaxInt64)
)

// Machine is the ownership protocol of one boot of one member. It is not safe for
// concurrent use. What it does depends on its events and their times only.
type Machine struct {
	o       Options
	self    ID
	tag     uint32
	booted  time.Duration
	now     time.Duration
	leaving bool
	left    bool // whether it may stop, as Effects.Left has said

	superseded bool // a newer boot of this member runs
	targets    Targets
	peers      []peer // all others, sorted by name

	roster       Roster
	before       Roster // the one before, if this member had settled in it
	member       bool   // whether this member is in it, in its newest boot
	rosterVote   rosterVote
	rosterChange *rosterChange
	expected     []string      // of a new cluster
	agreed       []string      // who agrees to expect them
	floor        uint64        // ballots are above it
	forget       string        // a member to remove from the roster, by an operator's word
	forgetFrom   time.Duration // when that was said
	former       []string      // those that were in a roster, latest last
	shunned      string        // a member whose removal was asked for: its pings are not answered
	shunnedUntil time.Duration // until when

	ready     bool   // whether this member votes
	settled   uint64 // the last epoch in which it had what majorities of the rosters before knew
	votesFrom []votesFrom
	voted     time.Duration // when this member voted last
	collects  time.Duration // since when it collects the votes of this roster
	asked     bool          // whether a member that does not vote yet has asked for its votes since then

	parts        []partition
	busy         bitmap // partitions that a tick has to look at
	digest       uint64 // of all known arrangements
	contactUntil time.Duration
	nextTransfer uint64
	// transfersEnded is set if some have ended since the last tick.
	transfersEnded bool
	changedAt      time.Duration // when calls changed an own partition last
	lastBeat       uint64        // number of the last heartbeat that named partitions
	restsUntil     time.Duration // until then, walk would find nothing to do while heartbeats are answered
	ticked         time.Duration // when the last tick was
	nextWalk       time.Duration
	nextCollect    time.Duration
	nextKnown      time.Duration // when to ask anybody for all arrangements again
	nextAsked      int           // the member of the roster that is asked for its votes next

	fx      Effects
	steps   uint64
	out     []Message
	touched []int

	transfersIn int // of the StateReceived
}

// peer is another member, in its newest boot.
type peer struct {
	ID
	state     MemberState
	inView    bool
	stays     bool          // whether it said that it is not leaving
	dead      []uint64      // boots that are proven dead, the last ones
	older     []uint64      // boots that were replaced, and are not proven dead
	replaced  time.Duration // when this member met the boot that replaced the last of them
	toldStep  uint64        // the step in which it was told of new boots
	heard     time.Duration // when the last message came
	contact   time.Duration // when this member sent the last ping that the peer answered
	answered  time.Duration // when this member last answered a ping of the peer
	differs   int           // pings in a row with another digest
	steady    int           // the last of them, in which neither side's digest has changed
	digest    uint64        // of its last ping
	mine      uint64        // digest of this member then
	nextKnown time.Duration // when to ask for all arrangements again
	tellFrom  int           // the partition from which on it is told all arrangements, if tells
	tells     bool          // it has asked for them
	beats     int           // how many were in the last heartbeat
	asks      *beatList     // of this member as the owner, nil or ended: its heartbeats name partitions
	grants    *beatList     // of this member as the heir
	outStep   uint64        // the step in which out is the index of the message to it
	out       int
}

// partition is the state of one partition.
type partition struct {
	// Of the register: the votes of this member.
	promised, accepted uint64
	value              Arrangement

	known  Arrangement // the highest that is known to be chosen
	synced bool        // whether its heir is known to have a complete copy
	stale  bool        // the roster has changed without this member: ask before acting on known

	copy    Copy
	present bool // whether the host has records, complete or not
	journal bool // whether there is something to report to the owner
	owned   bool // whether this boot has ever been the owner

	beats *beatList // that the partition is in; nil: none

	// As the owner.
	sealed, drained bool
	sealedAt        time.Duration
	leaseUntil      time.Duration
	heirHeard       time.Duration
	heir            stream
	durable         uint64
	unackedSince    time.Duration // all changes that the heir has not acknowledged were made then or later
	marks           [lagMarks]mark
	marked          int // how many marks are in use
	export          *export
	repayAt         time.Duration

	// As the heir, and as a receiver of a copy.
	granted  time.Duration // until when the owner may count on a lease, or longer: see grantedUntil
	warming  uint64        // the transfer
	warmedAt time.Duration
	held     uint64 // the transfer for which a complete copy was acknowledged, which the owner may count on; 0: none

	proposal   *proposal
	shown      Change
	shownUntil time.Duration
}

// bitmap is a set of partitions.
type bitmap []uint64

func (b bitmap) set(i int)   { b[i/64] |= 1 << (i % 64) }
func (b bitmap) clear(i int) { b[i/64] &^= 1 << (i % 64) }

// New returns the machine of a boot that knows nothing.
func New(self ID, o Options, now time.Duration) (*Machine, error) {
	switch {
	case self.Name == "" || self.Boot == 0:
		return nil, errors.New("self: must have a name and a boot")
	case o.Partitions < 1:
		return nil, errors.New("partitions: must be positive")
	case o.Contact < o.Lease:
		return nil, errors.New("contact: must not be shorter than lease")
	case o.Forget <= o.ForgetAfter():
		return nil, errors.New("forget: must be longer than contact and lease together")
	}
	m := &Machine{
		o: o, self: self, tag: tagOf(self), booted: now, now: now, targets: noTargets{},
		parts: make([]partition, o.Partitions), busy: make(bitmap, (o.Partitions+63)/64), contactUntil: never, nextWalk: now, nextCollect: now,
	}
	for i := range m.parts {
		m.parts[i].shown.Partition = i
		m.parts[i].shownUntil = never
	}
	return m, nil
}

// noTargets is the ring before the first view.
type noTargets struct{}

func (noTargets) Owner(int) string { return "" }
func (noTargets) Heir(int) string  { return "" }

// Step returns the effects of an event at a time of a clock that never goes back
// and also counts the time in which the process was suspended.
func (m *Machine) Step(e Event, now time.Duration) Effects {
	m.now = max(m.now, now)
	m.steps++
	m.fx = Effects{Apply: m.fx.Apply[:0], Leases: m.fx.Leases[:0], Durable: m.fx.Durable[:0], States: m.fx.States[:0]}
	m.out, m.touched = nil, m.touched[:0]
	if m.superseded {
		return m.fx
	}
	switch e := e.(type) {
	case Received:
		m.receive(e.Message)
	case StateReceived:
		m.transfersIn = len(e)
		for i := range e {
			m.receiveState(i, &e[i])
		}
	case Tick:
		m.tick()
	case Changed:
		for i := range e {
			m.changed(&e[i])
		}
	case Drained:
		m.drainedUntil(e)
	case View:
		m.applyView(e)
	case Bootstrap:
		if !slices.Equal(m.expected, e.Names) {
			m.agreed = nil
		}
		m.expected, m.floor = slices.Clone(e.Names), uint64(e.Round)<<tagBits
		m.bootstrap()
	case Dead:
		if p := m.peer(e.ID.Name); p != nil {
			p.noteDead(e.ID.Boot)
			m.walk()
		}
	case Restored:
		p := &m.parts[e.Partition]
		m.endList(p.beats)
		p.copy, p.present = e.Copy, true
		p.promised = max(p.promised, e.Copy.Origin) // new terms are above those of copies
	case Journaled:
		p := &m.parts[e.Partition]
		p.journal, p.repayAt = true, m.now
		m.touch(e.Partition)
	case Repaid:
		m.parts[e.Partition].journal = false
		m.touch(e.Partition)
	case Forget:
		m.forgetMember(e)
	}
	m.publish()
	for i := range m.out {
		if p := m.peer(m.out[i].To.Name); p != nil && len(m.out[i].Beats) > 0 {
			p.beats = len(m.out[i].Beats)
		}
	}
	m.fx.Messages = m.out
	return m.fx
}

// message returns the message to a member in this step, or nil if it has ended.
func (m *Machine) message(to ID) *Message {
	p := m.peer(to.Name)
	if p == nil || p.ID != to {
		return nil
	}
	if p.outStep != m.steps {
		p.outStep, p.out = m.steps, len(m.out)
		m.out = append(m.out, Message{From: m.self, To: to, Epoch: m.roster.Epoch})
	}
	return &m.out[p.out]
}

// send adds an entry to the message to a member.
func (m *Machine) send(to ID, e Entry) {
	if msg := m.message(to); msg != nil {
		msg.Entries = append(msg.Entries, e)
	}
}

// sendVoters sends an entry to all other members of the roster.
func (m *Machine) sendVoters(e Entry) {
	for i := range m.peers {
		if m.roster.has(m.peers[i].Name) {
			m.send(m.peers[i].ID, e)
		}
	}
}

func (m *Machine) sendAll(e Entry) {
	for i := range m.peers {
		m.send(m.peers[i].ID, e)
	}
}

// touch marks a partition whose role may have changed, and which the next tick
// has to look at.
func (m *Machine) touch(i int) {
	m.busy.set(i)
	m.show(i)
	m.nextWalk, m.restsUntil = min(m.nextWalk, m.now+m.o.Heartbeat), never
}

// show marks a partition whose role or lease may have changed.
func (m *Machine) show(i int) { m.touched = append(m.touched, i) }

// publish reports what has changed for routers.
func (m *Machine) publish() {
	slices.Sort(m.touched)
	for _, i := range slices.Compact(m.touched) {
		p := &m.parts[i]
		c := Change{Partition: i, Role: m.Role(i), Current: p.known}
		if c != p.shown {
			p.shown = c
			m.fx.Changes = append(m.fx.Changes, c)
		}
		if until := m.decidesUntil(i); until != p.shownUntil {
			p.shownUntil = until
			m.fx.Leases = append(m.fx.Leases, Lease{Partition: i, Until: until})
		}
	}
}

// fewPeers is up to how many peers are found faster one by one: each heartbeat looks for some
// of them several times for each partition.
const fewPeers = 8

// peer returns another member, or nil.
func (m *Machine) peer(name string) *peer {
	if len(m.peers) <= fewPeers {
		for i := range m.peers {
			if m.peers[i].Name == name {
				return &m.peers[i]
			}
		}
		return nil
	}
	i, ok := slices.BinarySearchFunc(m.peers, name, func(p peer, name string) int { return strings.Compare(p.Name, name) })
	if !ok {
		return nil
	}
	return &m.peers[i]
}

// meet returns the peer of an ID, new or in its new boot, or nil if the ID is of an
// earlier boot or of this member.
func (m *Machine) meet(id ID) *peer {
	if id.Name == m.self.Name || id.IsZero() {
		if id.Name == m.self.Name && id.Boot > m.self.Boot {
			m.supersede()
		}
		return nil
	}
	i, ok := slices.BinarySearchFunc(m.peers, id.Name, func(p peer, name string) int { return strings.Compare(p.Name, name) })
	if !ok {
		m.peers = slices.Insert(m.peers, i, peer{})
		m.nextWalk = min(m.nextWalk, m.now+m.o.Heartbeat)
	}
	p := &m.peers[i]
	switch {
	case p.Boot > id.Boot:
		return nil
	case p.Boot < id.Boot:
		m.endLists(p)
		if p.noteBoot(id, m.now); ok {
			m.dropVotes(id.Name)
		} else {
			p.answered, p.replaced = never, never
		}
	}
	return p
}

func (m *Machine) applyView(v View) {
	for i := range m.peers {
		m.peers[i].inView = false
	}
	for _, member := range v.Members {
		if member.ID == m.self {
			m.leaving = m.leaving || member.State == Leaving
			continue
		}
		if p := m.meet(member.ID); p != nil {
			p.inView, p.state = true, member.State
		}
	}
	m.peers = slices.DeleteFunc(m.peers, func(p peer) bool {
		gone := !p.inView && !m.roster.has(p.Name)
		if gone {
			m.endLists(&p)
		}
		return gone
	})
	if v.Targets != nil {
		m.targets = v.Targets
	}
	m.walk()
}

// removed reports whether the member of a boot is not in the roster. It cannot have
// granted leases, or decided without an heir, since it was removed.
func (m *Machine) removed(id ID) bool {
	return !id.IsZero() && m.roster.Epoch > 0 && !m.roster.has(id.Name)
}

// usable returns the current boot of a member that can receive partitions, if it
// has answered lately.
func (m *Machine) usable(name string) (ID, bool) {
	p := m.peer(name)
	if p == nil || p.state != Serving || !m.roster.has(name) || p.isDead(p.Boot) || m.now-p.contact > m.o.HeirSilence {
		return ID{}, false
	}
	return p.ID, true
}

// inContact reports whether a majority of the roster has answered within
// [Options.Contact].
func (m *Machine) inContact() bool {
	return m.member && (len(m.roster.Names) == 1 || m.now < m.contactUntil)
}

// updateContact computes until when a majority is in contact.
func (m *Machine) updateContact() {
	times := make([]time.Duration, 0, len(m.roster.Names))
	for _, name := range m.roster.Names {
		if name == m.self.Name {
			times = append(times, m.now)
		} else if p := m.peer(name); p != nil {
			times = append(times, p.contact)
		} else {
			times = append(times, never)
		}
	}
	slices.Sort(times)
	if n := len(times) - m.roster.majority(); m.votedOut(m.self.Name) {
		m.contactUntil = never
	} else if n >= 0 && len(times) > 0 {
		m.contactUntil = times[n] + m.o.Contact
	}
}
