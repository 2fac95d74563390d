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

// counterKey returns the key of a descriptor's counter:
//
//	envoy:DOMAIN:KEY.KEY:HASH
//
// It has one segment, because the first segment decides the owner: otherwise one
// member would own all counters of a domain. HASH is 128 bits of SHA-256 over the
// domain and all entries. It is cryptographic, so that a caller cannot construct a
// collision to use up the limit of another. DOMAIN and KEY are for people who read
// keys; values, which may be private, are left out.
//
// The limit and the position in the rules are not part of the key: a changed rule or a
// limit override continues to count in the same window. The limiter identifies a
// counter by its key and window.
func counterKey(domain string, entries []*common.RateLimitDescriptor_Entry, shared []string) string {
	b := make([]byte, 0, 256)
	b = appendText(b, domain)
	var keys strings.Builder
	for i, e := range entries {
		value, by := e.GetValue(), byte(0)
		if i < len(shared) && shared[i] != "" {
			value, by = shared[i], 1 // a wildcard differs from the same text as a value
		}
		b = appendText(append(appendText(b, e.GetKey()), by), value)
		if i > 0 {
			keys.WriteByte('.')
		}
		keys.WriteString(e.GetKey())
	}
	sum := sha256.Sum256(b)
	return "envoy:" + printable(domain) + ":" + printable(keys.String()) + ":" + hex.EncodeToString(sum[:16])
}

// appendText appends a text with its length, so that texts do not run together.
func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// maxPrintable bounds DOMAIN and the KEYs in a counter's key, in bytes.
const maxPrintable = 64

// printable shortens s and replaces characters that a segment of a key must not have.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if r == '/' || r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			r = '_'
		}
		if b.Len()+len(string(r)) > maxPrintable {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
