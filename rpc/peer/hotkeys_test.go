// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// askersOf lists the askers of a key as kind:name=rate.
func askersOf(k *pb.HotKey) map[string]float64 {
	list := map[string]float64{}
	for _, a := range k.GetAskers() {
		if c := a.GetClient(); c != "" {
			list["client:"+c] = a.GetRate()
		} else {
			list["member:"+a.GetMember()] = a.GetRate()
		}
	}
	return list
}

// TestHotKeys: any member lists the keys of all, with those who ask.
func TestHotKeys(t *testing.T) {
	nodes := newCluster(t, 3)
	ctx := waittest.Context(t, testWait)
	hot, warm := nodes[0].ownedBy(0), nodes[1].ownedBy(0)
	ask := func(n *node, key string, calls int) {
		t.Helper()
		for range calls {
			if _, err := n.Check(ctx, &pb.CheckRequest{Key: key, Tier: "free"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask(nodes[0], hot, 40) // the owner's own
	ask(nodes[1], hot, 30) // forwarded
	ask(nodes[2], hot, 10)
	ask(nodes[2], warm, 5)
	stream, err := pb.NewRateLimiterClient(nodes[0].conn()).Exchange(ctx)
	if err != nil {
		t.Fatal(err)
	}
	b := &pb.Batch{Sequence: 1}
	for range 20 { // of a client that knows the owner; reserves count, peeks do not
		b.Items = append(b.Items, itemOf(&pb.ReserveRequest{Key: hot, Tier: "free"}), itemOf(&pb.PeekRequest{Key: hot, Tier: "free"}))
	}
	if err := stream.Send(b); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		found, err := n.HotKeys(ctx, &pb.HotKeysRequest{})
		if err != nil {
			t.Fatal(err)
		}
		want := []*pb.MemberRate{{Member: "node1", Rate: 100, Sampling: 1}, {Member: "node2", Rate: 5, Sampling: 1}, {Member: "node3", Sampling: 1}}
		if diff := cmp.Diff(want, found.GetMembers(), protocmp.Transform(), protocmp.IgnoreFields(&pb.MemberRate{}, "traffic")); diff != "" || len(found.GetUnreachable()) > 0 {
			t.Errorf("members by %s, without %v (-want +got):\n%s", n.name, found.GetUnreachable(), diff)
		}
		decided := found.GetMembers()[0].GetTraffic()
		if sum := decided.GetAllowed() + decided.GetDegraded() + decided.GetDenied(); sum == 0 {
			t.Errorf("traffic of node1 by %s is %v, want what it has decided", n.name, decided)
		}
		if keys := found.GetKeys(); len(keys) != 2 || keys[0].GetKey() != hot || keys[1].GetKey() != warm {
			t.Fatalf("keys by %s = %v, want %s and %s", n.name, keys, hot, warm)
		}
		k := found.GetKeys()[0]
		if k.GetOwner() != "node1" || k.GetRate() != 100 || k.GetTier() != "free" || k.GetLimit().GetScope() != hot {
			t.Errorf("first key by %s = %v, want 100 calls per second of tier free at node1, with a limit of %s", n.name, k, hot)
		}
		asked := map[string]float64{"member:node1": 40, "member:node2": 30, "client:127.0.0.1": 20, "member:node3": 10}
		if diff := cmp.Diff(asked, askersOf(k)); diff != "" {
			t.Errorf("askers by %s (-want +got):\n%s", n.name, diff)
		}
		if k.GetAskers()[0].GetMember() != "node1" || k.GetAskers()[2].GetClient() != "127.0.0.1" {
			t.Errorf("askers by %s = %v, want them sorted by rate", n.name, k.GetAskers())
		}
	}

	first, err := nodes[2].HotKeys(ctx, &pb.HotKeysRequest{Limit: 1})
	if err != nil || len(first.GetKeys()) != 1 || first.GetKeys()[0].GetKey() != hot || len(first.GetMembers()) != 3 {
		t.Errorf("HotKeys(limit 1) = %v, %v, want %s by 3 members", first, err, hot)
	}
	alone, err := nodes[1].HotKeys(ctx, &pb.HotKeysRequest{Alone: true})
	if err != nil || len(alone.GetKeys()) != 1 || alone.GetKeys()[0].GetKey() != warm || len(alone.GetMembers()) != 1 {
		t.Errorf("HotKeys(alone) = %v, %v, want %s by one member", alone, err, warm)
	}
	nodes[1].kill()
	rest, err := nodes[2].HotKeys(ctx, &pb.HotKeysRequest{})
	if err != nil || len(rest.GetKeys()) != 1 || !slices.Equal(rest.GetUnreachable(), []string{"node2"}) || len(rest.GetMembers()) != 2 {
		t.Errorf("HotKeys() without node2 = %v, %v, want the others' keys, and node2 named", rest, err)
	}
	waittest.Until(t, "the stream of node2 to be forgotten", func() bool {
		return askersOf(mustHotKey(t, nodes[0], hot))["member:node2"] == 0
	})
}

// TestHotKeysFromSlices: what a holder decides counts, and it is listed while it holds a slice.
func TestHotKeysFromSlices(t *testing.T) {
	nodes := newCluster(t, 3, holding)
	owner, holder := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	heat(t, holder, key)
	hold(t, holder, key)
	counted := mustHotKey(t, owner, key)
	if h := counted.GetHolders(); len(h) != 1 || h[0].GetMember() != "node2" || h[0].GetSlices() != 1 || counted.GetSlices() != 1 || counted.GetSliceRate() != 0 {
		t.Errorf("hot key = %v, want one slice, of node2, and no calls from it yet", counted)
	}
	const taken = 40
	for range taken {
		if d := checkHot(t, holder, key); d.GetRoute() != pb.Route_ROUTE_SLICE {
			t.Fatalf("Check() = %v, want it answered from the slice", d)
		}
	}
	returnAll(t, nodes...)
	k := mustHotKey(t, owner, key)
	if k.GetRate() != counted.GetRate()+taken || k.GetSliceRate() != taken || k.GetSlices() != 0 || len(k.GetHolders()) != 0 {
		t.Errorf("hot key = %v after the return, want %v and %d calls per second, and no holders", k, counted.GetRate(), taken)
	}
	if got, want := askersOf(k)["member:node2"], askersOf(counted)["member:node2"]+taken; got != want {
		t.Errorf("node2 asks %v times per second, want %v, with what it decides", got, want)
	}
	found, err := nodes[2].HotKeys(t.Context(), &pb.HotKeysRequest{})
	if err != nil || len(found.GetMembers()) != 3 || found.GetMembers()[0].GetSliceRate() != taken || found.GetMembers()[0].GetRate() != counted.GetRate() {
		t.Errorf("HotKeys() = %v, %v, want %v calls per second by node1 and %d from its slices", found, err, counted.GetRate(), taken)
	}
}

// TestHotKeyThatOnlyHoldersDecide: a key of which all calls are decided from slices is among
// the hottest, before others that the owner decides more often.
func TestHotKeyThatOnlyHoldersDecide(t *testing.T) {
	n := newCluster(t, 1)[0]
	for _, k := range []string{"lent", "not lent"} {
		n.lender.begin(7, k, 5, 1000, 500)
	}
	n.lender.add(7, &lentSlice{id: "x", key: "lent", asker: 5, calls: 100, holder: askerName{"10.0.0.7", false}}, time.Second)
	n.lender.returned(7, "lent", "x", 100)
	for range 50 {
		if _, err := n.Check(t.Context(), &pb.CheckRequest{Key: "counted", Tier: "free"}); err != nil {
			t.Fatal(err)
		}
	}
	keys, _ := n.OwnHotKeys(1)
	if len(keys) != 1 || keys[0].GetKey() != "lent" || keys[0].GetRate() != 100 || keys[0].GetSliceRate() != 100 {
		t.Errorf("OwnHotKeys(1) = %v, want the key that was lent, with 100 calls per second", keys)
	}
	if keys, _ = n.OwnHotKeys(5); len(keys) != 2 || keys[1].GetKey() != "counted" || keys[1].GetLimit() == nil {
		t.Errorf("OwnHotKeys(5) = %v, want the counted key second, with its limit", keys)
	}
}

func mustHotKey(t *testing.T, n *node, key string) *pb.HotKey {
	t.Helper()
	found, err := n.HotKeys(context.Background(), &pb.HotKeysRequest{Alone: true})
	if err != nil || len(found.GetKeys()) == 0 || found.GetKeys()[0].GetKey() != key {
		t.Fatalf("HotKeys() = %v, %v, want %s", found, err, key)
	}
	return found.GetKeys()[0]
}

func TestHotKeysLimit(t *testing.T) {
	n := newCluster(t, 1)[0]
	for _, limit := range []int32{-1, maxHotKeys + 1} {
		_, err := n.HotKeys(t.Context(), &pb.HotKeysRequest{Limit: limit})
		if grpcstatus.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "limit: must be from 0 to 1000") {
			t.Errorf("HotKeys(limit %d) = %v, want an error of limit", limit, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.HotKeys(gone, &pb.HotKeysRequest{}); grpcstatus.Code(err) != codes.Canceled {
		t.Errorf("HotKeys(cancelled) = %v, want Canceled", err)
	}
}

// TestAskers: streams of one name have one number, and the number of an asker that left is
// not used again.
func TestAskers(t *testing.T) {
	var a askers
	member, client := askerName{"x", true}, askerName{"x", false}
	one, again, other := a.begin(member), a.begin(member), a.begin(client)
	if one == 0 || one != again || other == one {
		t.Errorf("numbers are %d, %d and %d, want two of a member and another of a client", one, again, other)
	}
	a.end(one)
	if name, known := a.name(one); !known || name != member {
		t.Errorf("name(%d) = %v, %t after one of two streams, want %v", one, name, known, member)
	}
	a.end(again)
	if name, known := a.name(one); known {
		t.Errorf("name(%d) = %v after all streams, want none", one, name)
	}
	if next := a.begin(member); next == one || next == other {
		t.Errorf("number %d of a new stream, want a new one", next)
	}
}
