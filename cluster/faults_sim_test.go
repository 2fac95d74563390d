// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/cluster/simnet"
)

func TestCrashIsDetectedInTime(t *testing.T) {
	for _, size := range []int{2, 3, 5, 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			simulate(t, func(t *testing.T, s *sim) {
				nodes := s.bootAll(size)
				var names []string
				for _, n := range nodes[1:] {
					names = append(names, n.options.Name)
				}
				slices.Sort(names)
				nodes[0].crash()
				took := s.await(10*time.Second, nodes[1:], names...)
				t.Logf("in the views of all after %s", took)
				if took < time.Second || took > 5500*time.Millisecond {
					t.Errorf("crash is in all views after %s, want 3 to 5 s", took)
				}
				for _, n := range nodes[1:] {
					if got := n.fate(nodes[0].options.Boot.ID); got != Crashed {
						t.Errorf("%s: fate of node-1 = %s, want crashed", n.options.Name, got)
					}
					if got := n.View().Roster(); got != size {
						t.Errorf("%s: Roster() = %d, want %d while node-1 is not forgotten", n.options.Name, got, size)
					}
				}
				time.Sleep(DefaultDepartedTTL + time.Second)
				if v := nodes[1].View(); len(v.Departed) != 0 || v.Roster() != size-1 {
					t.Errorf("after %s: departed = %v, roster %d, want it forgotten", DefaultDepartedTTL, v.Departed, v.Roster())
				}
			})
		})
	}
}

func TestSplitHealsByItself(t *testing.T) {
	for _, length := range []time.Duration{10 * time.Second, 45 * time.Second, 5 * time.Minute, time.Hour} {
		t.Run(length.String(), func(t *testing.T) {
			simulate(t, func(t *testing.T, s *sim) {
				nodes := s.bootAll(5)
				all := []string{"node-1", "node-2", "node-3", "node-4", "node-5"}
				s.net.Split([]netip.AddrPort{host(1), host(2)}, []netip.AddrPort{host(3), host(4), host(5)})
				s.await(10*time.Second, nodes[:2], "node-1", "node-2")
				s.await(10*time.Second, nodes[2:], "node-3", "node-4", "node-5")
				time.Sleep(length)
				s.net.Heal()
				took := s.await(20*time.Second, nodes, all...)
				t.Logf("healed after %s", took)
				for _, n := range nodes {
					if v := n.View(); len(v.Departed) != 0 || len(v.missing) != 0 {
						t.Errorf("%s: departed = %v, missing = %v, want none: all came back", n.options.Name, v.Departed, v.missing)
					}
				}
			})
		})
	}
}

// A node that is cut off must notice soon that it has lost the majority. The
// default settings of memberlist delay that; see suspicionMaxMult.
func TestIsolatedNodeNotices(t *testing.T) {
	for _, size := range []int{3, 5, 9} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			simulate(t, func(t *testing.T, s *sim) {
				nodes := s.bootAll(size)
				var others []netip.AddrPort
				for _, n := range nodes[1:] {
					others = append(others, n.addr)
				}
				s.net.Split([]netip.AddrPort{host(1)}, others)
				took := s.until(12*time.Second, func() bool { return 2*len(nodes[0].View().Members) <= size }, nodes[0])
				t.Logf("lost the majority after %s", took)
				took += s.await(10*time.Second, nodes[:1], "node-1")
				t.Logf("alone after %s", took)
			})
		})
	}
}

func TestUpdatesReachEverybody(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.net = simnet.New(2, simnet.Link{Delay: time.Millisecond, Jitter: time.Millisecond, LossPercent: 5})
		nodes := s.bootAll(5)
		late := 0
		for i := range 500 {
			policy := ID(1000 + i)
			nodes[0].SetPolicy(policy)
			time.Sleep(2*time.Second + time.Duration(i%7)*31*time.Millisecond)
			if slices.ContainsFunc(nodes, func(n *simNode) bool { m, _ := n.View().Member("node-1"); return m.Policy != policy }) {
				late++
			}
		}
		if late > 1 {
			t.Errorf("%d of 500 updates are not in all views after 2 s, want at most one", late)
		}
	})
}

// Without seeds, only the addresses of crashed members can heal a split.
func TestSplitHealsWithoutSeeds(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		var unresolvable atomic.Bool
		withSeed := func(o *Options) {
			o.Seeds = []string{"seed.example"}
			o.Resolve = func(context.Context, string) ([]netip.Addr, error) {
				if unresolvable.Load() {
					return nil, errors.New("no such host")
				}
				return []netip.Addr{host(8).Addr()}, nil
			}
		}
		a := s.boot("a", 8, func(o *Options) { o.Seeds = nil })
		b, c := s.boot("b", 9, withSeed), s.boot("c", 10, withSeed)
		s.await(10*time.Second, s.nodes, "a", "b", "c")
		unresolvable.Store(true)
		s.net.Split([]netip.AddrPort{a.addr}, []netip.AddrPort{b.addr, c.addr})
		time.Sleep(5 * time.Minute)
		s.net.Heal()
		s.await(20*time.Second, s.nodes, "a", "b", "c")
	})
}

func TestOneWayCutIsSurvived(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		nodes := s.bootAll(3)
		s.net.Cut(host(1), host(2)) // node-3 relays
		time.Sleep(2 * time.Minute)
		s.net.Heal()
		s.await(20*time.Second, nodes, "node-1", "node-2", "node-3")
	})
}

func TestShortFreezeIsNoCrash(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		nodes := s.bootAll(3)
		for range 20 {
			s.net.Freeze(host(2), time.Second)
			time.Sleep(7300 * time.Millisecond)
		}
		for _, n := range nodes {
			if got := n.log.count("member crashed"); got != 0 {
				t.Errorf("%s: %d crashes, want none\n%s", n.options.Name, got, n.log)
			}
		}
	})
}

func TestSlowLossyNetworkIsStable(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		s.net = simnet.New(2, simnet.Link{Delay: 25 * time.Millisecond, Jitter: 10 * time.Millisecond, LossPercent: 5})
		nodes := s.bootAll(5)
		time.Sleep(10 * time.Minute)
		for _, n := range nodes {
			if got := n.log.count("member crashed"); got != 0 {
				t.Errorf("%s: %d crashes in ten minutes, want none", n.options.Name, got)
			}
		}
	})
}
