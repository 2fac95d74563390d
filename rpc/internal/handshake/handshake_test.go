// SPDX-License-Identifier: Apache-2.0

package handshake

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/pb"
)

var (
	key1, key2 = []byte("0123456789abcdef"), []byte("fedcba9876543210")
	one        = Versions{1, 1}
)

func self(name string, boot uint64, keys ...[]byte) Self {
	return Self{Name: name, Boot: boot, Keys: func() [][]byte { return keys }, Versions: one}
}

// caller is a caller that speaks the protocol by hand: AsOwner reads from it.
type caller struct {
	hello *pb.PeerHello
	prove func(*pb.PeerWelcome) *pb.PeerMessage

	welcome *pb.PeerWelcome
}

func (c *caller) Context() context.Context { return context.Background() }

func (c *caller) Recv() (*pb.PeerMessage, error) {
	if c.welcome == nil {
		return &pb.PeerMessage{Message: &pb.PeerMessage_Hello{Hello: c.hello}}, nil
	}
	if m := c.prove(c.welcome); m != nil {
		return m, nil
	}
	return nil, io.EOF
}

func (c *caller) Send(a *pb.PeerAnswer) error {
	c.welcome = a.GetWelcome()
	return nil
}

func proof(mac []byte) *pb.PeerMessage {
	return &pb.PeerMessage{Message: &pb.PeerMessage_Proof{Proof: &pb.PeerProof{Mac: mac}}}
}

func TestProofs(t *testing.T) {
	n := self("n", 9, key1, key2)
	hello := func() *pb.PeerHello {
		return &pb.PeerHello{Member: "m", Boot: 7, Owner: "n", Nonce: newNonce(), Protocol: 1, MinimumProtocol: 1}
	}
	with := func(change func(*pb.PeerHello)) *pb.PeerHello {
		h := hello()
		change(h)
		return h
	}
	old := hello()
	oldWelcome := &pb.PeerWelcome{Member: "n", Boot: 9, Nonce: newNonce(), Protocol: 1, MinimumProtocol: 1}
	for _, tt := range []struct {
		name  string
		prove func(*pb.PeerHello, *pb.PeerWelcome) []byte
		want  codes.Code
	}{
		{"the key", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte { return sign([][]byte{key1}, Caller, h, w) }, codes.OK},
		{"the other key", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte { return sign([][]byte{key2}, Caller, h, w) }, codes.OK},
		{"no key", func(*pb.PeerHello, *pb.PeerWelcome) []byte { return nil }, codes.Unauthenticated},
		{"another key", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte { return sign([][]byte{[]byte("x")}, Caller, h, w) }, codes.PermissionDenied},
		{"the owner's own proof", func(_ *pb.PeerHello, w *pb.PeerWelcome) []byte { return w.Mac }, codes.PermissionDenied},
		{"the owner's side", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte { return sign([][]byte{key1}, Owner, h, w) }, codes.PermissionDenied},
		{"of another handshake", func(*pb.PeerHello, *pb.PeerWelcome) []byte {
			return sign([][]byte{key1}, Caller, old, oldWelcome)
		}, codes.PermissionDenied},
		{"for another member", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte {
			other := proto.CloneOf(h)
			other.Member = "x"
			return sign([][]byte{key1}, Caller, other, w)
		}, codes.PermissionDenied},
		{"cut short", func(h *pb.PeerHello, w *pb.PeerWelcome) []byte { return sign([][]byte{key1}, Caller, h, w)[:31] }, codes.PermissionDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := hello()
			c := &caller{hello: h, prove: func(w *pb.PeerWelcome) *pb.PeerMessage {
				if wrong := verify([][]byte{key1}, Owner, h, w, w.Mac); wrong != nil {
					t.Errorf("the owner's proof: %v", wrong)
				}
				return proof(tt.prove(h, w))
			}}
			peer, err := n.AsOwner(c)
			if grpcstatus.Code(err) != tt.want || err == nil && peer != (Peer{"m", 7, 1}) {
				t.Errorf("AsOwner() = %v, %v, want %v", peer, err, tt.want)
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
		c := &caller{hello: h, prove: func(*pb.PeerWelcome) *pb.PeerMessage { return nil }}
		if p, err := n.AsOwner(c); grpcstatus.Code(err) != codes.FailedPrecondition || c.welcome != nil {
			t.Errorf("%s: %v, %v, want FailedPrecondition", name, p, err)
		}
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
		add(what, signature(key1, Owner, h, w))
		add(what+", caller", signature(key1, Caller, h, w))
	}
	change("nothing", func(*pb.PeerHello, *pb.PeerWelcome) {})
	change("caller", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.Member = "x" })
	change("caller's boot", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.Boot++ })
	change("wanted", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.Owner = "x" })
	change("moved between names", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.Member, h.Owner = "a", "bc" })
	change("caller's nonce", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.Nonce[31]++ })
	change("caller's protocol", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.Protocol++ })
	change("caller's minimum", func(h *pb.PeerHello, _ *pb.PeerWelcome) { h.MinimumProtocol++ })
	change("owner's protocol", func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Protocol++ })
	change("owner's minimum", func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.MinimumProtocol++ })
	change("owner", func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Member = "x" })
	change("owner's boot", func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Boot++ })
	change("owner's nonce", func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Nonce[0]++ })
	change("nonces traded", func(h *pb.PeerHello, w *pb.PeerWelcome) { h.Nonce, w.Nonce = w.Nonce, h.Nonce })
	add("another key", signature(key2, Owner, hello, welcome))
}

// script is the other end of AsCaller.
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

// TestCallerProvesNothingToOthers: a caller says nothing more to who is not the member that it wants.
func TestCallerProvesNothingToOthers(t *testing.T) {
	n := self("n", 9, key1)
	to := Member{Name: "o", Boot: 5, Address: "127.0.0.1:1"}
	welcome := func(change func(*pb.PeerHello, *pb.PeerWelcome)) func(*pb.PeerMessage) *pb.PeerAnswer {
		return func(m *pb.PeerMessage) *pb.PeerAnswer {
			w := &pb.PeerWelcome{Member: "o", Boot: 5, Nonce: newNonce(), Protocol: 1, MinimumProtocol: 1}
			w.Mac = sign([][]byte{key1}, Owner, m.GetHello(), w)
			change(m.GetHello(), w)
			return &pb.PeerAnswer{Answer: &pb.PeerAnswer_Welcome{Welcome: w}}
		}
	}
	for _, tt := range []struct {
		name    string
		answers func(*pb.PeerMessage) *pb.PeerAnswer
		want    string // result
	}{
		{"right", welcome(func(*pb.PeerHello, *pb.PeerWelcome) {}), OK},
		{"no key", welcome(func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Mac = nil }), NoKey},
		{"another key", welcome(func(h *pb.PeerHello, w *pb.PeerWelcome) { w.Mac = sign([][]byte{key2}, Owner, h, w) }), WrongKey},
		{"the caller's side", welcome(func(h *pb.PeerHello, w *pb.PeerWelcome) { w.Mac = sign([][]byte{key1}, Caller, h, w) }), WrongKey},
		{"another name", welcome(func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Member = "x" }), WrongMember},
		{"another boot", welcome(func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Boot++ }), WrongMember},
		{"another version", welcome(func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Protocol, w.MinimumProtocol = 3, 2 }), WrongVersion},
		{"no nonce", welcome(func(_ *pb.PeerHello, w *pb.PeerWelcome) { w.Nonce = nil }), Malformed},
		{"answers", func(*pb.PeerMessage) *pb.PeerAnswer { return &pb.PeerAnswer{} }, Malformed},
		{"gone", func(*pb.PeerMessage) *pb.PeerAnswer { return nil }, Broken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &script{answers: tt.answers}
			_, err := n.AsCaller(s, to)
			if got := ResultOf(err); got != tt.want {
				t.Errorf("AsCaller() = %v (%s), want %s", err, got, tt.want)
			}
			proved := slices.ContainsFunc(s.sent, func(m *pb.PeerMessage) bool { return m.GetProof() != nil })
			if proved != (tt.want == OK) {
				t.Errorf("a proof was sent: %v", proved)
			}
		})
	}
}
