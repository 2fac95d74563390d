// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strings"
	"unicode"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
)

// counterKey names the counter of a descriptor:
//
//	envoy:DOMAIN:KEY.KEY:HASH
//
// It is one segment, because the first segment is what has an owner: all of a
// domain under one segment would be all of a domain at one member. HASH, 128 bits
// of SHA-256 over the domain and all entries, tells counters apart; the words
// before it are for people who look at keys, shortened, and without values, which
// may be private. A hash that callers could compute collisions of would let them
// use up the limits of others.
//
// The limit is not a part of it, nor is the place in the rules: a rule that
// changes, and a limit that comes with a request, find what was used in the same
// window. The window is the counter's own second name.
func counterKey(domain string, entries []*common.RateLimitDescriptor_Entry, shared []string) string {
	b := make([]byte, 0, 256)
	b = appendText(b, domain)
	var keys strings.Builder
	for i, e := range entries {
		value, by := e.GetValue(), byte(0)
		if i < len(shared) && shared[i] != "" {
			value, by = shared[i], 1 // not the same as that text as a value
		}
		b = appendText(append(appendText(b, e.GetKey()), by), value)
		if i > 0 {
			keys.WriteByte('.')
		}
		keys.WriteString(e.GetKey())
	}
	sum := sha256.Sum256(b)
	return "envoy:" + legible(domain) + ":" + legible(keys.String()) + ":" + hex.EncodeToString(sum[:16])
}

// appendText appends text so that it is known where it ends.
func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// maxLegible bounds the words in a counter's name, in bytes.
const maxLegible = 64

// legible makes a word that can stand in a segment of a key.
func legible(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '/' || r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			r = '_'
		}
		if b.Len()+len(string(r)) > maxLegible {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
