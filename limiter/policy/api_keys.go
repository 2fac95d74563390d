// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"math"
	"strings"

	"github.com/bucketring/bucketring/limiter"
)

// apiKeysSection is the root key of the file that holds hashes of API keys.
const apiKeysSection = "api_keys"

// hashPrefix names the only hash function that is supported.
const hashPrefix = "sha256:"

type sha256Sum = [sha256.Size]byte

// HashAPIKey returns the hash by which a policy file identifies an API key. It has
// no salt and no work factor, because API keys are random and long.
func HashAPIKey(apiKey string) string {
	hash := sha256.Sum256([]byte(apiKey))
	return hashPrefix + hex.EncodeToString(hash[:])
}

// APIKeyOwner returns the limiter key that an API key is charged to, and the tier
// if its entry names one. Its running time reveals nothing about other entries.
func (p *Policy) APIKeyOwner(apiKey string) (key, tier string, ok bool) {
	k, ok := p.findAPIKey(sha256.Sum256([]byte(apiKey)))
	return k.key, p.tierName(k.tier), ok
}

// APIKeys returns the number of API keys in the policy.
func (p *Policy) APIKeys() int { return p.apiKeys.count }

type apiKey struct {
	hash sha256Sum
	key  string
	tier uint32 // noTier: the policy decides
	at   place
}

// noTier is the tier of an API key that names none.
const noTier = math.MaxUint32

// tierName returns the name of a tier, "" for noTier.
func (r *rows) tierName(id uint32) string {
	if id == noTier {
		return ""
	}
	return r.tiers.list[id]
}

// findAPIKey returns the entry of a hash.
//
// The table maps the hash of an API key's hash to its entry. A look-up by the hash
// itself would leak timing: a map stops comparing at the first byte that differs,
// and callers can choose API keys whose hashes begin as they like. The hash of the
// hash is unpredictable, and the final comparison takes constant time.
func (r *rows) findAPIKey(hash sha256Sum) (apiKey, bool) {
	sum := sha256.Sum256(hash[:])
	k, _ := r.apiKeys.get(sumIndex(sum), sum) // the zero value if there is none
	if subtle.ConstantTimeCompare(k.hash[:], hash[:]) != 1 || k.key == "" {
		return apiKey{tier: noTier}, false
	}
	return k, true
}

// diffHashLen is how many bytes of a hash a diff shows: enough to find its line.
const diffHashLen = len(hashPrefix) + 12

func (k *apiKey) fact(r *rows) fact {
	hash := hashPrefix + hex.EncodeToString(k.hash[:])
	value := k.key
	if k.tier != noTier {
		value += ", tier " + r.tierName(k.tier)
	}
	return fact{subject: "api_key " + hash[:diffHashLen], value: value, hidden: hash}
}

// apiKeyRow sets an API key, whose places are known.
func (e *rowsEdit) apiKeyRow(k APIKey, hashAt, keyAt, tierAt Place) {
	hash, ok := parseHash(k.Hash)
	if !ok {
		e.problem(hashAt, "", "hash must be %s and %d hex digits: make one with: bucketring policy hash-key", hashPrefix, hex.EncodedLen(len(hash)))
	}
	entry := apiKey{hash: hash, key: k.Key, tier: noTier}
	if err := limiter.ValidateKey(k.Key); err != nil {
		e.problem(keyAt, "", "key %s", err)
		ok = false
	} else if ok && sha256.Sum256([]byte(k.Key)) == hash {
		e.problem(keyAt, "", "key must be who is charged, such as acme/alice, but it is the API key itself")
		ok = false
	}
	if k.Tier != "" {
		var defined bool
		if entry.tier, defined = e.tier(k.Tier); !defined {
			near := ""
			if nameSyntax.MatchString(k.Tier) {
				near = e.p.nearestTier(k.Tier)
			}
			e.problem(tierAt, near, "tier is not defined")
			ok = false
		}
	}
	if !ok {
		return
	}
	sum := sha256.Sum256(hash[:])
	first, exists := e.apiKeys.get(sum)
	if exists && (e.apiKeySet == nil || e.apiKeySet[sum]) {
		e.problem(hashAt, "", "this hash is listed twice, first at %s", e.rows.place(first.at))
		return
	}
	if !exists && !e.room(hashAt, "API keys", e.apiKeys.table.count, e.p.most.apiKeys) {
		return
	}
	if exists {
		e.overrides.touch(first.key)
	}
	e.overrides.touch(entry.key)
	entry.at = e.at(hashAt)
	e.apiKeys.set(sum, entry)
	if e.apiKeySet != nil {
		e.apiKeySet[sum] = true
	}
}

func (e *rowsEdit) removeAPIKey(text string, at Place) {
	hash, ok := parseHash(text)
	if !ok {
		e.problem(at, "", "hash must be %s and %d hex digits", hashPrefix, hex.EncodedLen(len(hash)))
		return
	}
	sum := sha256.Sum256(hash[:])
	if k, ok := e.apiKeys.get(sum); ok {
		e.overrides.touch(k.key)
		e.apiKeys.remove(sum)
	}
}

// parseHash reads the hash of an API key.
func parseHash(text string) (hash sha256Sum, ok bool) {
	digits, prefixed := strings.CutPrefix(text, hashPrefix)
	if !prefixed || len(digits) != hex.EncodedLen(len(hash)) {
		return hash, false
	}
	_, err := hex.Decode(hash[:], []byte(digits))
	return hash, err == nil
}
