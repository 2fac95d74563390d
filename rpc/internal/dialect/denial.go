// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// maxRetryAfter is the longest Retry-After that all SDKs honour. Some ignore a
// longer one and retry at once.
const maxRetryAfter = time.Minute

// StatusOverloaded is Anthropic's status for a server without capacity.
const StatusOverloaded = 529

// WriteDenial answers a denied call of model: the status, all headers, and an error
// body with the facts of the binding limit.
func WriteDenial(w http.ResponseWriter, d Dialect, dec *client.Decision, model string, now time.Time) {
	h := w.Header()
	x := decisionOf(dec)
	x.Model = model
	setHeaders(h, d, &x, now)
	explain.Set(h, "Cache-Control", "no-store")
	advice := retryAdviceFor(d, dec)
	if advice.after > 0 {
		explain.SetRetryAfter(h, advice.after)
		explain.SetNumber(h, "Retry-After-Ms", int64(explain.Ceil(advice.after, time.Millisecond)/time.Millisecond))
	}
	explain.Set(h, "X-Should-Retry", strconv.FormatBool(advice.retry))

	status := http.StatusTooManyRequests
	if notQuota(dec.Reason) {
		status = unavailableStatus(d)
	}
	write(w, d, status, denialError(d, &x), dec.RequestID)
}

// decisionOf converts a decision. It drops a retry time that does not help.
func decisionOf(dec *client.Decision) explain.Decision {
	x := explain.Decision{Reason: string(dec.Reason), RetryAfter: -1, Limits: make([]explain.Limit, len(dec.Limits))}
	if dec.RetryAfter > 0 && dec.Reason != client.ExceedsCapacity && dec.Reason != client.NoPrice {
		x.RetryAfter = dec.RetryAfter
	}
	for i := range dec.Limits {
		x.Limits[i] = limitOf(&dec.Limits[i])
	}
	if dec.Binding.Dimension != "" {
		binding := limitOf(&dec.Binding)
		x.Binding = &binding
	}
	return x
}

func limitOf(l *client.LimitState) explain.Limit {
	return explain.Limit{
		Name:      l.Name,
		Dimension: l.Dimension,
		Scope:     l.Scope,
		Algorithm: l.Algorithm,
		Limit:     l.Limit,
		Capacity:  l.Capacity,
		Remaining: l.Remaining,
		Debt:      l.Debt,
		Window:    l.Window,
		ResetAt:   l.ResetAt,
		Cost:      l.Cost,
		Shadow:    l.Shadow,
	}
}

// retryAdvice is what a denial tells SDKs about trying again.
type retryAdvice struct {
	retry bool          // the SDK should retry on its own
	after time.Duration // 0: no Retry-After
}

func retryAdviceFor(d Dialect, dec *client.Decision) retryAdvice {
	dimension := dec.Binding.Dimension
	switch {
	case dec.Reason == client.ExceedsCapacity, dec.Reason == client.NoPrice:
		return retryAdvice{}
	case notQuota(dec.Reason), dec.Reason == client.IDsFull, dimension == explain.Concurrent:
		after := max(dec.RetryAfter, time.Second)
		if dimension == explain.Concurrent || after > maxRetryAfter {
			after = time.Second
		}
		return retryAdvice{true, after + rand.N(time.Second)}
	case dimension == explain.Spend && d == llm.Anthropic:
		return retryAdvice{}
	case dimension == explain.Spend:
		return retryAdvice{false, dec.RetryAfter}
	}
	return retryAdvice{dec.RetryAfter > 0 && dec.RetryAfter <= maxRetryAfter, dec.RetryAfter}
}

// notQuota reports whether a denial has nothing to do with the caller's limits.
func notQuota(r client.Reason) bool { return r == client.OwnerUnreachable || r == client.TableFull }

func unavailableStatus(d Dialect) int {
	if d == llm.Anthropic {
		return StatusOverloaded
	}
	return http.StatusServiceUnavailable
}

func denialError(d Dialect, x *explain.Decision) problem {
	e := problem{Problem: Problem{Message: explain.Message(x)}, Facts: explain.FactsOf(x)}
	reason, dimension := client.Reason(x.Reason), e.Dimension
	switch {
	case d == llm.Anthropic && notQuota(reason):
		e.Type = "overloaded_error"
	case d == llm.Anthropic:
		e.Type = "rate_limit_error"
	case notQuota(reason):
		e.Type, e.Code = "server_error", x.Reason
	case reason == client.NoPrice, dimension == explain.Spend:
		e.Type, e.Code = "insufficient_quota", "insufficient_quota"
	default:
		e.Type, e.Code = openAIType(dimension), "rate_limit_exceeded"
	}
	return e
}

// openAIType is OpenAI's error type for a limit of a dimension.
func openAIType(dimension string) string {
	switch dimension {
	case explain.Tokens, explain.InputTokens, explain.OutputTokens:
		return explain.Tokens
	case explain.Requests, explain.Concurrent, "":
		return explain.Requests
	}
	return dimension // the operator's own
}
