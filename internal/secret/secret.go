// SPDX-License-Identifier: Apache-2.0

// Package secret keeps hashes of random secrets, such as tokens, instead of the secrets:
// whoever reads a file with hashes can use none of them.
package secret

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"strings"
)

// Prefix begins the text of a hash. It names the only hash function that is supported.
const Prefix = "sha256:"

// Digits is how many hexadecimal digits follow [Prefix].
const Digits = 2 * sha256.Size

// Hash is the SHA-256 of a secret. A secret must be random, of 128 bits at least: one that
// a person made up can be guessed from its hash.
type Hash [sha256.Size]byte

// Of returns the hash of a secret.
func Of(secret string) Hash {
	var short [64]byte // a conversion of more than 32 bytes allocates
	if len(secret) <= len(short) {
		return sha256.Sum256(short[:copy(short[:], secret)])
	}
	return sha256.Sum256([]byte(secret))
}

// String returns the text of a hash.
func (h Hash) String() string { return Prefix + hex.EncodeToString(h[:]) }

// Parse reads the text of a hash.
func Parse(text string) (h Hash, ok bool) {
	digits, prefixed := strings.CutPrefix(text, Prefix)
	decoded, err := hex.DecodeString(digits)
	if !prefixed || err != nil || len(decoded) != len(h) {
		return Hash{}, false
	}
	return Hash(decoded), true
}

// Map finds what belongs to a secret by its hash. How long that takes reveals nothing about
// the hashes that it has. A look-up by the hash itself would: a map stops comparing at the
// first byte that differs, and callers can choose secrets whose hashes begin as they like.
// So the key is the hash of the hash, which is unpredictable, and the final comparison takes
// constant time. The zero Map is empty.
type Map[T any] struct{ entries map[Hash]entry[T] }

type entry[T any] struct {
	hash  Hash
	value T
}

// Add adds a hash that is not in m yet. It returns false, and what the hash belongs to, if
// it is.
func (m *Map[T]) Add(h Hash, value T) (has T, added bool) {
	if m.entries == nil {
		m.entries = map[Hash]entry[T]{}
	}
	index := Hash(sha256.Sum256(h[:]))
	if e, known := m.entries[index]; known {
		return e.value, false
	}
	m.entries[index] = entry[T]{h, value}
	return has, true
}

// Find returns what a hash belongs to.
func (m *Map[T]) Find(h Hash) (value T, ok bool) {
	e, known := m.entries[sha256.Sum256(h[:])]
	if subtle.ConstantTimeCompare(e.hash[:], h[:]) != 1 || !known {
		return value, false
	}
	return e.value, true
}

// Len returns how many hashes m has.
func (m *Map[T]) Len() int { return len(m.entries) }
