// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"encoding/json"
	"fmt"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/bucketring/bucketring/limiter"
)

// refusal is the error in a body, in the words of OpenAI with ours beside them.
type refusal struct {
	Message   string  `json:"message"`
	Type      string  `json:"type"`
	Param     *string `json:"param"`
	Code      string  `json:"code,omitempty"`
	Dimension string  `json:"dimension,omitempty"`
	Limit     int64   `json:"limit,omitempty"`
	Remaining int64   `json:"remaining"`
	Retry     int64   `json:"retry_after_seconds,omitempty"`
}

// anthropicRefusal is the error of Anthropic's API.
type anthropicRefusal struct {
	Type  string `json:"type"`
	Error struct {
		Type      string `json:"type"`
		Message   string `json:"message"`
		Dimension string `json:"dimension,omitempty"`
		Retry     int64  `json:"retry_after_seconds,omitempty"`
	} `json:"error"`
}

// body gives the caller of a model an error that its library understands, if the
// service or the descriptor at fault says in which dialect.
func (q *question) body(r *rls.RateLimitResponse) {
	d, dialect := q.atFault()
	if dialect == BodyNone {
		return
	}
	wait, ok := q.wait()
	e := refusal{Message: d.message(wait, ok), Type: "requests", Code: "rate_limit_exceeded", Dimension: d.dimension, Limit: d.limit.amount, Retry: wait}
	switch limiter.Dimension(d.dimension) {
	case limiter.Tokens, limiter.InputTokens, limiter.OutputTokens:
		e.Type = "tokens"
	case limiter.Spend:
		e.Type, e.Code = "insufficient_quota", "insufficient_quota"
	}
	var form any = struct {
		Error refusal `json:"error"`
	}{e}
	if dialect == BodyAnthropic {
		a := anthropicRefusal{Type: "error"}
		a.Error.Type, a.Error.Message, a.Error.Dimension, a.Error.Retry = "rate_limit_error", e.Message, e.Dimension, wait
		form = a
	}
	body, err := json.Marshal(form)
	if err != nil {
		return // strings and numbers always can be
	}
	r.RawBody = body
	r.ResponseHeadersToAdd = append(
		r.ResponseHeadersToAdd,
		&core.HeaderValue{Key: "Content-Type", Value: "application/json"},
		// Clients would try a refusal again in vain that no wait mends, or money.
		&core.HeaderValue{Key: "x-should-retry", Value: fmt.Sprint(ok && e.Code != "insufficient_quota")},
	)
	if q.service.options.Headers == "" {
		q.retryAfter(r)
	}
}

// atFault returns the descriptor that the body is about, which is one to blame,
// and in which dialect.
func (q *question) atFault() (fault *descriptor, dialect string) {
	dialect = q.service.options.Body
	for i := range q.descriptors {
		d := &q.descriptors[i]
		if d.mapped.dialect != "" {
			dialect = d.mapped.dialect
		}
		if d.blamed && (fault == nil || d.reset() > fault.reset()) {
			fault = d
		}
	}
	return fault, dialect
}

func (d *descriptor) message(wait int64, ok bool) string {
	switch {
	case d.kind == kindRefused:
		return "The call could not be measured: " + d.problem + "."
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
