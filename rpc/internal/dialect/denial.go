// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

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
	advice := explain.AdviceOf(&x)
	if advice.Spread {
		advice.After += rand.N(time.Second)
	}
	if x.Binding != nil && x.Binding.Dimension == explain.Spend && d == llm.Anthropic && !advice.Retry {
		advice.After = -1 // as Anthropic answers if a spend limit is reached
	}
	explain.SetAdvice(h, advice)
	if advice.After > 0 {
		explain.SetNumber(h, "Retry-After-Ms", int64(explain.Ceil(advice.After, time.Millisecond)/time.Millisecond))
	}

	status := http.StatusTooManyRequests
	if explain.NotQuota(x.Reason) {
		status = unavailableStatus(d)
	}
	e := explain.OpenAIDenial(&x)
	if d == llm.Anthropic {
		e = explain.AnthropicDenial(&x)
	}
	e.RequestID = dec.RequestID
	write(w, d, status, &e)
}

// Message says, in a sentence for people, why a call of model was denied.
func Message(dec *client.Decision, model string) string {
	d := *dec
	d.Model = model
	return d.Message()
}

// RetryAfter returns when a denied call may be tried again, and whether waiting helps.
func RetryAfter(dec *client.Decision) (after time.Duration, ok bool) {
	x := decisionOf(dec)
	after = explain.AdviceOf(&x).After
	return after, after >= 0
}

// decisionOf converts a decision. It drops a retry time that does not help.
func decisionOf(dec *client.Decision) explain.Decision {
	x := explain.Decision{
		Reason: string(dec.Reason), Fallback: dec.Route == client.Fallback, RetryAfter: -1,
		Priority: string(dec.Priority), Waited: dec.Waited, WaitRefused: dec.WaitRefused,
		Limits: make([]explain.Limit, len(dec.Limits)),
	}
	if dec.RetryAfter > 0 && dec.Reason != client.ExceedsCapacity && dec.Reason != client.NoPrice {
		x.RetryAfter = dec.RetryAfter
	}
	for i := range dec.Limits {
		x.Limits[i] = explain.Limit(dec.Limits[i])
	}
	if dec.Binding.Dimension != "" {
		binding := explain.Limit(dec.Binding)
		x.Binding = &binding
	}
	x.MaxWait = explain.MaxWaitOf(x.Limits)
	if dec.MaxWait != nil {
		x.MaxWait = min(x.MaxWait, *dec.MaxWait)
	}
	return x
}

func unavailableStatus(d Dialect) int {
	if d == llm.Anthropic {
		return StatusOverloaded
	}
	return http.StatusServiceUnavailable
}
