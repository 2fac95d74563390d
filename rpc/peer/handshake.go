// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Each side signs all that both have sent, so that a signature cannot be replayed in
// another handshake, and the name of its side, so that it cannot be reflected.

const (
	nonceBytes = 32
	maxName    = 255
	keyInfo    = "bucketring peer handshake v1" // of the key that is derived
)

// The sides of a handshake.
const (
	sideCaller = "caller"
	sideOwner  = "owner"
)

// The results of a handshake, as labels.
const (
	handshakeOK          = "ok"
	handshakeNoKey       = "no_key"       // one side has a cluster key, the other shows none
	handshakeWrongKey    = "wrong_key"    // both have one, with nothing in common
	handshakeWrongMember = "wrong_member" // another member or boot answers at the address
	handshakeMalformed   = "malformed"
	handshakeBroken      = "broken" // the connection
)

var handshakeResults = [...]string{handshakeOK, handshakeNoKey, handshakeWrongKey, handshakeWrongMember, handshakeMalformed, handshakeBroken}

// rejection is why a handshake failed. Its text says what to do.
type rejection struct {
	result string
	code   codes.Code
	text   string
}

func (e *rejection) Error() string { return e.text }

// GRPCStatus is how grpc-go finds out what to send.
func (e *rejection) GRPCStatus() *grpcstatus.Status { return grpcstatus.New(e.code, e.text) }

func reject(result string, code codes.Code, format string, args ...any) *rejection {
	return &rejection{result, code, fmt.Sprintf(format, args...)}
}

const sameKey = "give all members the same cluster key"

// sign returns the proof of a side; nil without a key.
func sign(keys [][]byte, side string, hello *pb.PeerHello, welcome *pb.PeerWelcome) []byte {
	if len(keys) == 0 {
		return nil
	}
	return signature(keys[0], side, hello, welcome)
}

func signature(key []byte, side string, hello *pb.PeerHello, welcome *pb.PeerWelcome) []byte {
	derived, err := hkdf.Key(sha256.New, key, nil, keyInfo, sha256.Size)
	if err != nil {
		panic(err) // only if the length, a constant, were too large
	}
	mac := hmac.New(sha256.New, derived)
	field := func(b []byte) {
		mac.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		mac.Write(b)
	}
	number := func(n uint64) { mac.Write(binary.BigEndian.AppendUint64(nil, n)) }
	field([]byte(side))
	field([]byte(hello.GetMember()))
	number(hello.GetBoot())
	field([]byte(hello.GetOwner()))
	field(hello.GetNonce())
	field([]byte(welcome.GetMember()))
	number(welcome.GetBoot())
	field(welcome.GetNonce())
	return mac.Sum(nil)
}

// verify returns what is wrong with the proof of the other side; nil if nothing is.
func verify(keys [][]byte, side string, hello *pb.PeerHello, welcome *pb.PeerWelcome, shown []byte) *rejection {
	who := hello.GetMember()
	if side == sideOwner {
		who = welcome.GetMember()
	}
	switch {
	case len(keys) == 0 && len(shown) == 0:
		return nil
	case len(keys) == 0:
		return reject(handshakeNoKey, codes.Unauthenticated, "%s has a cluster key and this member has none: %s", who, sameKey)
	case len(shown) == 0:
		return reject(handshakeNoKey, codes.Unauthenticated, "%s has no cluster key: %s", who, sameKey)
	}
	for _, key := range keys {
		if hmac.Equal(signature(key, side, hello, welcome), shown) {
			return nil
		}
	}
	return reject(handshakeWrongKey, codes.PermissionDenied, "%s has another cluster key: %s", who, sameKey)
}

func newNonce() []byte {
	nonce := make([]byte, nonceBytes)
	_, _ = rand.Read(nonce) // never fails
	return nonce
}

// callerStream is the caller's side of a stream before and after its handshake.
type callerStream interface {
	Send(*pb.PeerMessage) error
	Recv() (*pb.PeerAnswer, error)
}

// handshakeAsCaller makes the handshake as the caller, with one boot of one member.
func (r *Router) handshakeAsCaller(s callerStream, to Member) error {
	keys := r.keys()
	hello := &pb.PeerHello{Member: r.name, Boot: r.boot, Owner: to.Name, Nonce: newNonce()}
	if err := s.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Hello{Hello: hello}}); err != nil {
		return err
	}
	answer, err := s.Recv()
	if err != nil {
		return err
	}
	welcome := answer.GetWelcome()
	switch {
	case welcome == nil || len(welcome.GetNonce()) != nonceBytes:
		return reject(handshakeMalformed, codes.FailedPrecondition, "%s did not answer with a welcome: run the same version everywhere", to.Name)
	case welcome.GetMember() != to.Name:
		return reject(handshakeWrongMember, codes.FailedPrecondition, "%s answers at %s, want %s: check that each member advertises its own address",
			text.Quote(welcome.GetMember()), to.GRPC, to.Name)
	case welcome.GetBoot() != to.Boot:
		return reject(handshakeWrongMember, codes.FailedPrecondition, "%s at %s has restarted, and gossip has not reported it yet", to.Name, to.GRPC)
	}
	if wrong := verify(keys, sideOwner, hello, welcome, welcome.GetMac()); wrong != nil {
		return wrong
	}
	return s.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Proof{Proof: &pb.PeerProof{Mac: sign(keys, sideCaller, hello, welcome)}}})
}

// ownerStream is the owner's side of a stream before and after its handshake.
type ownerStream interface {
	Send(*pb.PeerAnswer) error
	Recv() (*pb.PeerMessage, error)
}

// handshakeAsOwner makes the handshake as the owner.
func (r *Router) handshakeAsOwner(s ownerStream) error {
	keys := r.keys()
	message, err := s.Recv()
	if err != nil {
		return err
	}
	hello := message.GetHello()
	switch {
	case hello == nil || len(hello.GetNonce()) != nonceBytes || len(hello.GetMember()) > maxName:
		return reject(handshakeMalformed, codes.FailedPrecondition, "a stream between members begins with a hello: clients use RateLimiter.Exchange")
	case hello.GetOwner() != r.name:
		return reject(handshakeWrongMember, codes.FailedPrecondition, "this is %s, not %s: check that each member advertises its own address",
			r.name, text.Quote(hello.GetOwner()))
	}
	welcome := &pb.PeerWelcome{Member: r.name, Boot: r.boot, Nonce: newNonce()}
	welcome.Mac = sign(keys, sideOwner, hello, welcome)
	if err := s.Send(&pb.PeerAnswer{Answer: &pb.PeerAnswer_Welcome{Welcome: welcome}}); err != nil {
		return err
	}
	if message, err = s.Recv(); err != nil {
		return err
	}
	proof := message.GetProof()
	if proof == nil {
		return reject(handshakeMalformed, codes.FailedPrecondition, "a hello is followed by a proof")
	}
	if wrong := verify(keys, sideCaller, hello, welcome, proof.GetMac()); wrong != nil {
		return wrong
	}
	return nil
}
