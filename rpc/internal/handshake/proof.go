// SPDX-License-Identifier: Apache-2.0

package handshake

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

	"google.golang.org/grpc/codes"

	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	keyInfo = "bucketring peer handshake v1" // of the key that is derived
	sameKey = "give all members the same cluster key"
)

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
	number(uint64(hello.GetProtocol()))
	number(uint64(hello.GetMinimumProtocol()))
	field([]byte(welcome.GetMember()))
	number(welcome.GetBoot())
	field(welcome.GetNonce())
	number(uint64(welcome.GetProtocol()))
	number(uint64(welcome.GetMinimumProtocol()))
	return mac.Sum(nil)
}

// verify returns what is wrong with the proof of the other side; nil if nothing is.
func verify(keys [][]byte, side string, hello *pb.PeerHello, welcome *pb.PeerWelcome, shown []byte) *Rejection {
	who := hello.GetMember()
	if side == Owner {
		who = welcome.GetMember()
	}
	switch {
	case len(keys) == 0 && len(shown) == 0:
		return nil
	case len(keys) == 0:
		return reject(NoKey, codes.Unauthenticated, "%s has a cluster key and this member has none: %s", who, sameKey)
	case len(shown) == 0:
		return reject(NoKey, codes.Unauthenticated, "%s has no cluster key: %s", who, sameKey)
	}
	for _, key := range keys {
		if hmac.Equal(signature(key, side, hello, welcome), shown) {
			return nil
		}
	}
	return reject(WrongKey, codes.PermissionDenied, "%s has another cluster key: %s", who, sameKey)
}

func newNonce() []byte {
	nonce := make([]byte, nonceBytes)
	_, _ = rand.Read(nonce) // never fails
	return nonce
}
