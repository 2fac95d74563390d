// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// numbers returns the numbers of the definitions in a, and those that its results refer to.
func numbers(a *pb.Answers) (defined, used []uint32) {
	for _, d := range a.GetDefinitions() {
		defined = append(defined, d.GetNumber())
	}
	for _, r := range a.GetResults() {
		for _, v := range r.GetValues() {
			used = append(used, v.GetDefinition())
		}
	}
	return defined, used
}

// A client that takes definitions gets each once on a stream, whatever the calls are. A
// policy that is loaded meanwhile gets new ones for what it changes. A client that does not
// take them, on the same member, gets all limits in full, and so does one that changes its
// mind.
func TestExchangeDefinesLimits(t *testing.T) {
	engine := limiter.New(limiter.Options{})
	parse := func(text string) *policy.Policy {
		p, err := policy.Parse("test.yaml", []byte(text), engine.Catalog())
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	var inForce atomic.Pointer[policy.Policy]
	inForce.Store(parse(testPolicy))
	c := &clock{}
	n := newNode(t, "node1", c, func(o *Options) {
		o.Local = server.New(server.Options{
			Engine: engine, Policy: func() server.Policy { return inForce.Load() }, Now: c.now, Name: "node1", Registry: prometheus.NewRegistry(),
		})
	})
	n.see(n)
	key := n.ownedBy(0)
	reserve := &pb.Item{Call: &pb.Item_Reserve{Reserve: &pb.ReserveRequest{Key: key, RequestId: "r", MaxOutputTokens: new(int64(10))}}}
	peek := &pb.Item{Call: &pb.Item_Peek{Peek: &pb.PeekRequest{Key: key}}}

	takes, old := openExchange(t, n), openExchange(t, n)
	takes.takes = true
	want := func(what string, a *pb.Answers, defined, used []uint32) {
		t.Helper()
		if d, u := numbers(a); !slices.Equal(d, defined) || !slices.Equal(u, used) {
			t.Errorf("%s: definitions %v, and results refer to %v; want %v and %v", what, d, u, defined, used)
		}
		for _, r := range a.GetResults() {
			if limits := slices.Concat(r.GetDecision().GetLimits(), r.GetSettlement().GetLimits(), r.GetLimits().GetLimits()); (len(limits) > 0) == (len(r.GetValues()) > 0) {
				t.Errorf("%s: %v has limits in both forms or in none", what, r)
			}
		}
	}
	want("the first check", takes.ask(checkItem(key, "")), []uint32{1, 2, 3}, []uint32{1, 2, 3})
	want("the second check", takes.ask(checkItem(key, "")), nil, []uint32{1, 2, 3})
	want("other calls", takes.ask(reserve, settleItem(key, "r"), peek), nil, []uint32{1, 2, 3, 1, 2, 3, 1, 2, 3})
	want("another tier", takes.ask(checkItem(key, "thousand"), checkItem(key, "")), []uint32{4}, []uint32{4, 1, 2, 3})
	want("an old client", old.ask(checkItem(key, ""), peek), nil, nil)

	inForce.Store(parse(strings.Replace(testPolicy, "tokens: 10_000/min", "tokens: 20_000/min", 1)))
	reloaded := takes.ask(checkItem(key, ""), checkItem(key, ""))
	want("after a reload", reloaded, []uint32{5}, []uint32{1, 5, 3, 1, 5, 3})
	if d := reloaded.GetDefinitions()[0]; d.GetName() != "tokens" || d.GetLimit() != 20_000 {
		t.Errorf("definition = %v, want the limit of 20000 tokens", d)
	}
	inForce.Store(parse(testPolicy))
	want("taken back", takes.ask(checkItem(key, "")), nil, []uint32{1, 2, 3})

	takes.takes = false
	want("a batch that takes none", takes.ask(checkItem(key, "")), nil, nil)
	takes.takes = true
	want("one that does again", takes.ask(checkItem(key, "")), nil, []uint32{1, 2, 3})
	another := openExchange(t, n)
	another.takes = true
	want("another stream", another.ask(checkItem(key, "thousand")), []uint32{1}, []uint32{1})
}

// Members that take definitions get them from members, and those that do not get limits in
// full, too.
func TestMembersDefineLimits(t *testing.T) {
	nodes := newCluster(t, 2)
	a, b := nodes[0], nodes[1]
	s, err := a.open(waittest.Context(t, testWait), pb.NewPeerClient(b.conn()), b.member())
	if err != nil {
		t.Fatal(err)
	}
	for i, tt := range []struct {
		takes       bool
		definitions int
	}{{false, 0}, {true, 3}, {true, 0}, {false, 0}} {
		var got link.Answers
		if err := s.Send(&pb.Batch{Sequence: uint64(i) + 1, TakesDefinitions: tt.takes, Items: []*pb.Item{checkItem(b.ownedBy(0), "")}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Recv(&got); err != nil {
			t.Fatal(err)
		}
		if n := len(got.Definitions); n != tt.definitions || len(got.Results) != 1 {
			t.Errorf("batch %d: %d definitions and %d results, want %d and 1", i+1, n, len(got.Results), tt.definitions)
		}
	}
}

// Who asks a member that does not own the key gets the limits in full, as from the owner.
func TestForwardedLimitsAreInFull(t *testing.T) {
	nodes := newCluster(t, 2)
	a, b := nodes[0], nodes[1]
	key := b.ownedBy(0) + "/alice"
	var calls []call.Call
	for range 3 {
		calls = append(calls, call.Of(&pb.PeekRequest{Key: key}), call.Of(&pb.PeekRequest{Key: key, Tier: "busy"}))
	}
	for range 3 { // the first defines, the others refer to it
		var limits [2][]*pb.LimitState
		for i, n := range []*node{a, b} {
			results := n.Do(t.Context(), slices.Clone(calls))
			for _, r := range results.All() {
				if len(r.GetValues()) > 0 || len(r.GetLimits().GetLimits()) == 0 {
					t.Fatalf("%s answers %v", n.name, r)
				}
				limits[i] = append(limits[i], r.GetLimits().GetLimits()...)
			}
			results.Release()
		}
		if diff := cmp.Diff(limits[1], limits[0], protocmp.Transform()); diff != "" {
			t.Errorf("limits by the owner (-) and forwarded (+):\n%s", diff)
		}
	}
}
