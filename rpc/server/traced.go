// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/tracing"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Traced returns svc with a span for each unary call that is sampled: because its caller's
// span is, or by chance. The caller's span is that of the context, or of the traceparent in
// the metadata of gRPC. Without a tracer it returns svc.
func Traced(svc pb.RateLimiterServer, t *tracing.Tracer) pb.RateLimiterServer {
	if t == nil {
		return svc
	}
	return &traced{svc, t}
}

type traced struct {
	pb.RateLimiterServer
	tracer *tracing.Tracer
}

// begin returns the span of a call; nil if it is not sampled.
func (s *traced) begin(ctx context.Context, name, key, model string) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() && len(metadata.ValueFromIncomingContext(ctx, "traceparent")) > 0 {
		md, _ := metadata.FromIncomingContext(ctx)
		ctx = tracing.Extract(ctx, carrier(md))
	}
	ctx, span := s.tracer.Begin(ctx, name, trace.SpanKindServer)
	if span == nil {
		return ctx, nil
	}
	if model != "" {
		span.SetAttributes(attribute.String("bucketring.model", model))
	}
	if key != "" && s.tracer.Keys() {
		span.SetAttributes(attribute.String("bucketring.key", key))
	}
	return ctx, span
}

// end ends the span of a call with its result.
func end(span trace.Span, result *pb.Result, err error) {
	if err != nil {
		result = Failed(err)
	}
	span.SetAttributes(Attributes(result)...)
	SetStatus(span, result)
	span.End()
}

// Check implements pb.RateLimiterServer.
func (s *traced) Check(ctx context.Context, r *pb.CheckRequest) (*pb.Decision, error) {
	return traceAround(ctx, s, r, s.RateLimiterServer.Check)
}

// Reserve implements pb.RateLimiterServer.
func (s *traced) Reserve(ctx context.Context, r *pb.ReserveRequest) (*pb.Decision, error) {
	return traceAround(ctx, s, r, s.RateLimiterServer.Reserve)
}

// Settle implements pb.RateLimiterServer.
func (s *traced) Settle(ctx context.Context, r *pb.SettleRequest) (*pb.Settlement, error) {
	return traceAround(ctx, s, r, s.RateLimiterServer.Settle)
}

// Cancel implements pb.RateLimiterServer.
func (s *traced) Cancel(ctx context.Context, r *pb.CancelRequest) (*pb.Settlement, error) {
	return traceAround(ctx, s, r, s.RateLimiterServer.Cancel)
}

// Peek implements pb.RateLimiterServer.
func (s *traced) Peek(ctx context.Context, r *pb.PeekRequest) (*pb.PeekResponse, error) {
	return traceAround(ctx, s, r, s.RateLimiterServer.Peek)
}

// Batch implements pb.RateLimiterServer.
func (s *traced) Batch(ctx context.Context, r *pb.BatchRequest) (*pb.BatchResponse, error) {
	return traceAround(ctx, s, r, s.RateLimiterServer.Batch)
}

// traceAround makes a call with its span, if it is sampled.
func traceAround[R, A proto.Message](ctx context.Context, s *traced, request R, call func(context.Context, R) (A, error)) (A, error) {
	ctx, span := s.beginFor(ctx, request)
	answer, err := call(ctx, request)
	if span != nil {
		endFor(span, request, answer, err)
	}
	return answer, err
}

// endFor ends the span of a request.
func endFor(span trace.Span, request, answer proto.Message, err error) {
	if b, ok := request.(*pb.BatchRequest); ok {
		span.SetAttributes(attribute.Int("bucketring.calls", len(b.GetItems())))
	}
	end(span, resultOf(answer), err)
}

// appendAnswer implements encoder. The answer of a call with a span is made as a message first.
func (s *traced) appendAnswer(ctx context.Context, request proto.Message, wire []byte) ([]byte, error) {
	ctx, span := s.beginFor(ctx, request)
	if span == nil {
		return appendFrom(ctx, s.RateLimiterServer, request, wire)
	}
	answer, err := ask(ctx, s.RateLimiterServer, request)
	endFor(span, request, answer, err)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{}.MarshalAppend(wire, answer)
}

// beginFor is begin for a request.
func (s *traced) beginFor(ctx context.Context, request proto.Message) (context.Context, trace.Span) {
	switch q := request.(type) {
	case *pb.CheckRequest:
		return s.begin(ctx, "check", q.GetKey(), q.GetModel())
	case *pb.ReserveRequest:
		return s.begin(ctx, "reserve", q.GetKey(), q.GetModel())
	case *pb.SettleRequest:
		return s.begin(ctx, "settle", q.GetKey(), "")
	case *pb.CancelRequest:
		return s.begin(ctx, "cancel", q.GetKey(), "")
	case *pb.PeekRequest:
		return s.begin(ctx, "peek", q.GetKey(), q.GetModel())
	}
	return s.begin(ctx, "batch", "", "")
}

// resultOf returns the result with an answer; nil for that of a batch.
func resultOf(answer proto.Message) *pb.Result {
	switch a := answer.(type) {
	case *pb.Decision:
		return &pb.Result{Result: &pb.Result_Decision{Decision: a}}
	case *pb.Settlement:
		return &pb.Result{Result: &pb.Result_Settlement{Settlement: a}}
	case *pb.PeekResponse:
		return &pb.Result{Result: &pb.Result_Limits{Limits: a}}
	}
	return nil
}

// carrier is metadata from which a traceparent is read.
type carrier metadata.MD

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(key string) string {
	if v := metadata.MD(c).Get(key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

// Keys implements propagation.TextMapCarrier.
func (c carrier) Keys() (keys []string) {
	for key := range c {
		keys = append(keys, key)
	}
	return keys
}

// enum returns the name of a value as answers have it; "" for none.
func enum(value, prefix string) string {
	if name := strings.ToLower(strings.TrimPrefix(value, prefix)); name != "unspecified" {
		return name
	}
	return ""
}

// Attributes are those of a span about a call with that result. They have no key.
func Attributes(result *pb.Result) (list []attribute.KeyValue) {
	text := func(name, value string) {
		if value != "" {
			list = append(list, attribute.String("bucketring."+name, value))
		}
	}
	switch r := result.GetResult().(type) {
	case *pb.Result_Decision:
		d := r.Decision
		text("outcome", enum(d.GetOutcome().String(), "OUTCOME_"))
		text("reason", enum(d.GetReason().String(), "REASON_"))
		text("route", enum(d.GetRoute().String(), "ROUTE_"))
		text("tier", d.GetTier())
		text("policy_version", d.GetPolicyVersion())
		text("owner", d.GetOwner())
	case *pb.Result_Settlement:
		s := r.Settlement
		text("status", enum(s.GetStatus().String(), "RESERVATION_STATUS_"))
		text("tier", s.GetTier())
		text("policy_version", s.GetPolicyVersion())
		text("route", enum(s.GetRoute().String(), "ROUTE_"))
		text("owner", s.GetOwner())
	case *pb.Result_Limits:
		text("route", enum(r.Limits.GetRoute().String(), "ROUTE_"))
		text("owner", r.Limits.GetOwner())
	}
	return list
}

// SetStatus sets the status of a span to that of a result: an error if no decision was made.
// Its description is the name of the code only, because messages may have keys.
func SetStatus(span trace.Span, result *pb.Result) {
	if code := codes.Code(result.GetError().GetCode()); code != codes.OK {
		span.SetStatus(otelcodes.Error, code.String())
	}
}
