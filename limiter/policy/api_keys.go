// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// apiKeysSection is the key of the file under which hashes of API keys stand.
const apiKeysSection = "api_keys"

// hashPrefix names the only way in which API keys are hashed.
const hashPrefix = "sha256:"

// sum is a SHA-256.
type sum = [sha256.Size]byte

// HashAPIKey returns what stands in a policy file for an API key. There is no
// salt and no work factor: a key is random and long, not a password.
func HashAPIKey(apiKey string) string {
	hash := sha256.Sum256([]byte(apiKey))
	return hashPrefix + hex.EncodeToString(hash[:])
}

// APIKeyOwner returns the key, and the tier if the entry names one, of whoever
// presents an API key. The time it takes says nothing about the hashes of others.
func (p *Policy) APIKeyOwner(apiKey string) (key, tier string, ok bool) {
	return p.apiKeys.find(sha256.Sum256([]byte(apiKey)))
}

// APIKeys returns how many API keys the policy knows.
func (p *Policy) APIKeys() int { return len(p.apiKeys) }

type apiKey struct {
	hash sum
	key  string
	tier string // "": the policy decides
}

// apiKeys are found by the hash of the hash. A caller knows the hash of what he
// presents, and could choose it for its first bytes; so a map by hash, which
// stops comparing at the first byte that differs, might tell in small steps how
// the hashes in it begin. With the hash of the hash he learns nothing that leads
// back to one, and the comparison that decides takes the same time for all.
type apiKeys map[sum]apiKey

func newAPIKeys(defs []apiKeyDef) apiKeys {
	m := make(apiKeys, len(defs))
	for _, d := range defs {
		m[sha256.Sum256(d.hash[:])] = apiKey{d.hash, d.key, d.tier.name}
	}
	return m
}

func (m apiKeys) find(hash sum) (key, tier string, ok bool) {
	k := m[sha256.Sum256(hash[:])] // of nobody, if there is none: its hash is 0
	if subtle.ConstantTimeCompare(k.hash[:], hash[:]) != 1 || k.key == "" {
		return "", "", false
	}
	return k.key, k.tier, true
}

// shownHash is how much of a hash a diff shows: enough to find its line.
const shownHash = len(hashPrefix) + 12

func (m apiKeys) facts() []fact {
	facts := make([]fact, 0, len(m))
	for _, k := range m {
		hash := hashPrefix + hex.EncodeToString(k.hash[:])
		value := k.key
		if k.tier != "" {
			value += ", tier " + k.tier
		}
		facts = append(facts, fact{subject: "api_key " + hash[:shownHash], value: value, hidden: hash})
	}
	slices.SortFunc(facts, func(a, b fact) int { return cmp.Compare(a.hidden, b.hidden) })
	return facts
}

// apiKeyDef is an entry of api_keys.
type apiKeyDef struct {
	hash sum
	key  string
	tier reference
}

var apiKeyKeys = []string{"hash", "key", "tier"}

func (p *parser) parseAPIKeys(n yamldoc.Node) {
	for _, item := range p.r.Items(n.Secret(), apiKeysSection) {
		var d apiKeyDef
		var hash, key yamldoc.Node
		ok := item.IsMapping()
		for _, f := range p.r.Fields(item, "an API key", apiKeyKeys) {
			good := true
			switch f.Name {
			case "hash":
				hash = f.Value
				d.hash, good = p.apiKeyHash(f.Value)
			case "key":
				key = f.Value
				d.key, good = p.apiKeyOwner(f.Value)
			case "tier":
				d.tier.at = f.Value
				d.tier.name, good = p.apiKeyTier(f.Value)
			}
			ok = ok && good
		}
		if item.IsMapping() && !hash.Exists() {
			p.r.Problem(item, "an API key needs a hash: make one with bucketring policy hash-key")
			ok = false
		}
		if item.IsMapping() && !key.Exists() {
			p.r.Problem(item, "an API key needs a key, such as acme/alice")
			ok = false
		}
		if ok && sha256.Sum256([]byte(d.key)) == d.hash {
			p.r.Problem(key, "key is the API key itself: it must be who is charged, such as acme/alice")
			ok = false
		}
		if !ok {
			continue
		}
		name := "the API key with hash " + hex.EncodeToString(d.hash[:])
		if first, dup := p.first[name]; dup {
			p.r.Problem(hash, "this hash stands here twice, first at %s", first.At())
			continue
		}
		p.first[name] = hash
		p.apiKeys = append(p.apiKeys, d)
	}
}

// apiKeyHash never repeats what it read, which may be the API key itself.
func (p *parser) apiKeyHash(n yamldoc.Node) (hash sum, ok bool) {
	text, ok := p.r.Text(n, "hash")
	if !ok {
		return hash, false
	}
	digits, prefixed := strings.CutPrefix(text, hashPrefix)
	decoded, err := hex.DecodeString(digits)
	if !prefixed || err != nil || len(decoded) != len(hash) {
		p.r.Problem(n, "hash must be %s and %d hex digits: make one with bucketring policy hash-key", hashPrefix, hex.EncodedLen(len(hash)))
		return hash, false
	}
	return sum(decoded), true
}

func (p *parser) apiKeyOwner(n yamldoc.Node) (string, bool) {
	text, ok := p.r.Text(n, "key")
	if !ok {
		return "", false
	}
	if err := limiter.ValidateKey(text); err != nil {
		p.r.Problem(n, "key %s", err)
		return "", false
	}
	return text, true
}

// apiKeyTier also finds tiers that are not defined, with another message than
// where nothing is secret.
func (p *parser) apiKeyTier(n yamldoc.Node) (string, bool) {
	text, ok := p.r.Text(n, "tier")
	if ok && !nameSyntax.MatchString(text) {
		p.r.Problem(n, "tier is not defined")
		return "", false
	}
	return text, ok
}
