// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/http"
	"strconv"
	"time"
)

// Headers are headers that are set together: their values share two pieces of memory. The zero
// value is empty.
type Headers struct {
	names [16]string
	ends  [16]int // of values in text
	n     int
	text  []byte
}

// room is for the values of a decision.
const room = 192

// Add adds a header whose name is in Go's canonical form. There may be 16.
func (s *Headers) Add(name, value string) {
	s.grow()
	s.text = append(s.text, value...)
	s.named(name)
}

// AddNumber is Add for a number.
func (s *Headers) AddNumber(name string, n int64) {
	s.grow()
	s.text = strconv.AppendInt(s.text, n, 10)
	s.named(name)
}

func (s *Headers) grow() {
	if s.text == nil {
		s.text = make([]byte, 0, room)
	}
}

func (s *Headers) named(name string) {
	s.names[s.n], s.ends[s.n] = name, len(s.text)
	s.n++
}

// SetIn sets the headers in h.
func (s *Headers) SetIn(h http.Header) {
	text, values, begin := string(s.text), make([]string, s.n), 0
	for i := range values {
		values[i] = text[begin:s.ends[i]]
		begin = s.ends[i]
		h[s.names[i]] = values[i : i+1 : i+1]
	}
}

// SetHeaders sets what AddDecision adds.
func SetHeaders(h http.Header, d *Decision, now time.Time) {
	var s Headers
	s.AddDecision(d, now)
	s.SetIn(h)
}

// AddDecision adds X-RateLimit-Limit, -Remaining and -Reset of the limit that
// [Decision.Shown] returns, if there is one. Reset is in Unix seconds, rounded up. A
// concurrency limit has no reset: then it is when the call may be tried again.
func (s *Headers) AddDecision(d *Decision, now time.Time) {
	l := d.Shown()
	if l == nil {
		return
	}
	reset := l.ResetAt
	if reset.IsZero() {
		reset = now.Add(max(d.RetryAfter, 0))
	}
	s.AddNumber("X-Ratelimit-Limit", l.Limit)
	s.AddNumber("X-Ratelimit-Remaining", l.Remaining)
	s.AddNumber("X-Ratelimit-Reset", CeilSecond(reset).Unix())
}

// SetOpenAIHeaders sets what AddOpenAI adds.
func SetOpenAIHeaders(h http.Header, limits []Limit, now time.Time) {
	var s Headers
	s.AddOpenAI(limits, now)
	s.SetIn(h)
}

// AddOpenAI adds the headers of the tightest limits on requests and on tokens as OpenAI
// sends them. Reset is a duration such as 7.2s.
func (s *Headers) AddOpenAI(limits []Limit, now time.Time) {
	for _, names := range [...]struct{ dimension, limit, remaining, reset string }{
		{Requests, "X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Requests", "X-Ratelimit-Reset-Requests"},
		{Tokens, "X-Ratelimit-Limit-Tokens", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Tokens"},
	} {
		if l := Tightest(limits, names.dimension); l != nil {
			s.AddNumber(names.limit, l.Limit)
			s.AddNumber(names.remaining, l.Remaining)
			s.Add(names.reset, Ceil(l.UntilReset(now), time.Millisecond).String())
		}
	}
}

// SetRetryAfter sets Retry-After to d in seconds, rounded up to at least 1.
func SetRetryAfter(h http.Header, d time.Duration) {
	SetNumber(h, "Retry-After", max(CeilSeconds(d), 1))
}

// SetAdvice sets what AddAdvice adds.
func SetAdvice(h http.Header, a Advice) {
	var s Headers
	s.AddAdvice(a)
	s.SetIn(h)
}

// AddAdvice adds X-Should-Retry and, if waiting helps, Retry-After.
func (s *Headers) AddAdvice(a Advice) {
	s.Add("X-Should-Retry", strconv.FormatBool(a.Retry))
	if a.After >= 0 {
		s.AddNumber("Retry-After", max(CeilSeconds(a.After), 1))
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
