// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/bucketring/bucketring/internal/secret"
)

// Prefixes of tokens, so that scanners for leaked secrets can find them.
const (
	tokenPrefix     = "brt_" // of callers
	nodeTokenPrefix = "brn_" // of members
)

// NewToken returns a random token of 256 bits, and its hash for the file.
func NewToken() (token string, hash secret.Hash) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(random[:])
	return token, secret.Of(token)
}

// NodeToken returns the token by which a member calls others as a caller does, such as its
// proxy. Whoever has the cluster key can make it; it has the scope call.
func NodeToken(key []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("bucketring: token of a node for calls"))
	return nodeTokenPrefix + hex.EncodeToString(mac.Sum(nil))
}

// isNodeToken reports whether a member made a token, with one of the keys of the cluster.
func (a *Authority) isNodeToken(token string) bool {
	if !strings.HasPrefix(token, nodeTokenPrefix) || len(token) != len(nodeTokenPrefix)+2*sha256.Size {
		return false
	}
	found := 0
	for _, key := range a.options.NodeKeys() {
		found |= subtle.ConstantTimeCompare([]byte(token), []byte(NodeToken(key)))
	}
	return found == 1
}
