// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/binary"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/pb"
)

func ringMessage(owners []uint16, names ...string) *pb.Ring {
	r := &pb.Ring{Number: 1, Digest: 2}
	for _, name := range names {
		r.Members = append(r.Members, &pb.RingMember{Name: name, Address: name + ":6471", Boot: 3})
	}
	for _, i := range owners {
		r.Owners = binary.LittleEndian.AppendUint16(r.Owners, i)
	}
	return r
}

func TestParseRing(t *testing.T) {
	tests := []struct {
		name string
		ring *pb.Ring
		want string // in the error; "": none
	}{
		{"two members", ringMessage([]uint16{0, 1, 1, noOwner}, "a", "b"), ""},
		{"noOwner serves", ringMessage([]uint16{noOwner}), ""},
		{"as many partitions as can be", ringMessage(make([]uint16, maxPartitions), "a"), ""},
		{"nothing", nil, "owners"},
		{"no partitions", ringMessage(nil, "a"), "owners"},
		{"half a partition", &pb.Ring{Owners: []byte{0, 0, 0}, Members: []*pb.RingMember{{Name: "a"}}}, "owners"},
		{"too many partitions", ringMessage(make([]uint16, maxPartitions+1), "a"), "owners"},
		{"owner that is not there", ringMessage([]uint16{0, 1}, "a"), "owners[1]"},
		{"owner of an empty ring", ringMessage([]uint16{0}), "owners[0]"},
		{"no name", ringMessage([]uint16{0}, ""), "members[0]"},
		{"nil member", &pb.Ring{Owners: []byte{0, 0}, Members: []*pb.RingMember{nil}}, "members[0]"},
		{"long name", ringMessage([]uint16{0}, strings.Repeat("a", 257)), "members[0]"},
		{"not sorted", ringMessage([]uint16{0}, "b", "a"), "members[1]"},
		{"twice", ringMessage([]uint16{0}, "a", "a"), "members[1]"},
		{"too many members", &pb.Ring{Owners: []byte{0, 0}, Members: make([]*pb.RingMember, maxMembers+1)}, "members"},
	}
	for _, test := range tests {
		v, err := parseRing(test.ring)
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), "ring: "+test.want) {
			t.Errorf("%s: parseRing() = %v, want an error about %q", test.name, err, test.want)
		}
		if err != nil {
			continue
		}
		for _, key := range []string{"acme/alice", "acme", "", "/", "\xff", strings.Repeat("x", 1000)} {
			_ = v.owner(key) // must not panic
		}
	}
}

func TestNilView(t *testing.T) {
	var v *view
	if v.owner("acme") != nil || v.member("a") != nil || v.equal(&view{}) {
		t.Error("a nil view has owners or members, or equals another view")
	}
}

// Nodes and clients agree on the owner of every key.
func TestOwnersAreThoseOfTheRing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`node-[0-9]{1,3}`), 1, 12, rapid.ID).Draw(rt, "names")
		table, err := ring.New(names)
		if err != nil {
			rt.Fatal(err)
		}
		r := &pb.Ring{Digest: table.Digest()}
		for _, name := range table.Members() {
			r.Members = append(r.Members, &pb.RingMember{Name: name})
		}
		for p := range ring.Partitions {
			r.Owners = binary.LittleEndian.AppendUint16(r.Owners, uint16(table.OwnerIndex(p)))
		}
		v, err := parseRing(r)
		if err != nil {
			rt.Fatal(err)
		}
		for range 100 {
			key := rapid.StringN(1, 20, -1).Draw(rt, "key")
			if got, want := v.owner(key).name, table.Owner(ring.PartitionOf(key)); got != want {
				rt.Errorf("owner(%q) = %s, want %s", key, got, want)
			}
		}
	})
}

func TestTarget(t *testing.T) {
	local, remote, both := dialRules{loopback: true}, dialRules{anyAddress: true}, dialRules{anyAddress: true, loopback: true}
	tests := []struct {
		address string
		allowed []dialRules // that allow it
		target  string
	}{
		{"127.0.0.1:6471", []dialRules{local, both}, "127.0.0.1:6471"},
		{"[::1]:6471", []dialRules{local, both}, "[::1]:6471"},
		{"localhost:6471", []dialRules{local, both}, "localhost:6471"},
		{"10.0.0.1:6471", []dialRules{remote, both}, "10.0.0.1:6471"},
		{"[2001:db8::1]:6471", []dialRules{remote, both}, "[2001:db8::1]:6471"},
		{"node-1:6471", []dialRules{remote, both}, "node-1:6471"},
		{"node_1.cluster.local:1", []dialRules{remote, both}, "node_1.cluster.local:1"},
		{"", nil, ""},
		{"node-1", nil, ""},
		{":6471", nil, ""},
		{"node-1:", nil, ""},
		{"node-1:0", nil, ""},
		{"node-1:65536", nil, ""},
		{"node-1:grpc", nil, ""},
		{"0.0.0.0:6471", nil, ""},
		{"[::]:6471", nil, ""},
		{"224.0.0.1:6471", nil, ""},
		{"unix:/run/x.sock:1", nil, ""},
		{"unix:///run/x.sock", nil, ""},
		{"dns:///node-1:6471", nil, ""},
		{"a/b:6471", nil, ""},
		{"a%2f:6471", nil, ""},
		{"a b:6471", nil, ""},
		{"[node-1:2]:6471", nil, ""},
		{"xds:6471", []dialRules{remote, both}, "xds:6471"}, // a host of that name
	}
	for _, test := range tests {
		for _, r := range []dialRules{{}, local, remote, both} {
			want := ""
			for _, from := range test.allowed {
				if from == r {
					want = test.target
				}
			}
			if got, err := r.target(test.address); got != want || (err == nil) != (want != "") {
				t.Errorf("%+v.target(%q) = %q, %v, want %q", r, test.address, got, err, want)
			}
		}
	}
}

// FuzzParseRing parses arbitrary owners: no view panics.
func FuzzParseRing(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 0xff, 0xff}, 2, "acme/alice")
	f.Fuzz(func(t *testing.T, owners []byte, members int, key string) {
		r := &pb.Ring{Owners: owners}
		for i := range min(max(members, 0), 50) {
			r.Members = append(r.Members, &pb.RingMember{Name: string(rune('A' + i))})
		}
		if v, err := parseRing(r); err == nil {
			v.owner(key)
		}
	})
}
