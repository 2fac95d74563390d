// SPDX-License-Identifier: Apache-2.0

// Package tracing makes spans of calls and sends them to a collector, by OTLP over gRPC or
// HTTP. Spans wait in a bounded queue: a collector that is slow, down or gone delays no call,
// and what does not fit is dropped and counted.
//
// A nil [*Tracer] makes no spans, so that whoever may trace has one branch to take.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/credentials/insecure"
)

// exportTimeout bounds one attempt to send spans. There is no other: the next spans come soon.
const exportTimeout = 5 * time.Second

// Options configure a [Tracer].
type Options struct {
	// Endpoint is where the collector is: grpc://host:4317 or http://host:4318; with TLS
	// grpcs:// or https://. The path of HTTP is /v1/traces if there is none.
	Endpoint string
	// Sample is the part of the calls without a parent that are traced, from 0 to 1. A call
	// with a parent is traced if that is.
	Sample float64
	// Keys: spans have the keys that are charged.
	Keys bool
	// Service and Instance say who makes the spans.
	Service, Instance, Version string
	Registry                   prometheus.Registerer
	Logger                     *slog.Logger
}

// scope is the name of what makes spans.
const scope = "github.com/bucketring/bucketring"

// Tracer makes spans. It is safe for concurrent use.
type Tracer struct {
	trace.Tracer
	keys     bool
	below    uint64 // of 63 random bits, those below are sampled
	queue    *queue
	sampling *sdktrace.TracerProvider // takes its own sample
}

// ParseEndpoint returns the parts of an endpoint. The error says what it must be.
func ParseEndpoint(endpoint string) (*url.URL, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("must be a URL such as grpc://host:4317: %w", err)
	}
	_, port, err := net.SplitHostPort(u.Host)
	grpc := u.Scheme == "grpc" || u.Scheme == "grpcs"
	switch {
	case !grpc && u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("must begin with grpc://, grpcs://, http:// or https://, got %q", endpoint)
	case err != nil || port == "" || u.Hostname() == "":
		return nil, fmt.Errorf("must have a host and a port, such as %s://localhost:4317, got %q", u.Scheme, endpoint)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || grpc && u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("must have no more than a host, a port and, with HTTP, a path, got %q", u.Redacted())
	}
	return u, nil
}

// New returns a tracer, which connects in the background.
func New(o Options) (*Tracer, error) {
	u, err := ParseEndpoint(o.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	exporter, err := newExporter(u)
	if err != nil {
		return nil, fmt.Errorf("otlp: %w", err)
	}
	if o.Logger != nil {
		o.Logger = o.Logger.With("otlp", o.Endpoint)
	}
	q := newQueue(exporter, o)
	provider := func(root sdktrace.Sampler) *sdktrace.TracerProvider {
		return sdktrace.NewTracerProvider(
			sdktrace.WithSampler(sdktrace.ParentBased(root)),
			sdktrace.WithSpanProcessor(q),
			sdktrace.WithResource(resource.NewSchemaless(
				attribute.String("service.name", o.Service),
				attribute.String("service.instance.id", o.Instance),
				attribute.String("service.version", o.Version),
			)),
		)
	}
	all := provider(sdktrace.AlwaysSample()) // Begin takes a sample before
	return &Tracer{
		Tracer: all.Tracer(scope), keys: o.Keys, below: uint64(min(max(o.Sample, 0), 1) * (1 << 63)),
		queue: q, sampling: provider(sdktrace.TraceIDRatioBased(o.Sample)),
	}, nil
}

// newExporter returns the exporter of a valid endpoint. The scheme decides whether it uses
// TLS, and not the variables that the exporter reads, such as OTEL_EXPORTER_OTLP_INSECURE.
func newExporter(u *url.URL) (sdktrace.SpanExporter, error) {
	ctx := context.Background()
	if u.Scheme == "grpcs" || u.Scheme == "https" {
		if err := checkFiles(); err != nil {
			return nil, err
		}
	}
	switch u.Scheme {
	case "grpc", "grpcs":
		o := []otlptracegrpc.Option{
			otlptracegrpc.WithEndpointURL("https://" + u.Host), otlptracegrpc.WithTimeout(exportTimeout),
			otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{}),
		}
		if u.Scheme == "grpc" {
			o = append(o, otlptracegrpc.WithTLSCredentials(insecure.NewCredentials()))
		}
		return otlptracegrpc.New(ctx, o...)
	}
	to := *u
	if to.Path == "" || to.Path == "/" {
		to.Path = "/v1/traces"
	}
	o := []otlptracehttp.Option{
		otlptracehttp.WithEndpointURL(to.String()), otlptracehttp.WithTimeout(exportTimeout),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{}),
	}
	if u.Scheme == "http" {
		o = append(o, otlptracehttp.WithTLSClientConfig(nil))
	}
	return otlptracehttp.New(ctx, o...)
}

// Begin begins a span of a call that has come from outside, and returns a context with it. The
// call is sampled if its parent is, which ctx may have, or, if it has none, at random. If it
// is not sampled, there is no span: Begin returns ctx and nil, and has allocated nothing.
func (t *Tracer) Begin(ctx context.Context, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	parent := trace.SpanContextFromContext(ctx)
	if parent.IsValid() && !parent.IsSampled() || !parent.IsValid() && rand.Uint64()>>1 >= t.below {
		return ctx, nil
	}
	return t.Start(ctx, name, trace.WithSpanKind(kind))
}

// Close sends the spans that wait, until ctx ends, and stops. Later spans are not sent.
func (t *Tracer) Close(ctx context.Context) error {
	return t.queue.Shutdown(ctx) // the provider's Shutdown would not stop the queue if ctx has ended
}

// Provider is where others get tracers. It takes a sample of the spans without a parent.
func (t *Tracer) Provider() trace.TracerProvider { return t.sampling }

// Keys reports whether spans may have the keys that are charged.
func (t *Tracer) Keys() bool { return t.keys }

var w3c propagation.TraceContext

// Extract returns a context with the parent that headers name by traceparent, if there is one.
func Extract(ctx context.Context, headers propagation.TextMapCarrier) context.Context {
	return w3c.Extract(ctx, headers)
}

// Inject names the span of ctx in headers.
func Inject(ctx context.Context, headers propagation.TextMapCarrier) { w3c.Inject(ctx, headers) }

// linkBytes is the length of an encoded link.
const linkBytes = 16 + 8 + 1

// Link encodes which span an item of a batch belongs to, as pb.Item has it. It is nil unless
// the span is sampled.
func Link(c trace.SpanContext) []byte {
	if !c.IsValid() || !c.IsSampled() {
		return nil
	}
	id, span := c.TraceID(), c.SpanID()
	b := make([]byte, 0, linkBytes)
	return append(append(append(b, id[:]...), span[:]...), byte(c.TraceFlags()))
}

// LinkOf is Link for the span of a context.
func LinkOf(ctx context.Context) []byte { return Link(trace.SpanContextFromContext(ctx)) }

// Linked returns a context with the parent that [Link] has encoded. ok is false if there is
// none that is sampled, such as in one that a later version has encoded.
func Linked(ctx context.Context, link []byte) (linked context.Context, ok bool) {
	if len(link) != linkBytes {
		return ctx, false
	}
	c := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(link[:16]), SpanID: trace.SpanID(link[16:24]), TraceFlags: trace.TraceFlags(link[24]), Remote: true,
	})
	if !c.IsValid() || !c.IsSampled() {
		return ctx, false
	}
	return trace.ContextWithRemoteSpanContext(ctx, c), true
}
