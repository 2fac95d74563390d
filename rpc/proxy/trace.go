// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/bucketring/bucketring/internal/tracing"
)

// traced begins the span of a metered request, below that of the caller, and returns the
// request with it. end ends it.
func (p *Proxy) traced(r *http.Request) (traced *http.Request, end func()) {
	t := p.options.Tracer
	if t == nil {
		return r, func() {}
	}
	ctx, span := t.Begin(tracing.Extract(r.Context(), propagation.HeaderCarrier(r.Header)), "proxy", trace.SpanKindServer)
	if span == nil {
		return r, func() {}
	}
	span.SetAttributes(attribute.String("http.request.method", r.Method))
	return r.WithContext(ctx), func() { span.End() }
}

// upstreamSpan begins the span of a request to the upstream, which learns of it by
// traceparent. It is nil unless the request is traced.
func (p *Proxy) upstreamSpan(r *http.Request) (*http.Request, trace.Span) {
	if p.options.Tracer == nil || !trace.SpanContextFromContext(r.Context()).IsSampled() {
		return r, nil
	}
	ctx, span := p.options.Tracer.Start(r.Context(), "upstream", trace.WithSpanKind(trace.SpanKindClient))
	span.SetAttributes(attribute.String("server.address", r.URL.Host))
	r = r.Clone(ctx)
	tracing.Inject(ctx, propagation.HeaderCarrier(r.Header))
	return r, span
}

// transport returns how requests are sent to the upstream.
func (p *Proxy) transport() http.RoundTripper {
	if p.options.Tracer == nil {
		return p.upstream
	}
	return tracedTransport{p.upstream, p}
}

// tracedTransport sends requests to the upstream, with spans that end when all of the
// response was read.
type tracedTransport struct {
	*upstream
	proxy *Proxy
}

// RoundTrip implements [http.RoundTripper].
func (t tracedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r, span := t.proxy.upstreamSpan(r)
	response, err := t.upstream.RoundTrip(r)
	switch {
	case span == nil:
	case err != nil:
		span.SetStatus(codes.Error, "no response")
		span.End()
	case response.StatusCode == http.StatusSwitchingProtocols:
		span.End()
	default:
		span.SetAttributes(attribute.Int("http.response.status_code", response.StatusCode))
		response.Body = &responseBody{response.Body, func() { span.End() }}
	}
	return response, err
}
