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
	return p.apiKeys.find(sha256.Sum256([]byte(apiKey)))
}

// APIKeys returns the number of API keys in the policy.
func (p *Policy) APIKeys() int { return len(p.apiKeys) }

type apiKey struct {
	hash sha256Sum
	key  string
	tier string // "": the policy decides
}

// apiKeys maps the hash of an API key's hash to its entry. A look-up by the hash
// itself would leak timing: a map stops comparing at the first byte that differs,
// and callers can choose API keys whose hashes begin as they like. The hash of the
// hash is unpredictable, and the final comparison takes constant time.
type apiKeys map[sha256Sum]apiKey

func newAPIKeys(defs []apiKeyDef) apiKeys {
	m := make(apiKeys, len(defs))
	for _, d := range defs {
		m[sha256.Sum256(d.hash[:])] = apiKey{d.hash, d.key, d.tier.name}
	}
	return m
}

func (m apiKeys) find(hash sha256Sum) (key, tier string, ok bool) {
	k := m[sha256.Sum256(hash[:])] // the zero value if there is none
	if subtle.ConstantTimeCompare(k.hash[:], hash[:]) != 1 || k.key == "" {
		return "", "", false
	}
	return k.key, k.tier, true
}

// diffHashLen is how many bytes of a hash a diff shows: enough to find its line.
const diffHashLen = len(hashPrefix) + 12

func (m apiKeys) facts() []fact {
	facts := make([]fact, 0, len(m))
	for _, k := range m {
		hash := hashPrefix + hex.EncodeToString(k.hash[:])
		value := k.key
		if k.tier != "" {
			value += ", tier " + k.tier
		}
		facts = append(facts, fact{subject: "api_key " + hash[:diffHashLen], value: value, hidden: hash})
	}
	slices.SortFunc(facts, func(a, b fact) int { return cmp.Compare(a.hidden, b.hidden) })
	return facts
}

// apiKeyDef is an entry of api_keys.
type apiKeyDef struct {
	hash sha256Sum
	key  string
	tier reference
}

var apiKeyKeys = []string{"hash", "key", "tier"}

func (p *parser) parseAPIKeys(n yamldoc.Node) {
	for _, item := range p.r.Items(n.Redacted(), apiKeysSection) {
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
				d.key, good = p.limiterKey(f.Value)
			case "tier":
				d.tier.at = f.Value
				d.tier.name, good = p.apiKeyTier(f.Value)
			}
			ok = ok && good
		}
		if item.IsMapping() && !hash.Exists() {
			p.r.Problem(item, "an API key needs a hash: make one with: bucketring policy hash-key")
			ok = false
		}
		if item.IsMapping() && !key.Exists() {
			p.r.Problem(item, "an API key needs a key, such as acme/alice")
			ok = false
		}
		if ok && sha256.Sum256([]byte(d.key)) == d.hash {
			p.r.Problem(key, "key must be who is charged, such as acme/alice, but it is the API key itself")
			ok = false
		}
		if !ok {
			continue
		}
		name := "the API key with hash " + hex.EncodeToString(d.hash[:])
		if first, dup := p.first[name]; dup {
			p.r.Problem(hash, "this hash is listed twice, first at %s", first.At())
			continue
		}
		if !p.room(item, "API keys", len(p.apiKeys), p.most.apiKeys) {
			break
		}
		p.first[name] = hash
		p.apiKeys = append(p.apiKeys, d)
	}
}

// apiKeyHash repeats nothing of its input in messages: it may be an API key.
func (p *parser) apiKeyHash(n yamldoc.Node) (hash sha256Sum, ok bool) {
	text, ok := p.r.Text(n, "hash")
	if !ok {
		return hash, false
	}
	digits, prefixed := strings.CutPrefix(text, hashPrefix)
	decoded, err := hex.DecodeString(digits)
	if !prefixed || err != nil || len(decoded) != len(hash) {
		p.r.Problem(n, "hash must be %s and %d hex digits: make one with: bucketring policy hash-key", hashPrefix, hex.EncodedLen(len(hash)))
		return hash, false
	}
	return sha256Sum(decoded), true
}

func (p *parser) limiterKey(n yamldoc.Node) (string, bool) {
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

// apiKeyTier reads the name of a tier. Its message does not repeat the name, which
// may be an API key.
func (p *parser) apiKeyTier(n yamldoc.Node) (string, bool) {
	text, ok := p.r.Text(n, "tier")
	if ok && !nameSyntax.MatchString(text) {
		p.r.Problem(n, "tier is not defined")
		return "", false
	}
	return text, ok
}
