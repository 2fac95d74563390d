// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/bucketring/bucketring/internal/tracing"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/server"
)

// tracedCalls makes the spans of calls that are decided together. Nil makes none.
type tracedCalls struct {
	ctx      context.Context // with the span that the others belong to
	tracer   *tracing.Tracer
	owner    string // this member
	forwards []trace.Span
	deciding trace.Span
}

// trace returns what makes the spans of calls, or nil if they are not traced.
func (r *Router) trace(ctx context.Context, results *server.Results) *tracedCalls {
	if r.tracer == nil {
		return nil
	}
	span := trace.SpanContextFromContext(ctx)
	if !span.IsSampled() {
		return nil
	}
	results.SetTrace(span.TraceID().String())
	return &tracedCalls{ctx: ctx, tracer: r.tracer, owner: r.name}
}

// forward begins the span of a call to another member, which that member's belongs to.
func (t *tracedCalls) forward(c *call.Call) {
	if t == nil {
		return
	}
	_, span := t.tracer.Start(t.ctx, "forward", trace.WithSpanKind(trace.SpanKindClient))
	span.SetAttributes(attribute.String("bucketring.call", c.Kind.String()))
	c.Trace = tracing.Link(span.SpanContext())
	t.forwards = append(t.forwards, span)
}

// forwarded ends the span of a forward, the i-th.
func (t *tracedCalls) forwarded(i int, f *forward) {
	if t == nil {
		return
	}
	span := t.forwards[i]
	owner := ""
	if f.to != nil {
		owner = f.to.Name
	}
	span.SetAttributes(append(server.Attributes(f.result), attribute.String("bucketring.forward.owner", owner), attribute.Bool("bucketring.forward.redirected", f.redirected))...)
	server.SetStatus(span, f.result)
	span.End()
}

// decide begins the span of what this member decides itself.
func (t *tracedCalls) decide(forwards, calls int) {
	if t == nil || forwards == calls {
		return
	}
	_, t.deciding = t.tracer.Start(t.ctx, "decide")
	t.deciding.SetAttributes(attribute.String("bucketring.owner", t.owner), attribute.Int("bucketring.calls", calls-forwards))
}

// decided ends it.
func (t *tracedCalls) decided() {
	if t != nil && t.deciding != nil {
		t.deciding.End()
	}
}

// link begins a span for each call of a batch that another member, or a client, traces. ctx
// has the first of them.
func (r *Router) link(calls []call.Call) (ctx context.Context, spans []trace.Span) {
	ctx = context.Background()
	if r.tracer == nil {
		return ctx, nil
	}
	for i := range calls {
		c := &calls[i]
		if len(c.Trace) == 0 {
			continue
		}
		parent, ok := tracing.Linked(context.Background(), c.Trace)
		c.Trace = nil
		if !ok {
			continue
		}
		linked, span := r.tracer.Start(parent, "owner", trace.WithSpanKind(trace.SpanKindServer))
		span.SetAttributes(attribute.String("bucketring.call", c.Kind.String()))
		if r.tracer.Keys() {
			span.SetAttributes(attribute.String("bucketring.key", c.Key))
		}
		if spans == nil {
			ctx, spans = linked, make([]trace.Span, len(calls))
		}
		spans[i] = span
	}
	return ctx, spans
}

// endLinked ends the spans that link has begun.
func endLinked(spans []trace.Span, results *server.Results) {
	for i, span := range spans {
		if span == nil {
			continue
		}
		result := results.Get(i)
		span.SetAttributes(server.Attributes(result)...)
		if to := result.GetRedirect(); to != nil {
			span.SetAttributes(attribute.String("bucketring.redirect", to.GetOwner()))
		}
		server.SetStatus(span, result)
		span.End()
	}
}
