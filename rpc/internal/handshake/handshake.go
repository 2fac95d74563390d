// SPDX-License-Identifier: Apache-2.0

// Package handshake begins the streams between members. Each side says who it is
// and which versions of the protocol it understands, and proves that it has the
// cluster key.
//
// Each side signs all that both have sent, so that a signature cannot be replayed in
// another handshake, and the name of its side, so that it cannot be reflected.
package handshake

import (
	"context"

	"google.golang.org/grpc/codes"

	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	nonceBytes = 32
	maxName    = 255
)

// Self is the member on this side. It is safe for concurrent use.
type Self struct {
	Name string
	Boot uint64
	// Keys returns the cluster keys. The first one signs, and all are accepted.
	Keys func() [][]byte
	// Certify returns an error if the connection of a stream, by its context, has no
	// certificate for a member. Nil: members need none.
	Certify func(ctx context.Context, member string) error
	// Versions that this member understands; usually [Current].
	Versions Versions
}

// Member is the member that a caller wants to talk to.
type Member struct {
	Name    string
	Boot    uint64
	Address string // for messages
}

// CallerStream is the caller's side of a stream.
type CallerStream interface {
	Send(*pb.PeerMessage) error
	Recv() (*pb.PeerAnswer, error)
}

// OwnerStream is the side of the member that is called.
type OwnerStream interface {
	Context() context.Context
	Send(*pb.PeerAnswer) error
	Recv() (*pb.PeerMessage, error)
}

// AsCaller makes the handshake with one boot of one member, and returns the version
// of the protocol that both understand. The error is a [*Rejection], or of the stream.
// The other side may still reject the proof: then the next Recv returns its reason.
func (s Self) AsCaller(stream CallerStream, to Member) (version uint32, err error) {
	keys := s.Keys()
	hello := &pb.PeerHello{
		Member: s.Name, Boot: s.Boot, Owner: to.Name, Nonce: newNonce(),
		Protocol: s.Versions.Protocol, MinimumProtocol: s.Versions.Minimum,
	}
	if err := stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Hello{Hello: hello}}); err != nil {
		return 0, err
	}
	answer, err := stream.Recv()
	if err != nil {
		return 0, err
	}
	welcome := answer.GetWelcome()
	switch {
	case welcome == nil || len(welcome.GetNonce()) != nonceBytes:
		return 0, reject(Malformed, codes.FailedPrecondition, "%s did not answer with a welcome: run the same version everywhere", to.Name)
	case welcome.GetMember() != to.Name:
		return 0, reject(WrongMember, codes.FailedPrecondition, "%s answers at %s, want %s: check that each member advertises its own address",
			text.Quote(welcome.GetMember()), to.Address, to.Name)
	case welcome.GetBoot() != to.Boot:
		return 0, reject(WrongMember, codes.FailedPrecondition, "%s at %s has restarted, and gossip has not reported it yet", to.Name, to.Address)
	}
	version, err = checkVersions(s.Versions, to.Name, Versions{welcome.GetProtocol(), welcome.GetMinimumProtocol()})
	if err != nil {
		return 0, err
	}
	if wrong := verify(keys, Owner, hello, welcome, welcome.GetMac()); wrong != nil {
		return 0, wrong
	}
	return version, stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Proof{Proof: &pb.PeerProof{Mac: sign(keys, Caller, hello, welcome)}}})
}

// Peer is the other side after a handshake.
type Peer struct {
	Name    string
	Boot    uint64
	Version uint32 // of the protocol that both understand
}

// AsOwner makes the handshake as the member that is called, and returns who calls.
// The error is a [*Rejection], or of the stream.
func (s Self) AsOwner(stream OwnerStream) (Peer, error) {
	keys := s.Keys()
	message, err := stream.Recv()
	if err != nil {
		return Peer{}, err
	}
	hello := message.GetHello()
	switch {
	case hello == nil || len(hello.GetNonce()) != nonceBytes || len(hello.GetMember()) > maxName:
		return Peer{}, reject(Malformed, codes.FailedPrecondition, "a stream between members begins with a hello: clients use RateLimiter.Exchange")
	case hello.GetOwner() != s.Name:
		return Peer{}, reject(WrongMember, codes.FailedPrecondition, "this is %s, not %s: check that each member advertises its own address",
			s.Name, text.Quote(hello.GetOwner()))
	}
	if s.Certify != nil {
		if err := s.Certify(stream.Context(), hello.GetMember()); err != nil {
			return Peer{}, reject(WrongCertificate, codes.PermissionDenied, "%s: %s", text.Quote(hello.GetMember()), err.Error())
		}
	}
	version, tooFar := checkVersions(s.Versions, text.Quote(hello.GetMember()), Versions{hello.GetProtocol(), hello.GetMinimumProtocol()})
	welcome := &pb.PeerWelcome{
		Member: s.Name, Boot: s.Boot, Nonce: newNonce(), Protocol: s.Versions.Protocol, MinimumProtocol: s.Versions.Minimum,
	}
	welcome.Mac = sign(keys, Owner, hello, welcome)
	// The caller reads the versions from the welcome even if they rule each other out.
	if err := stream.Send(&pb.PeerAnswer{Answer: &pb.PeerAnswer_Welcome{Welcome: welcome}}); err != nil {
		return Peer{}, err
	}
	if tooFar != nil {
		return Peer{}, tooFar
	}
	if message, err = stream.Recv(); err != nil {
		return Peer{}, err
	}
	proof := message.GetProof()
	if proof == nil {
		return Peer{}, reject(Malformed, codes.FailedPrecondition, "a hello is followed by a proof")
	}
	if wrong := verify(keys, Caller, hello, welcome, proof.GetMac()); wrong != nil {
		return Peer{}, wrong
	}
	return Peer{Name: hello.GetMember(), Boot: hello.GetBoot(), Version: version}, nil
}
