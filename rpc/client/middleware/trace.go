// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/bucketring/bucketring/rpc/client"
)

// span begins a span below that of ctx. It is nil unless that one is sampled.
func (m *metering) span(ctx context.Context, name string) (context.Context, trace.Span) {
	if m.tracer == nil || !trace.SpanContextFromContext(ctx).IsSampled() {
		return ctx, nil
	}
	return m.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient))
}

// endReserve ends the span of a reservation.
func endReserve(span trace.Span, e *client.Estimate, r *client.Reservation, err error) {
	if span == nil {
		return
	}
	span.SetAttributes(attribute.String("bucketring.model", e.Model))
	if err != nil {
		span.SetStatus(codes.Error, "no decision") // the error may have the key
	} else {
		span.SetAttributes(
			attribute.String("bucketring.outcome", string(r.Outcome)), attribute.String("bucketring.reason", string(r.Reason)),
			attribute.String("bucketring.route", string(r.Route)), attribute.String("bucketring.tier", r.Tier),
			attribute.String("bucketring.policy_version", r.PolicyVersion), attribute.String("bucketring.owner", r.Owner),
		)
	}
	span.End()
}

// endSettle ends the span of a settle or a cancel.
func endSettle(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, "not settled")
	}
	span.End()
}

// describe adds what is known of a call that has ended to the span of its request.
func (m *metering) describe(ctx context.Context, r *Result) {
	if m.tracer == nil {
		return
	}
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(
		attribute.String("bucketring.outcome", string(r.Outcome)), attribute.String("bucketring.reason", string(r.Reason)),
		attribute.String("bucketring.tier", r.Tier), attribute.String("bucketring.model", r.Model), attribute.String("bucketring.source", string(r.Source)),
		attribute.Int64("bucketring.input_tokens", r.Charged.InputTokens), attribute.Int64("bucketring.output_tokens", r.Charged.OutputTokens),
		attribute.Int("http.response.status_code", r.Status),
	)
}
