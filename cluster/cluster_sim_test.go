// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMembersFindEachOther(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		nodes := s.bootAll(5)
		want := nodes[0].View().Members
		for _, n := range nodes {
			select {
			case <-n.Joined():
			default:
				t.Errorf("%s: Joined() is open, want closed", n.options.Name)
			}
			if got := n.View().Members; !slices.Equal(got, want) {
				t.Errorf("%s: members = %v, want those of node-1, %v", n.options.Name, got, want)
			}
		}
		if m, ok := nodes[4].View().Member("node-2"); !ok || m.GRPC != netip.MustParseAddrPort("10.0.0.2:6471") || m.HTTP.IsValid() || m.Ring != 7 {
			t.Errorf("Member(node-2) = %+v, %t, want it with gRPC on 10.0.0.2:6471 only", m, ok)
		}
		number := nodes[0].View().Number
		time.Sleep(10 * time.Minute)
		if got := nodes[0].View().Number; got != number {
			t.Errorf("view after ten minutes without changes = %d, want still %d", got, number)
		}
	})
}

func TestFastRestartIsACrashAndAJoin(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		nodes := s.bootAll(3)
		before := nodes[0].View()
		old := nodes[2]
		old.crash()
		again := s.boot("node-3", 3, nil) // faster than the failure detector
		took := s.until(5*time.Second, func() bool {
			m, _ := nodes[0].View().Member("node-3")
			return m.Boot.ID == again.options.Boot.ID && m.State == Serving
		}, nodes[0], again)
		if took > 3*time.Second {
			t.Errorf("new boot is in the view after %s, want before the death of the old one is detected", took)
		}
		after := nodes[0].View()
		var got []string
		for _, c := range Diff(before, after) {
			got = append(got, fmt.Sprintf("%s %s", c.Kind, cmpOr(c.Before, c.After).gossipName()))
		}
		want := []string{"crashed " + gossipName("node-3", old.options.Boot.ID), "joined " + gossipName("node-3", again.options.Boot.ID)}
		if !slices.Equal(got, want) {
			t.Errorf("Diff = %v, want %v", got, want)
		}
		if len(after.Fenced) != 0 || after.SelfFenced() {
			t.Errorf("fenced = %v, want none: the old boot's address is taken", after.Fenced)
		}
		time.Sleep(10 * time.Second) // the death of the old boot is detected now
		if got := nodes[0].fate(old.options.Boot.ID); got != Crashed {
			t.Errorf("fate of the old boot = %s, want crashed", got)
		}
		s.await(time.Second, []*simNode{nodes[0], nodes[1], again}, "node-1", "node-2", "node-3")
	})
}

func cmpOr(a, b Member) Member {
	if a.Name != "" {
		return a
	}
	return b
}

func TestOlderBootIsFenced(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		nodes := s.bootAll(3)
		time.Sleep(time.Second)
		twin := s.boot("node-3", 9, nil)
		older := nodes[2]
		s.until(5*time.Second, older.fenced, older, twin)
		if twin.View().SelfFenced() {
			t.Error("newer boot: SelfFenced() = true, want false")
		}
		s.until(5*time.Second, func() bool { return len(nodes[0].View().Fenced) == 1 }, nodes[0])
		if m, _ := nodes[0].View().Member("node-3"); m.Boot.ID != twin.options.Boot.ID {
			t.Errorf("node-3 is boot %s, want the newer one, %s", m.Boot.ID, twin.options.Boot.ID)
		}
		if got := older.log.count("this node is fenced"); got != 1 {
			t.Errorf("older boot logged that it is fenced %d times, want once", got)
		}
		twin.crash()
		s.until(5*time.Second, func() bool {
			m, ok := older.View().Member("node-3")
			return ok && m.Boot.ID == older.options.Boot.ID
		}, older)
		if !older.fenced() {
			t.Error("the older boot is not fenced any more after the newer one has crashed")
		}
	})
}

func (n *simNode) fenced() bool { return n.View().SelfFenced() && n.Status().Fenced }

func TestLeaveIsNotACrash(t *testing.T) {
	for _, size := range []int{1, 3, 7} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			simulate(t, func(t *testing.T, s *sim) {
				nodes := s.bootAll(size)
				leaver := nodes[0]
				start := time.Now()
				if err := leaver.Leave(t.Context()); err != nil {
					t.Fatalf("Leave: %v", err)
				}
				if took := time.Since(start); took > 6*time.Second {
					t.Errorf("Leave took %s, want about 3 s", took)
				}
				if err := <-leaver.ran; err != nil {
					t.Errorf("Run = %v, want nil", err)
				}
				for _, n := range nodes[1:] {
					if got := n.fate(leaver.options.Boot.ID); got != Left {
						t.Errorf("%s: fate = %s, want left\n%s", n.options.Name, got, n.log)
					}
					if got := n.View().Roster(); got != size-1 {
						t.Errorf("%s: Roster() = %d, want %d", n.options.Name, got, size-1)
					}
					if len(n.View().missing) != 0 {
						t.Errorf("%s: missing = %v, want none", n.options.Name, n.View().missing)
					}
				}
				time.Sleep(time.Minute)
				for _, n := range nodes[1:] {
					if got := n.log.count("crashed"); got != 0 {
						t.Errorf("%s: log has a crash:\n%s", n.options.Name, n.log)
					}
				}
				if err := leaver.Leave(t.Context()); err == nil {
					t.Error("second Leave = nil, want an error")
				}
			})
		})
	}
}

func TestLeaveIsBounded(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		nodes := s.bootAll(3)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := nodes[0].Leave(ctx); err == nil {
			t.Error("Leave with no time = nil, want an error")
		}
		if took := time.Since(start); took > updateTimeout+time.Second {
			t.Errorf("Leave took %s, want little more than its context allows", took)
		}
	})
}

// TestLeaveDuringACrash ends Run at different moments during Leave.
func TestLeaveDuringACrash(t *testing.T) {
	for after := time.Duration(0); after < 4*time.Second; after += 130 * time.Millisecond {
		simulate(t, func(t *testing.T, s *sim) {
			nodes := s.bootAll(3)
			left := make(chan error, 1)
			go func() { left <- nodes[0].Leave(t.Context()) }()
			time.Sleep(after)
			nodes[0].crash()
			if err := <-left; err == nil {
				return // it had finished
			}
			s.await(10*time.Second, nodes[1:], "node-2", "node-3")
		})
	}
}

func TestStateNeverGoesBack(t *testing.T) {
	c, err := New(validOptions())
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range []State{Serving, Serving, Leaving} {
		if err := c.SetState(state); err != nil {
			t.Errorf("SetState(%s) = %v, want nil", state, err)
		}
	}
	for _, state := range []State{0, Joining, Serving, 4} {
		if err := c.SetState(state); err == nil {
			t.Errorf("SetState(%s) after leaving = nil, want an error", state)
		}
	}
	if got := c.Status(); got.State != Leaving || got.View.Number != 0 || got.Keys != nil {
		t.Errorf("Status() = %+v, want leaving, an empty view and no keys", got)
	}
}

func TestPolicySkewShows(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		nodes := s.bootAll(3)
		if got := nodes[0].View().PolicySkew(); got != nil {
			t.Errorf("PolicySkew() = %v, want nil", got)
		}
		nodes[1].SetPolicy(71)
		s.until(2*time.Second, func() bool { return nodes[2].View().PolicySkew() != nil }, nodes...)
		got := fmt.Sprint(nodes[2].Status().PolicySkew)
		if want := "[{0000000000000046 [node-1 node-3]} {0000000000000047 [node-2]}]"; got != want {
			t.Errorf("PolicySkew() = %s, want %s", got, want)
		}
		nodes[0].SetPolicy(71)
		nodes[2].SetPolicy(71)
		s.until(2*time.Second, func() bool { return nodes[2].View().PolicySkew() == nil }, nodes...)
		if got := nodes[2].log.count("different policies"); got != 1 {
			t.Errorf("log has the skew %d times, want once", got)
		}
	})
}

// TestRulesSkewShows checks that members without rules are ignored.
func TestRulesSkewShows(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		nodes := s.bootAll(3)
		nodes[0].SetRules(5)
		s.until(2*time.Second, func() bool { m, _ := nodes[2].View().Member("node-1"); return m.Rules == 5 }, nodes...)
		if got := nodes[2].View().RulesSkew(); got != nil {
			t.Errorf("RulesSkew() with one member that has rules = %v, want nil", got)
		}
		nodes[1].SetRules(6)
		s.until(2*time.Second, func() bool { return nodes[2].View().RulesSkew() != nil }, nodes...)
		got := fmt.Sprint(nodes[2].Status().RulesSkew)
		if want := "[{0000000000000005 [node-1]} {0000000000000006 [node-2]}]"; got != want || nodes[2].View().PolicySkew() != nil {
			t.Errorf("RulesSkew() = %s, want %s, and no skew of policies", got, want)
		}
		nodes[0].SetRules(6)
		s.until(2*time.Second, func() bool { return nodes[2].View().RulesSkew() == nil }, nodes...)
		if got := nodes[2].log.count("different rules"); got != 1 {
			t.Errorf("log has the skew %d times, want once", got)
		}
	})
}

func TestOtherRingIsRejected(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		nodes := s.bootAll(3)
		stranger := s.boot("node-4", 4, func(o *Options) { o.Ring = 8 })
		time.Sleep(5 * time.Minute)
		s.await(time.Second, nodes, "node-1", "node-2", "node-3")
		s.await(time.Second, []*simNode{stranger}, "node-4")
		for _, n := range nodes {
			if got := n.log.count("cannot join this cluster"); got > 1 {
				t.Errorf("%s: %d lines about the stranger, want at most one\n%s", n.options.Name, got, n.log)
			}
		}
		if got := nodes[0].log.count("cannot join this cluster"); got != 1 {
			t.Errorf("node-1: %d lines about the stranger, want one\n%s", got, nodes[0].log)
		}
		if got := stranger.Status().Problem; !strings.Contains(got, "ring configuration") {
			t.Errorf("stranger's problem = %q, want it to name the ring configuration", got)
		}
	})
}

func TestOtherLabelIsRejected(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		nodes := s.bootAll(3)
		stranger := s.boot("node-4", 4, func(o *Options) { o.Label = "other" })
		time.Sleep(time.Minute)
		s.await(time.Second, nodes, "node-1", "node-2", "node-3")
		s.await(time.Second, []*simNode{stranger}, "node-4")
	})
}

func TestSubscribersGetTheLatestView(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		nodes := s.bootAll(1)
		views, cancel := nodes[0].Subscribe()
		defer cancel()
		late, cancelLate := nodes[0].Subscribe()
		first := <-views
		s.boot("node-2", 2, nil)
		next := <-views
		if next.Number <= first.Number {
			t.Errorf("view %d after view %d, want a later one", next.Number, first.Number)
		}
		s.await(10*time.Second, s.nodes, "node-1", "node-2")
		if got := <-late; got != nodes[0].View() {
			t.Errorf("late subscriber got view %d, want the latest, %d", got.Number, nodes[0].View().Number)
		}
		cancelLate()
		cancelLate()
		if _, open := <-late; open {
			t.Error("cancelled subscription is open, want closed")
		}
		nodes[0].crash()
		for range views { // ends: Run closes it
		}
		after, _ := nodes[0].Subscribe()
		if v, open := <-after; v != nodes[0].View() || !open {
			t.Error("subscription after Run: want the last view")
		}
		if _, open := <-after; open {
			t.Error("subscription after Run is open, want closed after the last view")
		}
	})
}
