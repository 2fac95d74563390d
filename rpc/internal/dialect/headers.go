// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/llm"
	"github.com/bucketring/bucketring/rpc/internal/message"
)

// Dialect is a family of wire formats.
type Dialect = llm.Dialect

// The dimensions that the dialects have words for.
const (
	requests     = "requests"
	tokens       = "tokens"
	inputTokens  = "input_tokens"
	outputTokens = "output_tokens"
	spend        = "spend"
	concurrent   = "concurrent"
)

// families are the groups of headers of a dialect, each with the dimensions of
// which it tells the tightest limit.
var families = [...][]struct {
	limit, remaining, reset string
	dimensions              []string
}{
	llm.OpenAI: {
		{"X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests", []string{requests}},
		{"X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens", []string{tokens}},
	},
	llm.Anthropic: {
		{"Anthropic-Ratelimit-Requests-Limit", "Anthropic-Ratelimit-Requests-Remaining", "Anthropic-Ratelimit-Requests-Reset", []string{requests}},
		{"Anthropic-Ratelimit-Tokens-Limit", "Anthropic-Ratelimit-Tokens-Remaining", "Anthropic-Ratelimit-Tokens-Reset", []string{tokens, inputTokens, outputTokens}},
		{"Anthropic-Ratelimit-Input-Tokens-Limit", "Anthropic-Ratelimit-Input-Tokens-Remaining", "Anthropic-Ratelimit-Input-Tokens-Reset", []string{inputTokens}},
		{"Anthropic-Ratelimit-Output-Tokens-Limit", "Anthropic-Ratelimit-Output-Tokens-Remaining", "Anthropic-Ratelimit-Output-Tokens-Reset", []string{outputTokens}},
	},
}

// Headers sets the rate-limit headers of a decision, allowed or not: the dialect's
// own, X-RateLimit-Limit, -Remaining and -Reset of the binding limit, and RateLimit
// and RateLimit-Policy of all. Resets are times from now. Whatever a handler has said
// of limits is taken out: those of a server behind us are not the caller's.
func Headers(h http.Header, d Dialect, dec *client.Decision, now time.Time) {
	for name := range h {
		if isLimit(name) {
			delete(h, name)
		}
	}
	for _, f := range families[d] {
		l := tightest(dec.Limits, f.dimensions)
		if l == nil {
			continue
		}
		set(h, f.limit, strconv.FormatInt(l.Limit, 10))
		if d == llm.OpenAI {
			set(h, f.remaining, strconv.FormatInt(l.Remaining, 10))
			set(h, f.reset, untilReset(l, now).String())
			continue
		}
		remaining := l.Remaining
		if l.Dimension != requests {
			remaining = nearestThousand(remaining)
		}
		set(h, f.remaining, strconv.FormatInt(remaining, 10))
		if !l.ResetAt.IsZero() {
			set(h, f.reset, resetSecond(l.ResetAt).UTC().Format(time.RFC3339))
		}
	}
	if l := &dec.Binding; l.Dimension != "" {
		reset := now.Add(dec.RetryAfter) // a slot has no other time
		if !l.ResetAt.IsZero() {
			reset = l.ResetAt
		}
		set(h, "X-Ratelimit-Limit", strconv.FormatInt(l.Limit, 10))
		set(h, "X-Ratelimit-Remaining", strconv.FormatInt(l.Remaining, 10))
		set(h, "X-Ratelimit-Reset", strconv.FormatInt(resetSecond(reset).Unix(), 10))
	}
	ietf(h, dec.Limits, now)
}

// isLimit reports whether a header, in Go's canonical form, tells of limits.
func isLimit(name string) bool {
	for _, prefix := range [...]string{"X-Ratelimit-", "Anthropic-Ratelimit-", "Ratelimit-", "X-Bucketring-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == "Ratelimit"
}

// Degraded sets the headers that explain why an answer ends early: the output that
// was asked for, in tokens per choice (-1: none was named), what was granted, and
// the limit that was in the way.
func Degraded(h http.Header, asked, granted int64, binding client.LimitState) {
	if asked >= 0 {
		set(h, "X-Bucketring-Asked-Max-Tokens", strconv.FormatInt(asked, 10))
	}
	set(h, "X-Bucketring-Granted-Max-Tokens", strconv.FormatInt(granted, 10))
	if binding.Name != "" {
		set(h, "X-Bucketring-Binding-Limit", printable(binding.Name))
	}
}

// set takes a name in Go's canonical form.
func set(h http.Header, name, value string) { h[name] = []string{value} }

// tightest returns the enforced limit of these dimensions that has the smallest
// share left, or nil.
func tightest(limits []client.LimitState, dimensions []string) *client.LimitState {
	var found *client.LimitState
	for i := range limits {
		l := &limits[i]
		if slices.Contains(dimensions, l.Dimension) && !l.Shadow && (found == nil || tighter(l, found)) {
			found = l
		}
	}
	return found
}

func tighter(a, b *client.LimitState) bool {
	return message.Tighter(message.Share{Remaining: a.Remaining, Capacity: a.Capacity}, message.Share{Remaining: b.Remaining, Capacity: b.Capacity})
}

// nearestThousand is how Anthropic tells of tokens.
func nearestThousand(n int64) int64 { return (n + 500) / 1000 * 1000 }

// resetSecond is t rounded up to the second.
func resetSecond(t time.Time) time.Time { return t.Add(time.Second - 1).Truncate(time.Second) }

// untilReset is the time from now until l is as new, rounded up to the millisecond.
func untilReset(l *client.LimitState, now time.Time) time.Duration {
	if l.ResetAt.IsZero() {
		return 0
	}
	return roundUp(max(0, l.ResetAt.Sub(now)), time.Millisecond)
}

// roundUp is the next multiple of unit.
func roundUp(d, unit time.Duration) time.Duration {
	if rest := d % unit; rest > 0 {
		return d - rest + unit
	}
	return d
}

// printable replaces what must not be in a header.
func printable(s string) string {
	clean := []byte(s)
	for i, c := range clean {
		if c < ' ' || c > '~' {
			clean[i] = '?'
		}
	}
	return string(clean)
}
