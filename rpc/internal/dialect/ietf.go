// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"net/http"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/explain"
)

// maxInteger is the largest Integer of Structured Fields (RFC 9651).
const maxInteger = 999_999_999_999_999

// setIETFHeaders sets RateLimit-Policy and RateLimit, with an item for each enforced
// limit that is not hidden, in the order of the decision. A policy has the name of its limit, or
// name@scope if limits of several levels share a name. The unit (qu) is the
// dimension; only requests and concurrent-requests are registered.
func setIETFHeaders(h http.Header, limits []explain.Limit, now time.Time) {
	var policy, state []byte
	for i := range limits {
		l := &limits[i]
		if l.Shadow || l.Hidden {
			continue
		}
		if len(policy) > 0 {
			policy = append(policy, ", "...)
			state = append(state, ", "...)
		}
		name := policyName(limits, l)
		policy = appendInteger(append(appendString(policy, name), ";q="...), l.Limit)
		if l.Window > 0 {
			policy = appendInteger(append(policy, ";w="...), explain.CeilSeconds(l.Window))
		}
		switch l.Dimension {
		case explain.Requests: // the default
		case explain.Concurrent:
			policy = append(policy, `;qu="concurrent-requests"`...)
		default:
			policy = appendString(append(policy, ";qu="...), l.Dimension)
		}
		state = appendInteger(append(appendString(state, name), ";r="...), l.Remaining)
		if !l.ResetAt.IsZero() {
			state = appendInteger(append(state, ";t="...), explain.CeilSeconds(l.UntilReset(now)))
		}
	}
	if len(policy) > 0 {
		explain.Set(h, "Ratelimit-Policy", string(policy))
		explain.Set(h, "Ratelimit", string(state))
	}
}

func policyName(limits []explain.Limit, l *explain.Limit) string {
	for i := range limits {
		if other := &limits[i]; other.Name == l.Name && other.Scope != l.Scope {
			return l.Name + "@" + l.Scope
		}
	}
	return l.Name
}

// appendString appends a String of Structured Fields, which is printable ASCII.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	for _, c := range []byte(printable(s)) {
		if c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return append(b, '"')
}

// appendInteger appends an Integer of Structured Fields.
func appendInteger(b []byte, n int64) []byte {
	return strconv.AppendInt(b, min(max(n, 0), maxInteger), 10)
}
