// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/waittest"
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
		{"no keys", nil, nil, true, true, handshakeOK},
		{"one key", [][]byte{key1}, [][]byte{key1}, true, true, handshakeOK},
		{"a new key is known", [][]byte{key1}, [][]byte{key1, key2}, true, true, handshakeOK},
		{"a new key is used by one", [][]byte{key1, key2}, [][]byte{key2, key1}, true, true, handshakeOK},
		{"an old key is gone from one", [][]byte{key2}, [][]byte{key2, key1}, true, true, handshakeOK},
		{"a new key that one does not know", [][]byte{key1}, [][]byte{key2, key1}, false, false, handshakeWrongKey},
		{"different keys", [][]byte{key1}, [][]byte{key2}, false, false, handshakeWrongKey},
		{"one has none", [][]byte{key1}, nil, false, false, handshakeNoKey},
		{"the other has none", nil, [][]byte{key1}, false, false, handshakeNoKey},
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
			if n := a.metric("bucketring_peer_handshakes_total", handshakeOK); tt.aToB && n == 0 {
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
	if n := a.metric("bucketring_peer_handshakes_total", handshakeWrongMember, sideCaller); n == 0 {
		t.Error("no wrong member was counted by the caller")
	}
}

// impostor speaks the protocol by hand.
type impostor struct {
	t      *testing.T
	stream interface {
		callerStream
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

func TestProofs(t *testing.T) {
	n := newNode(t, "n", &clock{}, withKeys(key1, key2))
	hello := func() *pb.PeerHello { return &pb.PeerHello{Member: "m", Boot: 7, Owner: "n", Nonce: newNonce()} }
	with := func(change func(*pb.PeerHello)) *pb.PeerHello {
		h := hello()
		change(h)
		return h
	}
	old := hello()
	oldWelcome, err := dialPeer(t, n).hello(old)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		prove func(*pb.PeerHello, *pb.PeerWelcome) []byte
		want  codes.Code
	}{
		{"the key", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte { return sign([][]byte{key1}, sideCaller, h, w) }, codes.OK},
		{"the other key", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte { return sign([][]byte{key2}, sideCaller, h, w) }, codes.OK},
		{"no key", func(*pb.PeerHello, *pb.PeerWelcome) []byte { return nil }, codes.Unauthenticated},
		{"another key", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte { return sign([][]byte{[]byte("x")}, sideCaller, h, w) }, codes.PermissionDenied},
		{"the owner's own proof", func(_ *pb.PeerHello, w *pb.PeerWelcome) []byte { return w.Mac }, codes.PermissionDenied},
		{"the owner's side", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte { return sign([][]byte{key1}, sideOwner, h, w) }, codes.PermissionDenied},
		{"of another handshake", func(*pb.PeerHello, *pb.PeerWelcome) []byte {
			return sign([][]byte{key1}, sideCaller, old, oldWelcome)
		}, codes.PermissionDenied},
		{"for another member", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte {
			other := proto.CloneOf(h)
			other.Member = "x"
			return sign([][]byte{key1}, sideCaller, other, w)
		}, codes.PermissionDenied},
		{"cut short", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte { return sign([][]byte{key1}, sideCaller, h, w)[:31] }, codes.PermissionDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i, h := dialPeer(t, n), hello()
			w, err := i.hello(h)
			if err != nil {
				t.Fatal(err)
			}
			if wrong := verify([][]byte{key1}, sideOwner, h, w, w.Mac); wrong != nil {
				t.Errorf("the owner's proof: %v", wrong)
			}
			answer, err := i.batch(tt.prove(h, w))
			if grpcstatus.Code(err) != tt.want || (err == nil) != (len(answer.GetAnswers().GetResults()) == 1) {
				t.Errorf("batch = %v, %v, want %v", answer, err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), sameKey) {
				t.Errorf("error = %v, want one that says what to do", err)
			}
		})
	}
	for name, h := range map[string]*pb.PeerHello{
		"for somebody else": with(func(h *pb.PeerHello) { h.Owner = "x" }),
		"short nonce":       with(func(h *pb.PeerHello) { h.Nonce = h.Nonce[1:] }),
		"endless name":      with(func(h *pb.PeerHello) { h.Member = strings.Repeat("x", 256) }),
	} {
		if w, err := dialPeer(t, n).hello(h); grpcstatus.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: %v, %v, want FailedPrecondition", name, w, err)
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

// TestSignaturesCoverEverything: whatever one side says otherwise makes another
// signature, and no two fields can be traded for each other.
func TestSignaturesCoverEverything(t *testing.T) {
	hello := &pb.PeerHello{Member: "ab", Boot: 1, Owner: "c", Nonce: newNonce()}
	welcome := &pb.PeerWelcome{Member: "c", Boot: 2, Nonce: newNonce()}
	seen := map[string]string{}
	add := func(what string, mac []byte) {
		if before, ok := seen[string(mac)]; ok {
			t.Errorf("%s and %s have the same signature", what, before)
		}
		seen[string(mac)] = what
	}
	change := func(what string, f func(h *pb.PeerHello, w *pb.PeerWelcome)) {
		h, w := proto.CloneOf(hello), proto.CloneOf(welcome)
		f(h, w)
		add(what, signature(key1, sideOwner, h, w))
		add(what+", caller", signature(key1, sideCaller, h, w))
	}
	change("nothing", func(*pb.PeerHello, *pb.PeerWelcome) {})
	change("caller", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.Member = "x" })
	change("caller's boot", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.Boot++ })
	change("wanted", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.Owner = "x" })
	change("moved between names", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.Member, h.Owner = "a", "bc" })
	change("caller's nonce", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.Nonce[31]++ })
	change("owner", func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Member = "x" })
	change("owner's boot", func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Boot++ })
	change("owner's nonce", func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Nonce[0]++ })
	change("nonces traded", func(h *pb.PeerHello, w *pb.PeerWelcome) { h.Nonce, w.Nonce = w.Nonce, h.Nonce })
	add("another key", signature(key2, sideOwner, hello, welcome))
}

// script is the other end of greet.
type script struct {
	sent    []*pb.PeerMessage
	answers func(*pb.PeerMessage) *pb.PeerAnswer
}

func (s *script) Send(m *pb.PeerMessage) error {
	s.sent = append(s.sent, m)
	return nil
}

func (s *script) Recv() (*pb.PeerAnswer, error) {
	if a := s.answers(s.sent[len(s.sent)-1]); a != nil {
		return a, nil
	}
	return nil, io.EOF
}

// TestGreet: a caller says nothing more to who is not the member that it wants.
func TestGreet(t *testing.T) {
	n := newNode(t, "n", &clock{}, withKeys(key1))
	to := Member{Name: "o", Boot: 5, GRPC: "127.0.0.1:1"}
	welcome := func(change func(*pb.PeerHello, *pb.PeerWelcome)) func(*pb.PeerMessage) *pb.PeerAnswer {
		return func(m *pb.PeerMessage) *pb.PeerAnswer {
			w := &pb.PeerWelcome{Member: "o", Boot: 5, Nonce: newNonce()}
			w.Mac = sign([][]byte{key1}, sideOwner, m.GetHello(), w)
			change(m.GetHello(), w)
			return &pb.PeerAnswer{Answer: &pb.PeerAnswer_Welcome{Welcome: w}}
		}
	}
	for _, tt := range []struct {
		name    string
		answers func(*pb.PeerMessage) *pb.PeerAnswer
		want    string // result
	}{
		{"right", welcome(func(*pb.PeerHello, *pb.PeerWelcome) {}), handshakeOK},
		{"no key", welcome(func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Mac = nil }), handshakeNoKey},
		{"another key", welcome(func(h *pb.PeerHello, w *pb.PeerWelcome) { w.Mac = sign([][]byte{key2}, sideOwner, h, w) }), handshakeWrongKey},
		{"the caller's side", welcome(func(h *pb.PeerHello, w *pb.PeerWelcome) { w.Mac = sign([][]byte{key1}, sideCaller, h, w) }), handshakeWrongKey},
		{"another name", welcome(func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Member = "x" }), handshakeWrongMember},
		{"another boot", welcome(func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Boot++ }), handshakeWrongMember},
		{"no nonce", welcome(func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Nonce = nil }), handshakeMalformed},
		{"answers", func(*pb.PeerMessage) *pb.PeerAnswer { return &pb.PeerAnswer{} }, handshakeMalformed},
		{"gone", func(*pb.PeerMessage) *pb.PeerAnswer { return nil }, handshakeBroken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{answers: tt.answers}
			err := n.handshakeAsCaller(s, to)
			got := handshakeOK
			if err != nil {
				got = resultOf(err)
			}
			if got != tt.want {
				t.Errorf("greet() = %v (%s), want %s", err, got, tt.want)
			}
			proved := slices.ContainsFunc(s.sent, func(m *pb.PeerMessage) bool { return m.GetProof() != nil })
			if proved != (tt.want == handshakeOK) {
				t.Errorf("a proof was sent: %v", proved)
			}
		})
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
