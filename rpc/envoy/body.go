// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"encoding/json"
	"fmt"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/bucketring/bucketring/limiter"
)

// openAIError is an error of OpenAI's API, with members of our own.
type openAIError struct {
	Message   string  `json:"message"`
	Type      string  `json:"type"`
	Param     *string `json:"param"`
	Code      string  `json:"code,omitempty"`
	Dimension string  `json:"dimension,omitempty"`
	Limit     int64   `json:"limit,omitempty"`
	Remaining int64   `json:"remaining"`
	Retry     int64   `json:"retry_after_seconds,omitempty"`
}

// anthropicError is an error of Anthropic's API.
type anthropicError struct {
	Type  string `json:"type"`
	Error struct {
		Type      string `json:"type"`
		Message   string `json:"message"`
		Dimension string `json:"dimension,omitempty"`
		Retry     int64  `json:"retry_after_seconds,omitempty"`
	} `json:"error"`
}

// addBody adds an error body that the caller's SDK understands, if the options or a
// descriptor name a dialect.
func (ev *evaluation) addBody(r *rls.RateLimitResponse) {
	d, dialect := ev.bodyDescriptor()
	if dialect == BodyNone {
		return
	}
	wait, ok := ev.retrySeconds()
	e := openAIError{Message: d.message(wait, ok), Type: "requests", Code: "rate_limit_exceeded", Dimension: d.dimension, Limit: d.limit.amount, Retry: wait}
	switch limiter.Dimension(d.dimension) {
	case limiter.Tokens, limiter.InputTokens, limiter.OutputTokens:
		e.Type = "tokens"
	case limiter.Spend:
		e.Type, e.Code = "insufficient_quota", "insufficient_quota"
	}
	var content any = struct {
		Error openAIError `json:"error"`
	}{e}
	if dialect == BodyAnthropic {
		a := anthropicError{Type: "error"}
		a.Error.Type, a.Error.Message, a.Error.Dimension, a.Error.Retry = "rate_limit_error", e.Message, e.Dimension, wait
		content = a
	}
	body, err := json.Marshal(content)
	if err != nil {
		return // impossible: it has strings and numbers only
	}
	r.RawBody = body
	r.ResponseHeadersToAdd = append(
		r.ResponseHeadersToAdd,
		&core.HeaderValue{Key: "Content-Type", Value: "application/json"},
		// Tells SDKs not to retry where waiting does not help or takes too long.
		&core.HeaderValue{Key: "x-should-retry", Value: fmt.Sprint(ok && e.Code != "insufficient_quota")},
	)
	if ev.service.options.Headers == "" {
		ev.addRetryAfter(r)
	}
}

// bodyDescriptor returns the descriptor that the body is about, which is a cause, and
// the dialect of the body.
func (ev *evaluation) bodyDescriptor() (cause *descriptor, dialect string) {
	dialect = ev.service.options.Body
	for i := range ev.descriptors {
		d := &ev.descriptors[i]
		if d.call.dialect != "" {
			dialect = d.call.dialect
		}
		if d.cause && (cause == nil || d.reset() > cause.reset()) {
			cause = d
		}
	}
	return cause, dialect
}

func (d *descriptor) message(wait int64, ok bool) string {
	switch {
	case d.kind == kindRejected:
		return "The request is invalid: " + d.problem + "."
	case d.limit.window.Unit == 0:
		return "Rate limit exceeded."
	}
	length := d.limit.window.Unit.String()
	if n := d.limit.window.Multiple; n > 1 {
		length = fmt.Sprintf("%d %ss", n, length)
	}
	text := fmt.Sprintf("Rate limit exceeded: %d %s per %s.", d.limit.amount, d.dimension, length)
	if ok {
		text += fmt.Sprintf(" Try again in %d s.", wait)
	}
	return text
}
