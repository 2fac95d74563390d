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
	if !prefixed || len(digits) != Digits {
		return Hash{}, false
	}
	if _, err := hex.Decode(h[:], []byte(digits)); err != nil {
		return Hash{}, false
	}
	return h, true
}

// Index returns the hash of h, by which h is looked up. How long a look-up takes then reveals
// nothing about the hashes that there are. A look-up by h itself would: it stops comparing at
// the first byte that differs, and callers can choose secrets whose hashes begin as they like.
// What was found must be compared by [Hash.Equal].
func (h Hash) Index() Hash { return sha256.Sum256(h[:]) }

// Equal compares in constant time.
func (h Hash) Equal(other Hash) bool { return subtle.ConstantTimeCompare(h[:], other[:]) == 1 }

// Map finds what belongs to a secret by its hash. How long that takes reveals nothing about
// the hashes that it has, see [Hash.Index]. The zero Map is empty.
type Map[T any] struct{ entries map[Hash]entry[T] } // by Index

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
	index := h.Index()
	if e, known := m.entries[index]; known {
		return e.value, false
	}
	m.entries[index] = entry[T]{h, value}
	return has, true
}

// Find returns what a hash belongs to.
func (m *Map[T]) Find(h Hash) (value T, ok bool) {
	e, known := m.entries[h.Index()]
	if !e.hash.Equal(h) || !known {
		return value, false
	}
	return e.value, true
}

// Len returns how many hashes m has.
func (m *Map[T]) Len() int { return len(m.entries) }
