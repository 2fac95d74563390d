// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/pb"
)

// thief is a process with a stolen gossip key that takes a name, by a boot that is newer
// than that of the member.
func thief(t *testing.T, name string, key []byte, join string, grpcPort uint16) cluster.Boot {
	t.Helper()
	boot := cluster.Boot{ID: cluster.ID(time.Now().UnixNano()), Started: time.Now().Add(time.Hour)}
	c, err := cluster.New(cluster.Options{
		Name: name, Boot: boot, Bind: netip.MustParseAddrPort("127.0.0.1:0"), GRPC: grpcPort, HTTP: grpcPort, TLS: true,
		Seeds: []string{join}, Keys: [][]byte{key}, Ring: cluster.ID(ring.Layout()),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetState(cluster.Serving); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return boot
}

// TestStolenGossipKey lets processes with the gossip key take a member's name: with no
// certificate, with one of another CA, with that of another member, and at the address of
// the member itself. None gets into a view, and the member goes on deciding. Then they
// call the members as that member, and are refused.
func TestStolenGossipKey(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t, "ours"), newAuthority(t, "theirs")
	nodes, key := secureCluster(t, 2, ca, nil, ca.settings("required", "none"))
	n1, n2 := nodes[0], nodes[1]
	own, ok := n1.cluster.View().Member("n2")
	if !ok {
		t.Fatal("n2 is not in the view")
	}
	serve := func(o ...grpc.ServerOption) uint16 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer(o...)
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(l) }()
		t.Cleanup(func() { s.Stop(); <-done })
		return portOf(l)
	}
	with := func(pair tls.Certificate) grpc.ServerOption {
		return grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}}))
	}
	load := func(a *authority, name string) tls.Certificate {
		f := a.files(name, true)
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	want := map[cluster.ID]string{
		thief(t, "n2", key, n1.GossipAddr(), serve()).ID:                        "", // plaintext
		thief(t, "n2", key, n1.GossipAddr(), serve(with(load(other, "n2")))).ID: "unknown authority",
		thief(t, "n2", key, n1.GossipAddr(), serve(with(load(ca, "n9")))).ID:    "must be for n2",
		thief(t, "n2", key, n1.GossipAddr(), portOf(n2.grpcListener)).ID:        "restarted",
		thief(t, "n7", key, n1.GossipAddr(), serve(with(load(ca, "n9")))).ID:    "must be for n7",
	}
	for _, n := range nodes {
		waittest.Until(t, "the thieves are seen at "+n.Name(), func() bool { return len(n.Status().Cluster.Unvouched) == len(want) })
		for _, u := range n.Status().Cluster.Unvouched {
			if text, known := want[u.Boot]; !known || !strings.Contains(u.Problem, text) {
				t.Errorf("unvouched at %s: %+v, want %q", n.Name(), u, text)
			}
		}
		v := n.cluster.View()
		if m, _ := v.Member("n2"); m.Boot != own.Boot || len(v.Members) != 2 || len(v.Fenced) > 0 || n.Ready() != nil {
			t.Errorf("view of %s: %+v, fenced %v, ready %v, want the real n2 only", n.Name(), v.Members, v.Fenced, n.Ready())
		}
		if r := n.Status().Cluster.Replication; r == nil || !slices.Equal(r.Roster, []string{"n1", "n2"}) {
			t.Errorf("roster of %s: %+v", n.Name(), r)
		}
	}
	caller := ca.store("caller", false)
	routes := map[pb.Route]int{}
	for i := range 20 {
		d, err := ask(t, caller.ServerCredentials(""), n1.GRPCAddr(), fmt.Sprintf("root%d", i))
		if err != nil || d.GetRoute() == pb.Route_ROUTE_FALLBACK {
			t.Errorf("a call: %v, %v", d, err)
		}
		routes[d.GetRoute()]++
	}
	if len(routes) < 2 {
		t.Errorf("routes = %v, want calls that n2 decides, too", routes)
	}

	// They call n1 in the name of n2. Each answer says what is wrong, before anything is
	// proved to them.
	for name, tt := range map[string]struct {
		creds credentials.TransportCredentials
		want  string
	}{
		"no certificate":    {credentials.NewTLS(without(caller.Client("n1"))), "must show a certificate"},
		"a caller's":        {caller.ServerCredentials("n1"), "must be for n2"},
		"of another member": {ca.store("n9", true).ServerCredentials("n1"), "must be for n2"},
		"of another CA":     {other.store("n2", true).ServerCredentials("n1"), ""},
		"plaintext":         {insecure.NewCredentials(), ""},
	} {
		conn, err := grpc.NewClient(n1.GRPCAddr(), grpc.WithTransportCredentials(tt.creds))
		if err != nil {
			t.Fatal(err)
		}
		client := pb.NewPeerClient(conn)
		for method, open := range map[string]func(context.Context, ...grpc.CallOption) (grpc.BidiStreamingClient[pb.PeerMessage, pb.PeerAnswer], error){
			"Exchange": client.Exchange, "Control": client.Control, "Copy": client.Copy, "Ask": client.Ask, "Wait": client.Wait,
		} {
			stream, err := open(t.Context())
			if err == nil {
				_ = stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Hello{Hello: &pb.PeerHello{
					Member: "n2", Boot: runNumber(own.Boot), Owner: "n1", Nonce: make([]byte, 32), Protocol: 1, MinimumProtocol: 1,
				}}})
				_, err = stream.Recv()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s, %s: %v, want an error with %q", method, name, err, tt.want)
			}
		}
		_ = conn.Close()
	}
}
