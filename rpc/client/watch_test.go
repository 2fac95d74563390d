// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// keys has some keys of every member.
func keys(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("org-%d/user", i)
	}
	return out
}

// keyOf returns a key that a member owns.
func keyOf(r *pb.Ring, name string) string {
	for _, key := range keys(1000) {
		if ownerIn(r, key) == name {
			return key
		}
	}
	panic("no key of " + name)
}

// checkKey charges a key, and fails without a decision.
func checkKey(t scene, key string) client.Decision {
	t.Helper()
	d, err := t.c.Check(t.Context(), client.Call{Key: key})
	if err != nil {
		t.Errorf("Check(%s) = %v, want a decision", key, err)
	}
	return d
}

// wantAsked checks how many calls a node got in batches, and by unary calls.
func wantAsked(t scene, name string, direct, alone int) {
	t.Helper()
	if d, a := t.nodes[name].asked(); d != direct || a != alone {
		t.Errorf("%s was asked %d times in batches and %d times alone, want %d and %d", name, d, a, direct, alone)
	}
}

// wantFollowed checks that the client follows a ring, and returns its status.
func wantFollowed(t scene, number uint64, members int) client.ClusterStatus {
	t.Helper()
	s := t.c.Status()
	if !s.Following || s.Err != nil || s.RingNumber != number || len(s.Members) != members {
		t.Fatalf("Status() = %+v, want ring %d of %d members, followed", s, number, members)
	}
	return s
}

func TestCallsGoToTheOwner(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b", "c"}, func(t scene) {
		r := t.ring(1, "a", "b", "c")
		want := map[string]int{}
		for _, key := range keys(300) {
			if got := t.c.Owner(key); got != ownerIn(r, key) {
				t.Errorf("Owner(%s) = %q, want %q", key, got, ownerIn(r, key))
			}
			checkKey(t, key)
			want[ownerIn(r, key)]++
		}
		for name, n := range want {
			wantAsked(t, name, n, 0)
		}
		s := wantFollowed(t, 1, 3)
		if s.Partitions != partitions || s.RingDigest != r.GetDigest() || s.Source == "" {
			t.Errorf("Status() = %+v, want %d partitions, digest %x, a source", s, partitions, r.GetDigest())
		}
		for _, m := range s.Members {
			if !m.Direct || !m.Connected || m.Partitions != partitions/3 || m.IndirectReason != nil {
				t.Errorf("member %+v, want direct, connected, %d partitions", m, partitions/3)
			}
		}
	})
}

// The first calls do not wait for a ring, and nodes without Watch are asked as well.
func TestWithoutARing(t *testing.T) {
	runScene(t, client.Options{}, []string{"a", "b"}, func(*fake) {}, func(t scene) {
		start := time.Now()
		for range 10 {
			check(t)
		}
		wantTook(t, start, 0)
		wantAsked(t, "a", 0, 5)
		wantAsked(t, "b", 0, 5)
		if s := t.c.Status(); s.Following || s.Err == nil || t.c.Owner("acme") != "" {
			t.Errorf("Status() = %+v, want not followed, and why", s)
		}
		time.Sleep(time.Hour)
		if got := t.nodes["a"].watches() + t.nodes["b"].watches(); got > 150 {
			t.Errorf("nodes were asked %d times for the ring in an hour, want about one a minute", got)
		}
		t.serveRing(t.ring(1, "a", "b"))
		time.Sleep(2 * time.Minute)
		wantFollowed(t, 1, 2)
	})
}

func TestNewMemberGetsItsShareAtOnce(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		for _, key := range keys(100) {
			checkKey(t, key)
		}
		t.add("c")
		r := t.ring(2, "a", "b", "c")
		start := time.Now()
		t.serveRing(r)
		synctest.Wait()
		want := 0
		for _, key := range keys(300) {
			checkKey(t, key)
			if ownerIn(r, key) == "c" {
				want++
			}
		}
		wantTook(t, start, 0)
		wantAsked(t, "c", want, 0)
		if want < 80 || want > 120 {
			t.Errorf("c owns %d of 300 keys, want a third", want)
		}
		for _, name := range []string{"a", "b"} { // kept their connections
			if open, dialled := t.nodes[name].connections(); open != 1 || dialled != 1 {
				t.Errorf("%s has %d connections after %d dials, want the one that it had", name, open, dialled)
			}
		}
	})
}

// A call in flight to a member that leaves gets its answer before the connection is
// closed.
func TestMemberLeaves(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		r := t.ring(1, "a", "b")
		t.nodes["b"].behave(func(context.Context, int) error {
			time.Sleep(300 * time.Millisecond)
			return nil
		})
		answered := make(chan client.Decision, 1)
		go func() { answered <- checkKey(t, keyOf(r, "b")) }()
		synctest.Wait()
		t.serveRing(t.ring(2, "a"))
		synctest.Wait()
		wantFollowed(t, 2, 1)
		<-answered
		wantAsked(t, "b", 1, 0)
		for _, key := range keys(100) {
			checkKey(t, key)
		}
		wantAsked(t, "a", 100, 0)
		if open, _ := t.nodes["b"].connections(); open != 1 {
			t.Errorf("b has %d connections just after it left, want 1", open)
		}
		time.Sleep(3 * time.Second)
		if open, _ := t.nodes["b"].connections(); open != 0 {
			t.Errorf("b has %d connections some time after it left, want 0", open)
		}
		t.serveRing(t.ring(3, "a", "b")) // and comes back
		synctest.Wait()
		t.nodes["b"].behave(nil)
		checkKey(t, keyOf(r, "b"))
		wantAsked(t, "b", 2, 0)
	})
}

// A member that returns before its connection was closed keeps it.
func TestMemberFlaps(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		key := keyOf(t.ring(1, "a", "b"), "b")
		for i := range uint64(20) {
			t.serveRing(t.ring(2+2*i, "a"))
			synctest.Wait()
			checkKey(t, key)
			t.serveRing(t.ring(3+2*i, "a", "b"))
			synctest.Wait()
			checkKey(t, key)
		}
		time.Sleep(time.Minute)
		checkKey(t, key)
		wantAsked(t, "b", 21, 0)
		if open, dialled := t.nodes["b"].connections(); open != 1 || dialled != 1 {
			t.Errorf("b has %d connections after %d dials, want 1 after 1", open, dialled)
		}
	})
}

func TestWatchMovesOn(t *testing.T) {
	for name, end := range map[string]func(*fakeNode){"killed": (*fakeNode).kill, "drained": (*fakeNode).drain} {
		t.Run(name, func(t *testing.T) {
			runRing(t, client.Options{}, []string{"a", "b", "c"}, func(t scene) {
				for i := range uint64(3) {
					source := t.find(trim(t.c.Status().Source))
					end(source)
					r := t.ring(2+i, "a", "b", "c")
					for _, n := range t.nodes {
						n.sendRing(r)
					}
					time.Sleep(5 * time.Second)
					s := wantFollowed(t, 2+i, 3)
					if name == "killed" {
						if trim(s.Source) == source.name || trim(s.Source) == source.address {
							t.Errorf("the ring comes from %s, which is dead", s.Source)
						}
						source.start()
						time.Sleep(time.Minute)
					}
				}
			})
		})
	}
}

// trim returns the name of a fake node from its address in a client.
func trim(addr string) string {
	const scheme = "passthrough:///"
	if len(addr) > len(scheme) && addr[:len(scheme)] == scheme {
		return addr[len(scheme):]
	}
	return addr
}

// The client keeps the last ring while no node can send one, and gets the new one when
// they are back.
func TestAllNodesAwayFromTheRing(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		t.stop()
		time.Sleep(10 * time.Minute)
		if s := t.c.Status(); s.Following || s.Err == nil || s.RingNumber != 1 {
			t.Errorf("Status() = %+v, want the ring 1, not followed, and why", s)
		}
		t.serveRing(t.ring(7, "a", "b"))
		for _, n := range t.nodes {
			n.start()
		}
		time.Sleep(time.Minute)
		wantFollowed(t, 7, 2)
		checkKey(t, "acme")
	})
}

// A node with an invalid ring is not watched again at once, and the last ring stays.
func TestHostileRings(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		good := t.ring(1, "a", "b")
		for name, bad := range map[string]*pb.Ring{
			"owners":  {Number: 2, Owners: []byte{9, 9}, Members: good.GetMembers()},
			"empty":   {Number: 2},
			"size":    {Number: 2, Owners: make([]byte, 2<<20)},
			"members": {Number: 2, Owners: good.GetOwners(), Members: []*pb.RingMember{nil, nil}},
		} {
			before := t.nodes["a"].watches() + t.nodes["b"].watches()
			for _, n := range t.nodes {
				n.sendRing(bad)
			}
			synctest.Wait()
			if s := t.c.Status(); s.Following || s.Err == nil || s.RingNumber == 2 {
				t.Errorf("%s: Status() = %+v, want the ring 1, not followed, and why", name, s)
			}
			checkKey(t, keyOf(good, "b"))
			time.Sleep(time.Minute)
			if got := t.nodes["a"].watches() + t.nodes["b"].watches() - before; got > 20 {
				t.Errorf("%s: nodes were asked %d times for the ring in a minute, want few", name, got)
			}
			for _, n := range t.nodes {
				n.sendRing(good)
			}
			time.Sleep(time.Minute)
			wantFollowed(t, 1, 2)
		}
		wantAsked(t, "b", 4, 0)
	})
}

// Another node is watched if one accepts the stream and sends nothing.
func TestSilentWatch(t *testing.T) {
	runScene(t, client.Options{}, []string{"a", "b"}, func(f *fake) {
		f.serveRing(f.ring(1, "a", "b"))
		f.nodes["a"].mute()
	}, func(t scene) {
		time.Sleep(10 * time.Second)
		wantFollowed(t, 1, 2)
	})
}

// The watched node freezes. Calls that it does not answer make the client read the
// ring from another node.
func TestFrozenSourceOfTheRing(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b", "c"}, func(t scene) {
		source := t.find(trim(t.c.Status().Source))
		source.behave(silent)
		time.Sleep(5 * time.Second)
		var others []string
		for name, n := range t.nodes {
			if n != source {
				others = append(others, name)
			}
		}
		key := keyOf(t.ring(1, "a", "b", "c"), source.name)
		r := t.ring(2, others...)
		t.decideBy(r)
		for _, name := range others {
			t.nodes[name].sendRing(r)
		}
		start := time.Now()
		for t.c.Status().RingNumber != 2 && time.Since(start) < time.Minute {
			checkKey(t, key)
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("the new ring was known after %v, want at most 5s", took)
		}
		start = time.Now()
		checkKey(t, key)
		wantTook(t, start, 0)
	})
}

// Members have addresses that cannot be reached from here. All calls go by Addrs, and
// connections are attempted rarely.
func TestMembersThatCannotBeReached(t *testing.T) {
	runScene(t, client.Options{}, []string{"a", "b"}, func(f *fake) {
		f.serveRing(f.ring(1, "a", "b"))
		f.nodes["a"].hide()
		f.nodes["b"].hide()
	}, func(t scene) {
		start := time.Now()
		for _, key := range keys(100) {
			checkKey(t, key)
		}
		wantTook(t, start, 0)
		wantAsked(t, "a", 0, 50)
		wantAsked(t, "b", 0, 50)
		time.Sleep(time.Hour)
		for i, key := range keys(100) {
			if i%10 == 0 { // rings that say the same
				t.serveRing(t.ring(uint64(2+i), "a", "b"))
			}
			checkKey(t, key)
		}
		synctest.Wait()
		for name, n := range t.nodes {
			if _, dialled := n.connections(); dialled > 400 {
				t.Errorf("%s was dialled %d times in an hour, want at most 400", name, dialled)
			}
		}
		for _, m := range wantFollowed(t, 92, 2).Members {
			if m.Direct {
				t.Errorf("member %+v, want not direct", m)
			}
		}
	})
}

// Unless Insecure is set, a ring cannot make the client use plaintext to other
// machines; nor, if all Addrs are on other machines, to its own.
func TestRingsDoNotLeadAstray(t *testing.T) {
	for _, test := range []struct{ name, given, member string }{
		{"from this machine", "127.0.0.1:1", "203.0.113.1:6471"},
		{"from another one", "node-1:6471", "127.0.0.1:6471"},
		{"to a socket", "127.0.0.1:1", "unix:/run/x.sock"},
	} {
		t.Run(test.name, func(t *testing.T) {
			runScene(t, client.Options{}, []string{test.given}, func(f *fake) {
				f.plaintext = test.given == "127.0.0.1:1"
				f.nodes[test.given].address = "127.0.0.1:2"
				f.add("b").address = test.member
				f.serveRing(f.ring(1, test.given, "b"))
			}, func(t scene) {
				for _, key := range keys(20) {
					checkKey(t, key)
				}
				if _, dialled := t.nodes["b"].connections(); dialled != 0 {
					t.Errorf("%s was dialled %d times, want 0", test.member, dialled)
				}
				for _, m := range wantFollowed(t, 1, 2).Members {
					if m.Name == "b" && (m.Direct || m.IndirectReason == nil) {
						t.Errorf("member %+v, want not direct, and why", m)
					}
				}
			})
		})
	}
}

func TestMaxPeers(t *testing.T) {
	runRing(t, client.Options{MaxPeers: 2}, []string{"a", "b", "c", "d"}, func(t scene) {
		direct := func() (names string) {
			for _, m := range t.c.Status().Members {
				if m.Direct {
					names += m.Name
				} else if m.IndirectReason == nil {
					t.Errorf("member %+v, want to know why it is not asked directly", m)
				}
			}
			return names
		}
		if got := direct(); got != "ab" {
			t.Errorf("members asked directly = %q, want ab", got)
		}
		for _, key := range keys(100) {
			checkKey(t, key)
		}
		t.serveRing(t.ring(2, "b", "c", "d"))
		synctest.Wait()
		for _, key := range keys(100) {
			checkKey(t, key)
		}
		if got := direct(); got != "b" { // the connection to a is still there
			t.Errorf("members asked directly = %q, want b", got)
		}
		time.Sleep(3 * time.Second)
		if got := direct(); got != "bc" {
			t.Errorf("members asked directly = %q, want bc", got)
		}
		for _, name := range []string{"a", "d"} {
			if open, _ := t.nodes[name].connections(); open != 0 {
				t.Errorf("%s has %d connections, want 0", name, open)
			}
		}
	})
}

// The only address in Addrs dies: calls go to the members.
func TestGivenAddressDies(t *testing.T) {
	runScene(t, client.Options{}, []string{"a"}, func(f *fake) {
		f.add("b")
		f.add("c")
		f.serveRing(f.ring(1, "a", "b", "c"))
	}, func(t scene) {
		t.nodes["a"].kill()
		start := time.Now()
		for _, key := range keys(100) {
			checkKey(t, key)
		}
		wantTook(t, start, 0)
		r := t.ring(2, "b", "c")
		t.serveRing(r)
		time.Sleep(time.Second)
		wantFollowed(t, 2, 2)
		checkKey(t, keyOf(r, "b"))
	})
}

func TestCloseEndsEverything(t *testing.T) {
	runRing(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		t.nodes["a"].behave(silent)
		r := t.ring(1, "a", "b")
		failed := make(chan error, 1)
		go func() {
			_, err := t.c.Check(t.Context(), client.Call{Key: keyOf(r, "a")})
			failed <- err
		}()
		synctest.Wait()
		t.serveRing(t.ring(2, "b")) // a is about to be closed anyway
		synctest.Wait()
		start := time.Now()
		if err := t.c.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
		if err := <-failed; err == nil {
			t.Error("Check() during Close = nil, want an error")
		}
		wantTook(t, start, 0)
		for name, n := range t.nodes {
			synctest.Wait()
			if open, _ := n.connections(); open != 0 {
				t.Errorf("%s has %d connections after Close, want 0", name, open)
			}
		}
		if _, err := t.c.Check(t.Context(), client.Call{Key: "acme"}); err == nil {
			t.Error("Check() after Close = nil, want an error")
		}
		_ = t.c.Status()
		_ = t.c.Close() // again: must not panic
	})
}
