// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"net/http"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// maxInteger is the largest one of Structured Fields (RFC 9651).
const maxInteger = 999_999_999_999_999

// ietf sets RateLimit-Policy and RateLimit, with an item for each enforced limit in
// the order of the decision. A policy is named as its limit, and name@scope where
// several levels have one of that name. The unit is that of the dimension; tokens,
// spend (in millionths of a dollar) and the operator's own are not registered.
func ietf(h http.Header, limits []client.LimitState, now time.Time) {
	var policy, state []byte
	for i := range limits {
		l := &limits[i]
		if l.Shadow {
			continue
		}
		if len(policy) > 0 {
			policy = append(policy, ", "...)
			state = append(state, ", "...)
		}
		name := policyName(limits, l)
		policy = integer(append(quoted(policy, name), ";q="...), l.Limit)
		if l.Window > 0 {
			policy = integer(append(policy, ";w="...), int64(roundUp(l.Window, time.Second)/time.Second))
		}
		switch l.Dimension {
		case requests: // the default
		case concurrent:
			policy = append(policy, `;qu="concurrent-requests"`...)
		default:
			policy = quoted(append(policy, ";qu="...), l.Dimension)
		}
		state = integer(append(quoted(state, name), ";r="...), l.Remaining)
		if !l.ResetAt.IsZero() {
			state = integer(append(state, ";t="...), int64(roundUp(max(0, l.ResetAt.Sub(now)), time.Second)/time.Second))
		}
	}
	if len(policy) > 0 {
		set(h, "Ratelimit-Policy", string(policy))
		set(h, "Ratelimit", string(state))
	}
}

func policyName(limits []client.LimitState, l *client.LimitState) string {
	for i := range limits {
		if other := &limits[i]; other.Name == l.Name && other.Scope != l.Scope {
			return l.Name + "@" + l.Scope
		}
	}
	return l.Name
}

// quoted appends a String of Structured Fields, which is printable ASCII.
func quoted(b []byte, s string) []byte {
	b = append(b, '"')
	for _, c := range []byte(printable(s)) {
		if c == '"' || c == '\\' {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return append(b, '"')
}

func integer(b []byte, n int64) []byte { return strconv.AppendInt(b, min(max(n, 0), maxInteger), 10) }
