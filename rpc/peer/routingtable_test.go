// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestStaleViews: members that do not agree on the ring send calls on, once.
func TestStaleViews(t *testing.T) {
	a, b, c := newNode(t, "a", &clock{}), newNode(t, "b", &clock{}), newNode(t, "c", &clock{})
	ctx := waittest.Context(t, testWait)
	b.see(a, b, c)
	c.see(a, b, c)
	inB, inC := b.ownedBy(60), c.ownedBy(60)
	if err := a.SetTopology(Topology{Serving: []Member{b.member()}, Leaving: []Member{c.member()}, Roster: 2}); err != nil {
		t.Fatal(err)
	}

	t.Run("followed", func(t *testing.T) {
		d, err := a.Check(ctx, &pb.CheckRequest{Key: inC, Tier: "thousand"})
		if err != nil || d.Owner != "c" || d.Route != pb.Route_ROUTE_FORWARD {
			t.Errorf("Check() = %v, %v, want an answer of c", d, err)
		}
		if n := a.metric("bucketring_redirects_total"); n != 1 {
			t.Errorf("%v redirects, want 1", n)
		}
	})
	t.Run("a batch is followed", func(t *testing.T) {
		items := []*pb.Item{}
		for i := range 50 {
			items = append(items, itemOf(&pb.CheckRequest{Key: c.ownedBy(i)}), itemOf(&pb.CheckRequest{Key: b.ownedBy(i)}))
		}
		got, err := a.Batch(ctx, &pb.BatchRequest{Items: items})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range got.Results {
			if want := []string{"c", "b"}[i%2]; r.GetDecision().GetOwner() != want {
				t.Errorf("item %d = %v, want an answer of %s", i, r, want)
			}
		}
	})
	t.Run("twice is too much", func(t *testing.T) {
		b.see(c) // b and c think that it is the other one
		c.see(b)
		d, err := a.Check(ctx, &pb.CheckRequest{Key: inB, Tier: "thousand"})
		if err != nil || d.Owner != "a" || d.Route != pb.Route_ROUTE_FALLBACK {
			t.Errorf("Check() = %v, %v, want a fallback", d, err)
		}
		if n := a.metric("bucketring_fallbacks_total", "redirect", "check"); n != 1 {
			t.Errorf("%v fallbacks for redirects, want 1", n)
		}
	})
	t.Run("to a member that is not known", func(t *testing.T) {
		a.see(b)
		d, err := a.Check(ctx, &pb.CheckRequest{Key: inC, Tier: "thousand"})
		if err != nil || d.Route != pb.Route_ROUTE_FALLBACK {
			t.Errorf("Check() = %v, %v, want a fallback", d, err)
		}
	})
	t.Run("back to the asker", func(t *testing.T) {
		b.see(a)
		d, err := a.Check(ctx, &pb.CheckRequest{Key: inC, Tier: "thousand"})
		if err != nil || d.Route != pb.Route_ROUTE_FALLBACK {
			t.Errorf("Check() = %v, %v, want a fallback: a does not think that it owns the key", d, err)
		}
	})
	for _, n := range []*node{a, b, c} { // and back
		n.see(a, b, c)
	}
	waittest.Until(t, "a's outbox to be empty", func() bool { return a.Status().Outbox == 0 })
	if used := b.used(inB, "thousand", "requests"); used != 1 {
		t.Errorf("b has %d requests of %s, want the one of the fallback", used, inB)
	}
	if used := c.used(inC, "thousand", "requests"); used != 3 {
		t.Errorf("c has %d requests of %s, want 3", used, inC)
	}
}

// TestNobodyServes: a node that is alone decides; one that is fenced does not,
// and asks the run of its slot that serves.
func TestNobodyServes(t *testing.T) {
	c := &clock{}
	a := newNode(t, "a", c)
	ctx := waittest.Context(t, testWait)
	ask := func() *pb.Decision {
		t.Helper()
		d, err := a.Check(ctx, &pb.CheckRequest{Key: "k", Tier: "thousand"})
		if err != nil {
			t.Fatalf("Check() = %v", err)
		}
		return d
	}
	if d := ask(); d.Route != pb.Route_ROUTE_LOCAL {
		t.Errorf("before any topology: %v, want local", d)
	}
	a.see()
	if d := ask(); d.Route != pb.Route_ROUTE_LOCAL {
		t.Errorf("nobody serves: %v, want local", d)
	}
	if err := a.SetTopology(Topology{Fenced: true, Roster: 1}); err != nil {
		t.Fatal(err)
	}
	if d := ask(); d.Route != pb.Route_ROUTE_FALLBACK {
		t.Errorf("fenced: %v, want fallback", d)
	}
	newer := newNode(t, "a", c)
	newer.see(newer)
	fenced := topologyOf(newer)
	fenced.Fenced = true
	if err := a.SetTopology(fenced); err != nil {
		t.Fatal(err)
	}
	if d := ask(); d.Route != pb.Route_ROUTE_FORWARD {
		t.Errorf("fenced, the newer run serves: %v, want forward", d)
	}
	a.see(a)
	if d := ask(); d.Route != pb.Route_ROUTE_LOCAL {
		t.Errorf("serves: %v, want local", d)
	}
}

// TestLaterTerm: a member that is asked by one who knows of a later owner does not decide.
func TestLaterTerm(t *testing.T) {
	nodes := newCluster(t, 2)
	b := nodes[1]
	key := b.ownedBy(0)
	c := call.FromItem(itemOf(&pb.CheckRequest{Key: key}), call.MemberStream)
	for term, decided := range map[uint64]bool{0: true, b.owners.Place(c.Partition).Term: true, b.owners.Place(c.Partition).Term + 1: false} {
		c.Term = term
		results := b.Do(waittest.Context(t, testWait), []call.Call{c})
		if got := results.Get(0); got.GetDecision() != nil != decided || decided == (got.GetRedirect() != nil) {
			t.Errorf("term %d: %v, want a decision: %v", term, got, decided)
		}
		results.Release()
	}
}

func TestTopologyIsRefused(t *testing.T) {
	n := newNode(t, "a", &clock{})
	n.see(n)
	before := n.table.Load()
	m := n.member()
	for name, bad := range map[string]Topology{
		"no roster":      {Serving: []Member{m}},
		"no name":        {Serving: []Member{{GRPC: "127.0.0.1:1"}}, Roster: 1},
		"separator":      {Serving: []Member{{Name: "a:b", GRPC: "127.0.0.1:1"}}, Roster: 1},
		"no address":     {Serving: []Member{{Name: "b"}}, Roster: 1},
		"twice":          {Serving: []Member{m}, Leaving: []Member{m}, Roster: 1},
		"too many":       {Serving: manyMembers(ring.MaxMembers + 1), Roster: 1},
		"no such target": {Serving: []Member{m, {Name: "b", GRPC: "%zz"}}, Roster: 1},
	} {
		if err := n.SetTopology(bad); err == nil || !strings.HasPrefix(err.Error(), "set topology: ") {
			t.Errorf("%s: %v, want an error", name, err)
		}
		if n.table.Load() != before {
			t.Errorf("%s: the view has changed", name)
		}
	}
}

func manyMembers(n int) (m []Member) {
	for i := range n {
		m = append(m, Member{Name: fmt.Sprint("m", i), Boot: 1, GRPC: "127.0.0.1:1"})
	}
	return m
}
