// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math"
	"strings"

	"github.com/bucketring/bucketring/internal/secret"
	"github.com/bucketring/bucketring/limiter"
)

// apiKeysSection is the root key of the file that holds hashes of API keys.
const apiKeysSection = "api_keys"

// HashAPIKey returns the hash by which a policy file identifies an API key. It has
// no salt and no work factor, because API keys are random and long.
func HashAPIKey(apiKey string) string { return secret.Of(apiKey).String() }

// APIKeyOwner returns the limiter key that an API key is charged to, and the tier
// if its entry names one. Its running time reveals nothing about other entries.
func (p *Policy) APIKeyOwner(apiKey string) (key, tier string, ok bool) {
	k, ok := p.findAPIKey(secret.Of(apiKey))
	return k.key, p.tierName(k.tier), ok
}

// APIKeys returns the number of API keys in the policy.
func (p *Policy) APIKeys() int { return p.apiKeys.count }

type apiKey struct {
	hash secret.Hash
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

// findAPIKey returns the entry of a hash. The table has it by [secret.Hash.Index].
func (r *rows) findAPIKey(hash secret.Hash) (apiKey, bool) {
	index := hash.Index()
	k, _ := r.apiKeys.get(sumIndex(index), index) // the zero value if there is none
	if !k.hash.Equal(hash) || k.key == "" {
		return apiKey{tier: noTier}, false
	}
	return k, true
}

// diffHashLen is how many bytes of a hash a diff shows: enough to find its line.
const diffHashLen = len(secret.Prefix) + 12

func (k *apiKey) fact(r *rows) fact {
	hash := k.hash.String()
	value := k.key
	if k.tier != noTier {
		value += ", tier " + r.tierName(k.tier)
	}
	return fact{subject: "api_key " + hash[:diffHashLen], value: value, hidden: hash}
}

// apiKeyRow sets an API key, whose places are known.
func (e *rowsEdit) apiKeyRow(k APIKey, hashAt, keyAt, tierAt Place) {
	hash, ok := secret.Parse(k.Hash)
	if !ok {
		e.problem(hashAt, "", "hash must be %s and %d hex digits: make one with: bucketring policy hash-key", secret.Prefix, secret.Digits)
	}
	entry := apiKey{hash: hash, key: k.Key, tier: noTier}
	if err := limiter.ValidateKey(k.Key); err != nil {
		e.problem(keyAt, "", "key %s", err)
		ok = false
	} else if strings.Contains(k.Key, "*") {
		e.problem(keyAt, "", "key must be one key, not a pattern: for many keys, list an API key for each")
		ok = false
	} else if ok && secret.Of(k.Key) == hash {
		e.problem(keyAt, "", "key must be who is charged, such as acme/alice, but it is the API key itself")
		ok = false
	}
	if k.Tier != "" {
		var defined bool
		if entry.tier, defined = e.tier(k.Tier); !defined && e.p.unread {
			return
		}
		if !defined {
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
	sum := hash.Index()
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
	hash, ok := secret.Parse(text)
	if !ok {
		e.problem(at, "", "hash must be %s and %d hex digits", secret.Prefix, secret.Digits)
		return
	}
	sum := hash.Index()
	if k, ok := e.apiKeys.get(sum); ok {
		e.overrides.touch(k.key)
		e.apiKeys.remove(sum)
	}
}
