// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/replication"
	"github.com/bucketring/bucketring/rpc/server"
)

func TestWatch(t *testing.T) {
	c := &clock{}
	a, b := newNode(t, "a", c), newNode(t, "b", c)
	watch, err := pb.NewRateLimiterClient(a.conn()).Watch(waittest.Context(t, testWait), &pb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *pb.Ring {
		t.Helper()
		got, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	empty := next()
	if len(empty.Members) != 0 || empty.Digest != 0 || len(empty.Owners) != 2*ring.Partitions || empty.Owners[0] != 0xff || empty.Owners[1] != 0xff {
		t.Errorf("the first ring has %d members and digest %#x, want none", len(empty.Members), empty.Digest)
	}
	a.see(b, a)
	both := next()
	want := []*pb.RingMember{{Name: "a", Address: a.address, Boot: a.boot}, {Name: "b", Address: b.address, Boot: b.boot}}
	if diff := cmp.Diff(want, both.Members, protocmp.Transform()); diff != "" {
		t.Errorf("members differ (-want +got):\n%s", diff)
	}
	table, err := ring.New([]string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	if both.Digest != table.Digest() || both.Number <= empty.Number {
		t.Errorf("ring %d has digest %#x, want %#x after %d", both.Number, both.Digest, table.Digest(), empty.Number)
	}
	for p := range ring.Partitions {
		if got := both.Members[binary.LittleEndian.Uint16(both.Owners[2*p:])].Name; got != table.Owner(p) {
			t.Fatalf("partition %d belongs to %s, want %s", p, got, table.Owner(p))
		}
	}
	// What makes no difference to watchers sends nothing; what does comes next.
	if err := a.SetTopology(Topology{Serving: []Member{a.member(), b.member()}, Leaving: []Member{{Name: "c", Boot: 1, GRPC: "127.0.0.1:1"}}, Roster: 3}); err != nil {
		t.Fatal(err)
	}
	newer := b.member()
	newer.Boot++
	if err := a.SetTopology(Topology{Serving: []Member{a.member(), newer}, Roster: 2}); err != nil {
		t.Fatal(err)
	}
	if got := next(); got.Number != both.Number+1 || got.Members[1].Boot != newer.Boot || got.Digest != both.Digest {
		t.Errorf("ring %d with %v, want %d with the new boot", got.Number, got.Members, both.Number+1)
	}
	for range 20 { // of many rings, the last one comes
		a.see(a)
		a.see(a, b)
	}
	a.see(a)
	for last := both.Number; ; {
		got := next()
		if got.Number <= last {
			t.Fatalf("ring %d came after %d", got.Number, last)
		}
		if last = got.Number; last == a.feed.Load().ring.Number {
			break
		}
	}
}

func TestLocate(t *testing.T) {
	c := &clock{}
	a, b, x := newNode(t, "a", c), newNode(t, "b", c), newNode(t, "c", c)
	ctx := waittest.Context(t, testWait)
	alone, err := a.Locate(ctx, &pb.LocateRequest{Keys: []string{"k"}})
	if err != nil || alone.Locations[0].Owner != "a" || alone.Locations[0].State != "active" {
		t.Errorf("Locate() alone = %v, %v, want a", alone, err)
	}
	a.owners.set(func(int) replication.Place { return replication.Place{} })
	nobody, err := a.Locate(ctx, &pb.LocateRequest{Keys: []string{"k"}})
	if err != nil || nobody.Locations[0].Owner != "" || nobody.Locations[0].Heir != "" {
		t.Errorf("Locate() with nobody = %v, %v, want none", nobody, err)
	}
	table, err := ring.New([]string{"a", "b", "c"})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for i := range maxLocate {
		keys = append(keys, fmt.Sprint("org", i, "/user"))
	}
	nodes := map[string]*node{"a": a, "b": b, "c": x}
	for _, n := range nodes {
		n.see(a, b, x)
	}
	for _, n := range nodes {
		for _, alone := range []bool{false, true} {
			got, err := n.Locate(ctx, &pb.LocateRequest{Keys: keys, Alone: alone})
			if err != nil || len(got.Locations) != len(keys) {
				t.Fatalf("Locate() = %d locations, %v", len(got.GetLocations()), err)
			}
			for i, l := range got.Locations {
				p := ring.PartitionOf(keys[i])
				owner := nodes[table.Owner(p)]
				says := owner
				if alone {
					says = n
				}
				place := says.owners.Place(p)
				if l.Key != keys[i] || int(l.Partition) != p || l.Owner != owner.name || l.Heir != table.Heir(p) ||
					l.Address != owner.address || l.State != place.Role.String() || l.Term != place.Term {
					t.Fatalf("location of %s at %s, alone %t = %v", keys[i], n.name, alone, l)
				}
				if !alone && (l.State != "active" || l.Term == 0) {
					t.Fatalf("location of %s at %s = %v, want an owner that decides", keys[i], n.name, l)
				}
			}
		}
	}
	b.kill()
	got, err := a.Locate(ctx, &pb.LocateRequest{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range got.Locations {
		if (l.State == "unreachable") != (l.Owner == "b") {
			t.Fatalf("with b dead: location = %v", l)
		}
	}
	for name, tt := range map[string]struct {
		keys  []string
		field string
	}{
		"too many": {make([]string, maxLocate+1), "keys"},
		"empty":    {[]string{"ok", ""}, "keys[1]"},
		"segments": {[]string{"a//b"}, "keys[0]"},
	} {
		_, err := a.Locate(ctx, &pb.LocateRequest{Keys: tt.keys})
		if e := server.Describe(err); codes.Code(e.GetCode()) != codes.InvalidArgument || e.Field != tt.field || !strings.HasPrefix(e.Message, tt.field+": ") {
			t.Errorf("Locate(%s) = %v, want an error of %s", name, err, tt.field)
		}
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := a.Locate(gone, &pb.LocateRequest{}); grpcstatus.Code(err) != codes.Canceled {
		t.Errorf("Locate(cancelled) = %v, want Canceled", err)
	}
}

// TestStatus: it says what is so, in JSON.
func TestStatus(t *testing.T) {
	nodes := newCluster(t, 2)
	a, b := nodes[0], nodes[1]
	if err := a.SetTopology(Topology{Serving: []Member{a.member(), b.member()}, Leaving: []Member{{Name: "c", Boot: 9, GRPC: "127.0.0.1:1"}}, Roster: 4}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: b.ownedBy(0)}); err != nil {
		t.Fatal(err)
	}
	s := a.Status()
	table := a.table.Load().ring
	want := Status{
		View: 2, Ring: hex(table.Digest()), Roster: 4, Owned: len(table.Owned(a.name)),
		Members: []MemberStatus{
			{Name: a.name, Boot: hex(a.boot), GRPC: a.address, Self: true, Serving: true, Partitions: len(table.Owned(a.name))},
			{Name: b.name, Boot: hex(b.boot), GRPC: b.address, Serving: true, Partitions: len(table.Owned(b.name)), Link: &LinkStatus{Connected: true}},
			{Name: "c", Boot: hex(9), GRPC: "127.0.0.1:1", Link: &LinkStatus{}},
		},
		Fallbacks: map[string]uint64{"broken": 0, "breaker": 0, "queue_full": 0, "late": 0, "redirect": 0, "no_lease": 0, "no_owner": 0},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("status differs (-want +got):\n%s", diff)
	}
	if s.Ring != b.Status().Ring {
		t.Errorf("ring digests %s and %s, want the same", s.Ring, b.Status().Ring)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"ring_digest":"`, `"partitions_owned":`, `"breaker_open":false`, `"outbox":0`, `"roster":4`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("status = %s, want %s in it", text, want)
		}
	}
	for metric, want := range map[string]float64{
		"bucketring_ring_members": 2, "bucketring_ring_roster": 4, "bucketring_ring_partitions_owned": float64(s.Owned),
		"bucketring_forward_batches_total": 1, "bucketring_forward_items": 1, "bucketring_forward_queue": 0,
		"bucketring_peer_breaker_open": 0, "bucketring_outbox_entries": 0,
	} {
		if got := a.metric(metric); got != want {
			t.Errorf("%s = %v, want %v", metric, got, want)
		}
	}
	if n := a.Roster(); n != 4 {
		t.Errorf("Roster() = %d, want 4", n)
	}
	if err := a.Flush(waittest.Context(t, testWait)); err != nil {
		t.Errorf("Flush() of nothing = %v", err)
	}
}
