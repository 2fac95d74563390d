// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func withKeys(keys ...[]byte) func(*Options) { return func(o *Options) { o.Keys = keys } }

func TestWrongKeyIsRejected(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		a := s.boot("a", 1, withKeys(key(1)))
		b := s.boot("b", 2, withKeys(key(1)))
		wrong := s.boot("c", 3, withKeys(key(2)))
		none := s.boot("d", 4, nil)
		time.Sleep(time.Minute)
		s.await(time.Second, []*simNode{a, b}, "a", "b")
		s.await(time.Second, []*simNode{wrong}, "c")
		s.await(time.Second, []*simNode{none}, "d")
		if wrong.Status().Problem == "" || none.Status().Problem == "" {
			t.Errorf("problems = %q, %q, want why they cannot join", wrong.Status().Problem, none.Status().Problem)
		}
	})
}

func TestKeysRotateInThreeRounds(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		for i, name := range []string{"a", "b", "c"} {
			s.boot(name, i+1, withKeys(key(1)))
		}
		s.await(10*time.Second, s.nodes, "a", "b", "c")
		rounds := []func(n *simNode) error{
			func(n *simNode) error { return n.AddKey(key(2)) },
			func(n *simNode) error { return n.UseKey(key(2)) },
			func(n *simNode) error { return n.RemoveKey(key(1)) },
		}
		for i, rotate := range rounds {
			for _, n := range s.nodes {
				if err := rotate(n); err != nil {
					t.Fatalf("round %d: %v", i+1, err)
				}
				time.Sleep(20 * time.Second) // members have different keys for that long
			}
		}
		for _, n := range s.nodes {
			if got := n.log.count("member crashed"); got != 0 {
				t.Errorf("%s: %d crashes, want none\n%s", n.options.Name, got, n.log)
			}
			if got := n.KeyIDs(); len(got) != 1 || got[0] == s.oldKeyID() {
				t.Errorf("%s: keys = %v, want the new one only", n.options.Name, got)
			}
		}
		s.boot("d", 4, withKeys(key(2)))
		s.await(10*time.Second, s.nodes, "a", "b", "c", "d")
		late := s.boot("e", 5, withKeys(key(1)))
		time.Sleep(30 * time.Second)
		s.await(time.Second, []*simNode{late}, "e")
	})
}

func (s *sim) oldKeyID() ID {
	c := &Cluster{}
	c.keyring, _ = newKeyring([][]byte{key(1)})
	return c.KeyIDs()[0]
}

func TestPlaintextTurnsIntoEncryption(t *testing.T) {
	simulate(t, func(t *testing.T, s *sim) {
		var nodes [3]*simNode
		rounds := []func(*Options){
			nil,
			func(o *Options) { o.Keys, o.AcceptPlaintext, o.SendPlaintext = [][]byte{key(1)}, true, true },
			func(o *Options) { o.Keys, o.AcceptPlaintext = [][]byte{key(1)}, true },
			withKeys(key(1)),
		}
		for round, options := range rounds {
			for i, name := range []string{"a", "b", "c"} {
				if nodes[i] != nil {
					if err := nodes[i].Leave(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				nodes[i] = s.boot(name, i+1, options)
				if round > 0 {
					s.await(10*time.Second, nodes[:], "a", "b", "c")
				}
			}
			s.await(10*time.Second, nodes[:], "a", "b", "c")
		}
		s.boot("d", 4, nil)
		time.Sleep(time.Minute)
		s.await(time.Second, nodes[:], "a", "b", "c")
	})
}

func TestRemoveKeyKeepsTheOrder(t *testing.T) {
	for removed := byte(2); removed <= 4; removed++ {
		o := validOptions()
		o.Keys = [][]byte{key(1), key(2), key(3), key(4)}
		c, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		ids, before := c.KeyIDs(), c.keyring.GetKeys()
		kept := slices.Clone(before)
		if err := c.RemoveKey(key(removed)); err != nil {
			t.Fatalf("RemoveKey(%d): %v", removed, err)
		}
		want := slices.Delete(slices.Clone(ids), int(removed)-1, int(removed))
		if got := c.KeyIDs(); !slices.Equal(got, want) {
			t.Errorf("keys without %d = %v, want %v", removed, got, want)
		}
		if !slices.EqualFunc(before, kept, bytes.Equal) {
			t.Errorf("RemoveKey(%d) changed a list that may be in use", removed)
		}
		if err := c.RemoveKey(key(1)); err == nil {
			t.Error("RemoveKey of the key that encrypts = nil, want an error")
		}
		if err := c.UseKey(key(9)); err == nil {
			t.Error("UseKey of an unknown key = nil, want an error")
		}
		if err := c.AddKey([]byte("short")); err == nil {
			t.Error("AddKey of 5 bytes = nil, want an error")
		}
	}
	c, err := New(validOptions())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddKey(key(1)); err == nil {
		t.Error("AddKey without encryption = nil, want an error")
	}
}

func validOptions() Options {
	return Options{
		Name: "node-1", Boot: Boot{ID: 1, Started: time.Unix(1, 0)},
		Bind: netip.MustParseAddrPort("127.0.0.1:0"),
	}
}
