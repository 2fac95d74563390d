// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/internal/handshake"
	"github.com/bucketring/bucketring/rpc/pb"
)

var key1, key2 = []byte("0123456789abcdef"), []byte("fedcba9876543210")

func withKeys(keys ...[]byte) func(*Options) {
	return func(o *Options) { o.Keys = func() [][]byte { return keys } }
}

// TestKeys asks through members with these keys, in both directions.
func TestKeys(t *testing.T) {
	for _, tt := range []struct {
		name       string
		a, b       [][]byte
		aToB, bToA bool   // answered by the owner
		result     string // of a handshake
	}{
		{"no keys", nil, nil, true, true, handshake.OK},
		{"one key", [][]byte{key1}, [][]byte{key1}, true, true, handshake.OK},
		{"a new key is known", [][]byte{key1}, [][]byte{key1, key2}, true, true, handshake.OK},
		{"a new key is used by one", [][]byte{key1, key2}, [][]byte{key2, key1}, true, true, handshake.OK},
		{"an old key is gone from one", [][]byte{key2}, [][]byte{key2, key1}, true, true, handshake.OK},
		{"a new key that one does not know", [][]byte{key1}, [][]byte{key2, key1}, false, false, handshake.WrongKey},
		{"different keys", [][]byte{key1}, [][]byte{key2}, false, false, handshake.WrongKey},
		{"one has none", [][]byte{key1}, nil, false, false, handshake.NoKey},
		{"the other has none", nil, [][]byte{key1}, false, false, handshake.NoKey},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &clock{}
			a, b := newNode(t, "a", c, withKeys(tt.a...)), newNode(t, "b", c, withKeys(tt.b...))
			a.see(a, b)
			b.see(a, b)
			for _, way := range []struct {
				from, to *node
				want     bool
			}{{a, b, tt.aToB}, {b, a, tt.bToA}} {
				d, err := way.from.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: way.to.ownedBy(0), Tier: "open"})
				if err != nil || (d.Route == pb.Route_ROUTE_FORWARD) != way.want {
					t.Errorf("Check() from %s to %s = %v, %v, want it forwarded: %v", way.from.name, way.to.name, d, err, way.want)
				}
			}
			waittest.Until(t, "the end of a handshake to be counted", func() bool {
				return a.metric("bucketring_peer_handshakes_total", tt.result)+b.metric("bucketring_peer_handshakes_total", tt.result) > 0
			})
			if n := a.metric("bucketring_peer_handshakes_total", handshake.OK); tt.aToB && n == 0 {
				t.Error("no handshake was counted as ok")
			}
		})
	}
}

// TestWrongMember: who answers at an address must be who was asked for, and the
// same run of it.
func TestWrongMember(t *testing.T) {
	c := &clock{}
	a, b := newNode(t, "a", c), newNode(t, "b", c)
	for name, m := range map[string]Member{
		"another member": {Name: "c", Boot: b.boot, GRPC: b.address},
		"another run":    {Name: "b", Boot: b.boot + 1000, GRPC: b.address},
	} {
		if err := a.SetTopology(Topology{Serving: []Member{m}, Roster: 1}); err != nil {
			t.Fatal(err)
		}
		d, err := a.Check(waittest.Context(t, testWait), &pb.CheckRequest{Key: "k"})
		if err != nil || d.Route != pb.Route_ROUTE_FALLBACK {
			t.Errorf("%s: %v, %v, want a fallback", name, d, err)
		}
	}
	if n := a.metric("bucketring_peer_handshakes_total", handshake.WrongMember, handshake.Caller); n == 0 {
		t.Error("no wrong member was counted by the caller")
	}
}

// impostor speaks the protocol by hand.
type impostor struct {
	t      *testing.T
	stream interface {
		handshake.CallerStream
		CloseSend() error
	}
}

func dialPeer(t *testing.T, to *node) *impostor {
	t.Helper()
	stream, err := pb.NewPeerClient(to.conn()).Exchange(waittest.Context(t, testWait))
	if err != nil {
		t.Fatal(err)
	}
	return &impostor{t, stream}
}

func (i *impostor) hello(h *pb.PeerHello) (*pb.PeerWelcome, error) {
	i.t.Helper()
	if err := i.stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Hello{Hello: h}}); err != nil {
		i.t.Fatal(err)
	}
	m, err := i.stream.Recv()
	return m.GetWelcome(), err
}

// batch sends a proof and a batch, and returns what comes of it.
func (i *impostor) batch(mac []byte) (*pb.PeerAnswer, error) {
	_ = i.stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Proof{Proof: &pb.PeerProof{Mac: mac}}})
	_ = i.stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Batch{Batch: &pb.Batch{Sequence: 1, Items: []*pb.Item{
		{Call: &pb.Item_Peek{Peek: &pb.PeekRequest{Key: "k"}}},
	}}}})
	return i.stream.Recv()
}

// TestNoBatchWithoutProof: nothing is decided for who does not prove that it has the
// key.
func TestNoBatchWithoutProof(t *testing.T) {
	n := newNode(t, "n", &clock{}, withKeys(key1))
	hello := &pb.PeerHello{Member: "m", Boot: 7, Owner: "n", Nonce: make([]byte, 32), Protocol: 1, MinimumProtocol: 1}
	for name, tt := range map[string]struct {
		mac  []byte
		want codes.Code
	}{
		"no proof":    {nil, codes.Unauthenticated},
		"wrong proof": {make([]byte, 32), codes.PermissionDenied},
	} {
		i := dialPeer(t, n)
		if _, err := i.hello(hello); err != nil {
			t.Fatal(err)
		}
		if answer, err := i.batch(tt.mac); grpcstatus.Code(err) != tt.want {
			t.Errorf("%s: %v, %v, want %v", name, answer, err, tt.want)
		}
	}
	i := dialPeer(t, n)
	if err := i.stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Batch{Batch: &pb.Batch{Sequence: 1}}}); err != nil {
		t.Fatal(err)
	}
	if m, err := i.stream.Recv(); grpcstatus.Code(err) != codes.FailedPrecondition {
		t.Errorf("a batch without a handshake = %v, %v, want FailedPrecondition", m, err)
	}
}

// TestSilentCaller: who says nothing does not keep a handler for long.
func TestSilentCaller(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for a timeout")
	}
	n := newNode(t, "n", &clock{})
	began := time.Now()
	if m, err := dialPeer(t, n).stream.Recv(); grpcstatus.Code(err) != codes.DeadlineExceeded {
		t.Errorf("Recv() = %v, %v, want DeadlineExceeded", m, err)
	}
	if took := time.Since(began); took > 2*handshakeTimeout {
		t.Errorf("it took %s, want %s", took, handshakeTimeout)
	}
}

func TestSeldom(t *testing.T) {
	var s logLimiter
	at := time.Unix(1000, 0)
	got := ""
	for _, after := range []time.Duration{0, 1, minLogInterval - 1, minLogInterval, minLogInterval + 1, 3 * minLogInterval} {
		got += fmt.Sprint(s.allow(at.Add(after)), " ")
	}
	if want := "true false false true false true "; got != want {
		t.Errorf("due = %s, want %s", got, want)
	}
}
