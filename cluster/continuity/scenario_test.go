// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"fmt"
	"testing"
	"time"
)

// calm returns a cluster of n members without faults, in which every partition has
// its owner and heir.
func calm(t *testing.T, n int) *sim {
	t.Helper()
	s := newSim(7, noBug)
	s.tracing = true
	for i := range n {
		s.expect = append(s.expect, fmt.Sprintf("n%d", i))
	}
	for _, name := range s.expect {
		s.start(name, Joining, s.expect)
	}
	s.run(t, 5*time.Second)
	s.checkEnd()
	s.run(t, 0)
	return s
}

// run runs for a span of time and ends the test if a promise was broken.
func (s *sim) run(t *testing.T, d time.Duration) {
	t.Helper()
	s.runFor(d)
	if s.failure != "" {
		t.Fatal(s.report(40))
	}
}

// until runs until a condition holds and returns how long that took.
func (s *sim) until(t *testing.T, atMost time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	for start := s.now; s.now-start < atMost; s.run(t, time.Millisecond) {
		if ok() {
			return s.now - start
		}
	}
	t.Fatalf("after %v: not %s\n%s", atMost, what, s.report(40))
	return 0
}

// node returns the running boot of a member.
func (s *sim) node(name string) *simNode { return s.members[name].node }

// decider returns who decides for a partition, or nil.
func (s *sim) decider(p int) *simNode {
	for _, n := range s.nodes {
		if n.m.Decides(p, n.clock()) && !n.paused {
			return n
		}
	}
	return nil
}

// allDecided reports whether a node decides for each partition.
func (s *sim) allDecided() bool {
	for p := range simPartitions {
		if s.decider(p) == nil {
			return false
		}
	}
	return true
}

// ownedBy returns the partitions that a member owns.
func (s *sim) ownedBy(name string) (owned []int) {
	for p := range simPartitions {
		if n := s.node(name); n.m.Current(p).Owner == n.id {
			owned = append(owned, p)
		}
	}
	return owned
}

// isolate cuts a member from all others.
func (s *sim) isolate(name string, on bool) {
	for _, other := range s.names() {
		if other != name {
			s.cut[[2]string{name, other}], s.cut[[2]string{other, name}] = on, on
		}
	}
}

func TestSingleMember(t *testing.T) {
	s := calm(t, 1)
	n := s.node("n0")
	for p := range simPartitions {
		if !n.m.Decides(p, n.clock()) || n.m.Waits() {
			t.Errorf("p%d: decides %v, waits %v, want true, false", p, n.m.Decides(p, n.clock()), n.m.Waits())
		}
	}
}

func TestTwoMembersFallBackWithoutEachOther(t *testing.T) {
	s := calm(t, 2)
	owned := s.ownedBy("n0")
	s.node("n1").stop()
	s.run(t, s.o.Lease+100*time.Millisecond)
	n := s.node("n0")
	for _, p := range owned {
		if n.m.Role(p) != Fenced {
			t.Errorf("p%d: %s, want fenced", p, n.m.Role(p))
		}
	}
	n.step(Forget{Name: "n1", Force: true})
	s.until(t, 5*time.Second, "exact", s.allDecided)
}

func TestOwnerGoesOnWithoutItsHeir(t *testing.T) {
	s := calm(t, 3)
	p := s.ownedBy("n0")[0]
	n := s.node("n0")
	s.node(n.m.Current(p).Heir.Name).stop()
	took := s.until(t, 2*time.Second, "with another heir", func() bool {
		if s.decider(p) != n {
			t.Fatalf("%s stops deciding %s", n.id, s.report(20))
		}
		return n.m.Synced(p) && s.node(n.m.Current(p).Heir.Name) != nil
	})
	if took < s.o.HeirSilence-s.o.Heartbeat || took > s.o.HeirSilence+300*time.Millisecond {
		t.Errorf("took %v, want about %v", took, s.o.HeirSilence)
	}
}

func TestKilledOwnerIsReplacedAtOnce(t *testing.T) {
	s := calm(t, 3)
	p := s.ownedBy("n1")[0]
	dead := s.node("n1")
	dead.stop()
	for _, n := range s.nodes {
		n.step(Dead{dead.id})
	}
	if took := s.until(t, time.Second, "replaced", func() bool { return s.decider(p) != nil }); took > 20*time.Millisecond {
		t.Errorf("took %v, want a few round trips", took)
	}
}

func TestLostOwnerIsReplacedAfterItsLease(t *testing.T) {
	s := calm(t, 3)
	p := s.ownedBy("n1")[0]
	s.isolate("n1", true)
	s.until(t, 3*time.Second, "fenced", func() bool { return s.decider(p) == nil })
	took := s.until(t, time.Second, "replaced", func() bool { return s.decider(p) != nil })
	if took > s.o.Lease/10+s.o.Heartbeat+100*time.Millisecond {
		t.Errorf("nobody decides for %v", took)
	}
	s.isolate("n1", false)
	s.run(t, 5*time.Second)
	s.checkEnd()
	s.run(t, 0)
}

func TestPausedOwnerDecidesNothing(t *testing.T) {
	s := calm(t, 3)
	p := s.ownedBy("n1")[0]
	n := s.node("n1")
	n.paused = true
	s.run(t, 5*time.Second)
	if n.m.Decides(p, n.clock()) {
		t.Error("decides after a pause of 5 s")
	}
	s.resume(n)
	s.run(t, 5*time.Second)
	s.checkEnd()
	s.run(t, 0)
}

// TestVotersDoNotForget checks that a member which has restarted does not vote
// before it knows the votes of others, and that it then knows its own.
func TestVotersDoNotForget(t *testing.T) {
	s := calm(t, 3)
	p := s.ownedBy("n0")[0]
	ballot := s.node("n2").m.parts[p].promised
	s.node("n2").stop()
	s.cut[[2]string{"n0", "n2"}] = true
	n := s.start("n2", Joining, s.expect)
	s.run(t, time.Second)
	if n.m.Voter() {
		t.Error("votes with the votes of one of two others")
	}
	fx := n.m.Step(Received{Message{From: s.node("n1").id, To: n.id, Epoch: 1, Entries: []Entry{{Kind: Prepare, Partition: p, Ballot: 1}}}}, n.clock())
	for _, msg := range fx.Messages {
		for _, e := range msg.Entries {
			if e.Kind == Promise {
				t.Errorf("answers %+v", e)
			}
		}
	}
	delete(s.cut, [2]string{"n0", "n2"})
	s.until(t, time.Second, "a voter", n.m.Voter)
	if got := n.m.parts[p].promised; got < ballot {
		t.Errorf("promised %x, want at least %x, as before the restart", got, ballot)
	}
}

func TestLeaverHandsOver(t *testing.T) {
	s := calm(t, 4)
	owned := s.ownedBy("n1")
	if len(owned) == 0 {
		t.Fatal("n1 owns nothing")
	}
	n := s.node("n1")
	s.members["n1"].state = Leaving
	took := s.until(t, 10*time.Second, "gone", func() bool { return n.left })
	t.Logf("handed over %d partitions in %v", len(owned), took)
	s.run(t, 100*time.Millisecond)
	if o, h, j := n.m.Holdings(); o+h+j > 0 || s.nodes[0].m.Roster().has("n1") {
		t.Errorf("owns %d, heir of %d, journals %d, roster %v", o, h, j, s.nodes[0].m.Roster())
	}
	s.run(t, 5*time.Second)
	s.checkEnd()
	s.run(t, 0)
}

// TestMovesAreShort checks that a planned move stops decisions for a few round trips
// and the time that decisions in progress take.
func TestMovesAreShort(t *testing.T) {
	s := calm(t, 3)
	s.start("x1", Joining, nil)
	var since, longest [simPartitions]time.Duration
	for end := s.now + 10*time.Second; s.now < end; s.run(t, 50*time.Microsecond) {
		for p := range simPartitions {
			switch {
			case s.decider(p) != nil:
				since[p] = 0
			case since[p] == 0:
				since[p] = s.now
			default:
				longest[p] = max(longest[p], s.now-since[p])
			}
		}
	}
	s.checkEnd()
	s.run(t, 0)
	if len(s.ownedBy("x1")) == 0 {
		t.Fatal("nothing moved")
	}
	const drain = 2 * time.Millisecond
	for p, d := range longest {
		if d > drain+6*2*s.delay {
			t.Errorf("p%d: nobody decided for %v, want at most the drain and 6 round trips of at most %v", p, d, 2*s.delay)
		}
	}
	t.Logf("longest pauses: %v", longest)
}

// TestNewClusterForgetsNothing checks that no partition is created before all
// expected members agree, and then once.
func TestNewClusterForgetsNothing(t *testing.T) {
	s := newSim(7, noBug)
	s.expect = []string{"n0", "n1", "n2"}
	s.start("n0", Joining, s.expect)
	s.start("n1", Joining, s.expect)
	s.run(t, 3*time.Second)
	for p := range simPartitions {
		if n := s.decider(p); n != nil {
			t.Errorf("%s decides for p%d, but a member is missing", n.id, p)
		}
	}
	s.start("n2", Joining, s.expect)
	s.run(t, 5*time.Second)
	s.checkEnd()
	s.run(t, 0)
}

// TestForgottenMemberStops checks that a member which is cut off for long leaves the
// roster only after it has stopped deciding, and returns without its old roles.
func TestForgottenMemberStops(t *testing.T) {
	s := calm(t, 3)
	n := s.node("n1")
	s.isolate("n1", true)
	s.until(t, s.o.Forget+5*time.Second, "forgotten", func() bool { return !s.node("n0").m.Roster().has("n1") })
	for p := range simPartitions {
		if n.m.Decides(p, n.clock()) {
			t.Errorf("the forgotten member decides for p%d", p)
		}
	}
	s.isolate("n1", false)
	s.run(t, 8*time.Second)
	s.checkEnd()
	s.run(t, 0)
}

// TestMajorityLosesItsMemory restarts two of three members at once.
func TestMajorityLosesItsMemory(t *testing.T) {
	s := calm(t, 3)
	for _, name := range []string{"n0", "n2"} {
		s.node(name).stop()
		s.start(name, Joining, s.expect)
	}
	s.run(t, 10*time.Second)
	s.checkEnd()
	s.run(t, 0)
}

// TestRestartFromDisk restarts all members with copies that they had, of which the
// freshest are served.
func TestRestartFromDisk(t *testing.T) {
	s := calm(t, 3)
	type kept struct {
		copies [simPartitions]Copy
		stores [simPartitions]*simStore
	}
	disks := map[string]kept{}
	var want [simPartitions]simContent
	for _, name := range s.names() {
		var k kept
		n := s.node(name)
		for p := range simPartitions {
			k.copies[p], k.stores[p] = n.m.Copy(p), n.stores[p]
			if n.m.Current(p).Owner == n.id {
				n.record(p, uint64(100+p), 5, false, func() {}) // its heir does not have this
				k.copies[p] = n.m.Copy(p)
				want[p] = content(n.stores[p])
			}
		}
		disks[name] = k
	}
	for _, name := range s.names() {
		s.node(name).stop()
	}
	for _, name := range s.names() {
		n := s.start(name, Joining, nil)
		for p := range simPartitions {
			n.stores[p] = disks[name].stores[p]
			n.step(Restored{p, disks[name].copies[p]})
		}
		n.step(Bootstrap{Names: s.expect})
	}
	for p := range simPartitions {
		s.history.parts[p].contents = map[Copy]simContent{} // terms of the same number may return
	}
	s.run(t, 5*time.Second)
	s.checkEnd()
	s.run(t, 0)
	for p := range simPartitions {
		if got := content(s.decider(p).stores[p]); got != want[p] {
			t.Errorf("p%d: %+v, want %+v", p, got, want[p])
		}
	}
}

// TestLateVotesDoNotCount checks that a vote counts only for as long as a voter that
// restarts waits.
func TestLateVotesDoNotCount(t *testing.T) {
	m, now := machineOf(t, 3)
	m.propose(0, changeHeir, ID{})
	ballot := m.parts[0].proposal.ballot
	promise := Received{Message{From: ID{"n01", 1}, To: m.self, Epoch: 1, Entries: []Entry{{Kind: Promise, Partition: 0, Ballot: ballot}}}}
	m.Step(promise, now+m.o.VoteTimeout)
	if r := m.parts[0].proposal; r.phase != 1 || len(r.promises) != 1 {
		t.Errorf("phase %d with %d promises after a late promise, want 1, 1", r.phase, len(r.promises))
	}
	m, now = machineOf(t, 3)
	m.propose(0, changeHeir, ID{})
	m.Step(promise, now+m.o.VoteTimeout-1)
	if r := m.parts[0].proposal; r.phase != 2 {
		t.Errorf("phase %d after a promise in time, want 2", r.phase)
	}
}
