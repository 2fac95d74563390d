// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"testing"
	"time"
)

// TestOperatorForgetsAnEndedMember: when a process is proven dead, the votes are there at
// once, whichever member is asked.
func TestOperatorForgetsAnEndedMember(t *testing.T) {
	s := calm(t, 4)
	dead, n := s.node("n1"), s.node("n2")
	dead.stop()
	for _, o := range s.nodes {
		o.step(Dead{dead.id})
	}
	s.run(t, time.Second)
	if !n.m.Roster().has("n1") {
		t.Fatal("the member is forgotten without an order")
	}
	if n.m.Answers("n1", n.clock()) || n.m.Answering(n.clock()) != 3 {
		t.Errorf("the dead member answers: %v, of 4 members %d, want false, 3", n.m.Answers("n1", n.clock()), n.m.Answering(n.clock()))
	}
	n.step(Forget{Name: "n1"})
	s.until(t, time.Second, "forgotten", func() bool { return !s.node("n0").m.Roster().has("n1") && n.m.Former("n1") })
	if n.m.Former("n0") || n.m.Former("x") {
		t.Error("others are former members")
	}
	s.node("n3").stop()
	s.until(t, 10*time.Second, "decided by two of three", s.allDecided)
}

// TestOperatorForgetsALostMember: one that is out of reach is forgotten when it cannot
// decide any more, and before it is without an order.
func TestOperatorForgetsALostMember(t *testing.T) {
	s := calm(t, 3)
	lost, n := s.node("n1"), s.node("n2")
	s.isolate("n1", true)
	s.run(t, s.o.Lease)
	n.step(Forget{Name: "n1"})
	took := s.until(t, s.o.Forget, "forgotten", func() bool { return !n.m.Roster().has("n1") })
	if least := s.o.ForgetAfter() - s.o.Lease - s.o.Heartbeat; took < least || took > least+time.Second {
		t.Errorf("took %v, want from %v on", took, least)
	}
	for p := range simPartitions {
		if lost.m.Decides(p, lost.clock()) {
			t.Errorf("the forgotten member decides for p%d", p)
		}
	}
	s.isolate("n1", false)
	s.until(t, 8*time.Second, "a member again", func() bool { return n.m.Roster().has("n1") })
	if n.m.Former("n1") {
		t.Error("a member is a former one")
	}
	s.run(t, 5*time.Second)
	s.checkEnd()
	s.run(t, 0)
}

// TestOrderEndsWhenTheMemberReturns: it does not hit the next time that it is silent.
func TestOrderEndsWhenTheMemberReturns(t *testing.T) {
	s := calm(t, 3)
	n := s.node("n2")
	s.isolate("n1", true)
	s.run(t, s.o.Lease)
	n.step(Forget{Name: "n1"})
	s.run(t, time.Second)
	s.isolate("n1", false)
	s.run(t, 2*time.Second)
	dead := s.node("n1")
	dead.stop()
	for _, o := range s.nodes {
		o.step(Dead{dead.id})
	}
	s.run(t, s.o.ForgetAfter())
	if !n.m.Roster().has("n1") {
		t.Error("the order outlives the return of the member")
	}
}
