// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// Dialect is a family of wire formats.
type Dialect = llm.Dialect

// HeaderWaited is how many milliseconds a call waited in line, rounded up.
const HeaderWaited = "X-Bucketring-Waited-Ms"

// anthropicHeaders are the headers of Anthropic. Each set is about the tightest
// limit of its dimensions.
var anthropicHeaders = [...]struct {
	limit, remaining, reset string
	dimensions              []string
}{
	{"Anthropic-Ratelimit-Requests-Limit", "Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset", []string{explain.Requests}},
	{"Anthropic-Ratelimit-Tokens-Limit", "Anthropic-Ratelimit-Tokens-Remaining", "Anthropic-Ratelimit-Tokens-Reset", []string{explain.Tokens, explain.InputTokens, explain.OutputTokens}},
	{"Anthropic-Ratelimit-Input-Tokens-Limit", "Anthropic-Ratelimit-Input-Tokens-Remaining", "Anthropic-Ratelimit-Input-Tokens-Reset", []string{explain.InputTokens}},
	{"Anthropic-Ratelimit-Output-Tokens-Limit", "Anthropic-Ratelimit-Output-Tokens-Remaining", "Anthropic-Ratelimit-Output-Tokens-Reset", []string{explain.OutputTokens}},
}

// SetHeaders sets the rate-limit headers of a decision, allowed or denied: those of
// the dialect, X-RateLimit-Limit, -Remaining and -Reset of the binding limit,
// RateLimit and RateLimit-Policy of all limits, and X-Bucketring-Waited-Ms if the call waited
// in line. It first calls [RemoveHeaders]: a
// handler may have copied headers from another server, whose limits are not the
// caller's.
func SetHeaders(h http.Header, d Dialect, dec *client.Decision, now time.Time) {
	x := decisionOf(dec)
	setHeaders(h, d, &x, now)
}

func setHeaders(h http.Header, d Dialect, x *explain.Decision, now time.Time) {
	RemoveHeaders(h)
	if d == llm.Anthropic {
		setAnthropicHeaders(h, x.Limits)
	} else {
		explain.SetOpenAIHeaders(h, x.Limits, now)
	}
	explain.SetHeaders(h, x, now)
	setIETFHeaders(h, x.Limits, now)
	if x.Waited > 0 {
		explain.SetNumber(h, HeaderWaited, int64(explain.Ceil(x.Waited, time.Millisecond)/time.Millisecond))
	}
}

// RemoveHeaders removes rate-limit headers, and announcements of rate-limit trailers.
func RemoveHeaders(h http.Header) {
	for name := range h {
		if isRateLimit(name) {
			delete(h, name)
		}
	}
	if announced := h["Trailer"]; len(announced) > 0 {
		names := strings.Split(strings.Join(announced, ","), ",")
		names = slices.DeleteFunc(names, func(name string) bool {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			return name == "" || isRateLimit(name)
		})
		if len(names) == 0 {
			delete(h, "Trailer")
		} else {
			explain.Set(h, "Trailer", strings.Join(names, ","))
		}
	}
}

// RemoveTrailers removes rate-limit trailers that were set with [http.TrailerPrefix].
// RemoveHeaders must have been called before the headers were sent.
func RemoveTrailers(h http.Header) {
	for name := range h {
		if trailer, ok := strings.CutPrefix(name, http.TrailerPrefix); ok && isRateLimit(http.CanonicalHeaderKey(trailer)) {
			delete(h, name)
		}
	}
}

func setAnthropicHeaders(h http.Header, limits []explain.Limit) {
	for _, names := range anthropicHeaders {
		l := explain.Tightest(limits, names.dimensions...)
		if l == nil {
			continue
		}
		remaining := l.Remaining
		if l.Dimension != explain.Requests {
			remaining = roundTokens(remaining)
		}
		explain.SetNumber(h, names.limit, l.Limit)
		explain.SetNumber(h, names.remaining, remaining)
		if !l.ResetAt.IsZero() {
			explain.Set(h, names.reset, explain.CeilSecond(l.ResetAt).UTC().Format(time.RFC3339))
		}
	}
}

// isRateLimit reports whether a header, in Go's canonical form, is about limits.
func isRateLimit(name string) bool {
	for _, prefix := range [...]string{"X-Ratelimit-", "Anthropic-Ratelimit-", "Ratelimit-", "X-Bucketring-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == "Ratelimit"
}

// SetDegradedHeaders sets the headers that explain why an answer ends early: the
// output tokens per choice that were asked for (negative: the call set no bound)
// and granted, and the limit that reduced them.
func SetDegradedHeaders(h http.Header, asked, granted int64, binding client.LimitState) {
	if asked >= 0 {
		explain.SetNumber(h, "X-Bucketring-Asked-Max-Tokens", asked)
	}
	explain.SetNumber(h, "X-Bucketring-Granted-Max-Tokens", granted)
	if binding.Name != "" {
		explain.Set(h, "X-Bucketring-Binding-Limit", printable(binding.Name))
	}
}

// roundTokens rounds remaining tokens to thousands, as Anthropic does, but only down and
// never to 0: a caller that is told of more than there is gets a denial, and one that is
// told of nothing sends nothing.
func roundTokens(n int64) int64 {
	if n < 1000 {
		return n
	}
	return n / 1000 * 1000
}

// printable replaces all bytes that are not printable ASCII.
func printable(s string) string {
	clean := []byte(s)
	for i, c := range clean {
		if c < ' ' || c > '~' {
			clean[i] = '?'
		}
	}
	return string(clean)
}
