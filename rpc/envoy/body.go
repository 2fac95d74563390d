// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"bytes"
	"cmp"
	"fmt"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"

	"github.com/bucketring/bucketring/rpc/internal/explain"
)

// addBody adds an error body that the caller's SDK understands, if the options or a
// descriptor name a dialect.
func (ev *evaluation) addBody(r *rls.RateLimitResponse) {
	d, dialect := ev.bodyDescriptor()
	if dialect == BodyNone {
		return
	}
	advice := explain.Advice{After: -1}
	if wait, ok := ev.retrySeconds(); ok {
		advice = explain.Wait(time.Duration(wait) * time.Second)
	}
	if dialect == BodyAnthropic {
		p := d.anthropicDenial(advice)
		r.RawBody = bytes.TrimSuffix(p.Anthropic(), newline)
	} else {
		p := d.openAIDenial(advice)
		r.RawBody = bytes.TrimSuffix(p.OpenAI(), newline)
	}
	r.ResponseHeadersToAdd = append(
		r.ResponseHeadersToAdd,
		&core.HeaderValue{Key: "Content-Type", Value: "application/json"},
		// Tells SDKs not to retry where waiting does not help or takes too long.
		&core.HeaderValue{Key: "x-should-retry", Value: fmt.Sprint(advice.Retry)},
	)
	if ev.service.options.Headers == "" {
		ev.addRetryAfter(r)
	}
}

var newline = []byte("\n")

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

func (d *descriptor) openAIDenial(advice explain.Advice) explain.Problem {
	x := d.denial(advice)
	p := explain.OpenAIDenial(&x)
	d.setMessage(&p, advice)
	return p
}

func (d *descriptor) anthropicDenial(advice explain.Advice) explain.Problem {
	x := d.denial(advice)
	p := explain.AnthropicDenial(&x)
	d.setMessage(&p, advice)
	return p
}

// denial is the denial that a body is about: that of the policy, or that of a counter in
// the same form.
func (d *descriptor) denial(advice explain.Advice) explain.Decision {
	x := explain.Decision{}
	switch {
	case d.decided != nil:
		x = *d.decided
	case d.kind != kindRejected:
		x.Reason = "limit_exceeded"
		x.Binding = &explain.Limit{
			Name: d.limit.name, Dimension: d.dimension, Scope: d.domain, Limit: d.limit.amount, Capacity: d.limit.amount,
		}
		if d.rule != nil {
			x.Binding.Name = cmp.Or(d.rule.Name, d.rule.Path)
		}
	}
	x.RetryAfter = advice.After
	return x
}

// setMessage sets the message about a counter or an invalid descriptor. That of the
// policy stays.
func (d *descriptor) setMessage(p *explain.Problem, advice explain.Advice) {
	switch {
	case d.kind == kindRejected:
		p.Message = "The request is invalid: " + d.problem + "."
		return
	case d.decided != nil:
		return
	}
	length := d.limit.window.Unit.String()
	if n := d.limit.window.Multiple; n > 1 {
		length = fmt.Sprintf("%d %ss", n, length)
	}
	name := ""
	if p.Name != "" {
		name = " " + p.Name
	}
	p.Message = fmt.Sprintf("Rate limit%s of %s exceeded: %d %s per %s.", name, d.domain, d.limit.amount, d.dimension, length)
	if advice.After > 0 {
		p.Message += fmt.Sprintf(" Try again in %d s.", int64(advice.After/time.Second))
	}
}
