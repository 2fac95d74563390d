// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/http"
	"strconv"
	"time"
)

// SetHeaders sets X-RateLimit-Limit, -Remaining and -Reset of the limit that
// [Decision.Shown] returns, if there is one. Reset is in Unix seconds, rounded up. A
// concurrency limit has no reset: then it is when the call may be tried again.
func SetHeaders(h http.Header, d *Decision, now time.Time) {
	l := d.Shown()
	if l == nil {
		return
	}
	reset := l.ResetAt
	if reset.IsZero() {
		reset = now.Add(max(d.RetryAfter, 0))
	}
	SetNumber(h, "X-Ratelimit-Limit", l.Limit)
	SetNumber(h, "X-Ratelimit-Remaining", l.Remaining)
	SetNumber(h, "X-Ratelimit-Reset", CeilSecond(reset).Unix())
}

// SetOpenAIHeaders sets the headers of the tightest limits on requests and on
// tokens as OpenAI sends them. Reset is a duration such as 7.2s.
func SetOpenAIHeaders(h http.Header, limits []Limit, now time.Time) {
	for _, names := range [...]struct{ dimension, limit, remaining, reset string }{
		{Requests, "X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests"},
		{Tokens, "X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens"},
	} {
		if l := Tightest(limits, names.dimension); l != nil {
			SetNumber(h, names.limit, l.Limit)
			SetNumber(h, names.remaining, l.Remaining)
			Set(h, names.reset, Ceil(l.UntilReset(now), time.Millisecond).String())
		}
	}
}

// SetRetryAfter sets Retry-After to d in seconds, rounded up to at least 1.
func SetRetryAfter(h http.Header, d time.Duration) {
	SetNumber(h, "Retry-After", max(CeilSeconds(d), 1))
}

// SetAdvice sets X-Should-Retry and, if waiting helps, Retry-After.
func SetAdvice(h http.Header, a Advice) {
	Set(h, "X-Should-Retry", strconv.FormatBool(a.Retry))
	if a.After >= 0 {
		SetRetryAfter(h, a.After)
	}
}

// Set sets a header whose name is in Go's canonical form.
func Set(h http.Header, name, value string) { h[name] = []string{value} }

// SetNumber is [Set] for a number.
func SetNumber(h http.Header, name string, n int64) { Set(h, name, strconv.FormatInt(n, 10)) }

// UntilReset is the time from now until nothing of l is in use, 0 if it has no
// reset.
func (l *Limit) UntilReset(now time.Time) time.Duration {
	if l.ResetAt.IsZero() {
		return 0
	}
	return max(l.ResetAt.Sub(now), 0)
}

// Ceil rounds d up to a multiple of unit.
func Ceil(d, unit time.Duration) time.Duration {
	if rest := d % unit; rest > 0 {
		return d - rest + unit
	}
	return d
}

// CeilSeconds is d in whole seconds, rounded up.
func CeilSeconds(d time.Duration) int64 { return int64(Ceil(d, time.Second) / time.Second) }

// CeilSecond is t rounded up to the second.
func CeilSecond(t time.Time) time.Time { return t.Add(time.Second - 1).Truncate(time.Second) }
