// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/llm"
	"github.com/bucketring/bucketring/rpc/internal/message"
)

// patience is the longest Retry-After that all SDKs honour. Some take a longer one
// for none at all.
const patience = time.Minute

// StatusOverloaded is Anthropic's status for a lack of capacity that is no quota.
const StatusOverloaded = 529

// Denial answers a call of model that was denied: status, all headers, and a body
// with the facts of the binding limit inside its error.
func Denial(w http.ResponseWriter, d Dialect, dec *client.Decision, model string, now time.Time) {
	h := w.Header()
	Headers(h, d, dec, now)
	set(h, "Cache-Control", "no-store")
	a := adviceFor(d, dec)
	if a.after > 0 {
		set(h, "Retry-After", strconv.FormatInt(int64(max(roundUp(a.after, time.Second), time.Second)/time.Second), 10))
		set(h, "Retry-After-Ms", strconv.FormatInt(int64(roundUp(a.after, time.Millisecond)/time.Millisecond), 10))
	}
	set(h, "X-Should-Retry", strconv.FormatBool(a.retry))

	e := denialError(d, dec, model)
	status := http.StatusTooManyRequests
	if isOurs(dec.Reason) {
		status = unavailable(d)
	}
	write(w, d, status, e, dec.RequestID)
}

// advice is what a denial says about trying again.
type advice struct {
	retry bool          // the SDK should, on its own
	after time.Duration // 0: nothing is said
}

func adviceFor(d Dialect, dec *client.Decision) advice {
	switch {
	case dec.Reason == client.ExceedsCapacity, dec.Reason == client.NoPrice:
		return advice{}
	case isOurs(dec.Reason), dec.Binding.Dimension == concurrent:
		after := max(dec.RetryAfter, time.Second)
		if dec.Binding.Dimension == concurrent || after > patience {
			after = time.Second
		}
		return advice{true, after + rand.N(time.Second)}
	case dec.Binding.Dimension == spend && d == llm.Anthropic:
		return advice{}
	case dec.Binding.Dimension == spend:
		return advice{false, dec.RetryAfter}
	}
	return advice{dec.RetryAfter > 0 && dec.RetryAfter <= patience, dec.RetryAfter}
}

// isOurs reports whether the denial is no matter of the caller's quota.
func isOurs(r client.Reason) bool { return r == client.OwnerUnreachable || r == client.TableFull }

func unavailable(d Dialect) int {
	if d == llm.Anthropic {
		return StatusOverloaded
	}
	return http.StatusServiceUnavailable
}

// facts are what both dialects get inside their error, named as the HTTP API names
// them.
type facts struct {
	Reason            string          `json:"reason,omitempty"`
	RetryAfterSeconds json.RawMessage `json:"retry_after_seconds,omitempty"`
	Limit             *int64          `json:"limit,omitempty"`
	Remaining         *int64          `json:"remaining,omitempty"`
	ResetAt           string          `json:"reset_at,omitempty"`
	Dimension         string          `json:"dimension,omitempty"`
	Scope             string          `json:"scope,omitempty"`
}

func factsOf(dec *client.Decision) facts {
	f := facts{Reason: string(dec.Reason)}
	if dec.RetryAfter > 0 && dec.Reason != client.ExceedsCapacity && dec.Reason != client.NoPrice {
		f.RetryAfterSeconds = message.Seconds(dec.RetryAfter)
	}
	if l := &dec.Binding; l.Dimension != "" {
		f.Limit, f.Remaining = &l.Limit, &l.Remaining
		f.Dimension, f.Scope = l.Dimension, l.Scope
		if !l.ResetAt.IsZero() {
			f.ResetAt = l.ResetAt.Add(time.Millisecond - 1).UTC().Truncate(time.Millisecond).Format("2006-01-02T15:04:05.999Z07:00")
		}
	}
	return f
}

func denialError(d Dialect, dec *client.Decision, model string) problem {
	denied := message.Denied{Reason: string(dec.Reason), Model: model}
	if l := &dec.Binding; l.Dimension != "" {
		denied.Limit = &message.Limit{
			Dimension: l.Dimension,
			Algorithm: l.Algorithm,
			Limit:     l.Limit,
			Capacity:  l.Capacity,
			Remaining: l.Remaining,
			Debt:      l.Debt,
			Cost:      l.Cost,
			Window:    l.Window,
		}
	}
	e := problem{Problem: Problem{Message: message.Of(denied)}, facts: factsOf(dec)}
	switch {
	case d == llm.Anthropic && isOurs(dec.Reason):
		e.Type = "overloaded_error"
	case d == llm.Anthropic:
		e.Type = "rate_limit_error"
	case isOurs(dec.Reason):
		e.Type, e.Code = "server_error", string(dec.Reason)
	case dec.Reason == client.NoPrice, dec.Binding.Dimension == spend:
		e.Type, e.Code = "insufficient_quota", "insufficient_quota"
	default:
		e.Type, e.Code = rateType(dec.Binding.Dimension), "rate_limit_exceeded"
	}
	return e
}

// rateType is OpenAI's type of an error about a rate.
func rateType(dimension string) string {
	switch dimension {
	case tokens, inputTokens, outputTokens:
		return tokens
	case requests, concurrent, "":
		return requests
	}
	return dimension // an operator's own
}
