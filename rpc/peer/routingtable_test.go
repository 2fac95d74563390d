// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestStaleViews: members that do not agree on the ring send calls on, once.
func TestStaleViews(t *testing.T) {
	a, b, c := newNode(t, "a", &clock{}), newNode(t, "b", &clock{}), newNode(t, "c", &clock{})
	ctx := waittest.Context(t, testWait)
	b.see(a, b, c)
	c.see(a, b, c)
	inB, inC := b.ownedBy(60), c.ownedBy(60)
	if err := a.SetTopology(Topology{Serving: []Member{b.member()}, Others: []Member{c.member()}, Roster: 2}); err != nil {
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

// TestTermsTravel: after one call both sides know of the highest term.
func TestTermsTravel(t *testing.T) {
	nodes := newCluster(t, 2)
	a, b := nodes[0], nodes[1]
	key := b.ownedBy(0)
	p := ring.PartitionOf(key)
	term := func(n *node) uint64 { return n.table.Load().roles.Term(p) }
	if term(a) != 0 || term(b) == 0 {
		t.Fatalf("terms %#x and %#x, want none at a", term(a), term(b))
	}
	if _, err := a.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: key}); err != nil {
		t.Fatal(err)
	}
	if term(a) != term(b) {
		t.Errorf("a knows of term %#x, want that of the owner, %#x", term(a), term(b))
	}
	a.see(a) // a takes it over, and gives it back
	a.see(a, b)
	taken := term(a)
	if taken <= term(b) {
		t.Fatalf("a took term %#x, want one above %#x", taken, term(b))
	}
	if _, err := a.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: key}); err != nil {
		t.Fatal(err)
	}
	if term(b) <= taken || term(a) != term(b) {
		t.Errorf("terms %#x and %#x, want the same at both, above %#x", term(a), term(b), taken)
	}
	if n := b.metric("bucketring_terms_contested_total"); n != 1 {
		t.Errorf("%v contested, want 1", n)
	}
	before := term(b)
	client := pb.NewRateLimiterClient(b.conn())
	stream, err := client.Exchange(waittest.Context(t, testWait))
	if err != nil {
		t.Fatal(err)
	}
	item := &pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: key}}, Term: before + 1<<40}
	if err := stream.Send(&pb.Batch{Sequence: 1, Items: []*pb.Item{item}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if term(b) != before {
		t.Errorf("a client raised the term from %#x to %#x", before, term(b))
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
		"twice":          {Serving: []Member{m}, Others: []Member{m}, Roster: 1},
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
