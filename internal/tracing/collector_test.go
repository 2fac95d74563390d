// SPDX-License-Identifier: Apache-2.0

package tracing

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/bucketring/bucketring/internal/waittest"
)

// stuck is a collector that answers nothing until a call is cancelled.
type stuck struct{ asked chan struct{} }

func (s *stuck) ExportSpans(ctx context.Context, _ []sdktrace.ReadOnlySpan) error {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return ctx.Err()
}

func (*stuck) Shutdown(context.Context) error { return nil }

// counted returns the values of a metric by its label.
func counted(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			label := ""
			for _, l := range m.GetLabel() {
				label = l.GetValue()
			}
			if f.GetName() == name {
				values[label] = m.GetCounter().GetValue()
			}
		}
	}
	return values
}

// tracerOf returns a tracer that sends spans by an exporter.
func tracerOf(e sdktrace.SpanExporter, reg *prometheus.Registry) (*Tracer, *queue) {
	q := newQueue(e, Options{Registry: reg})
	p := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())), sdktrace.WithSpanProcessor(q))
	return &Tracer{Tracer: p.Tracer(scope), below: 1 << 63, queue: q, sampling: p}, q
}

// TestStuckCollector: a collector that does not answer delays nobody, takes a bounded amount
// of memory, and its spans are counted; and the shutdown does not wait for it for long.
func TestStuckCollector(t *testing.T) {
	reg, e := prometheus.NewRegistry(), &stuck{make(chan struct{}, 1)}
	tracer, q := tracerOf(e, reg)
	end := func() {
		_, span := tracer.Begin(t.Context(), "call", trace.SpanKindServer)
		span.End()
	}
	for range maxBatch {
		end()
	}
	<-e.asked // it has the first batch, and keeps it
	const more = maxQueued + 1000
	for range more {
		end() // returns, or the test does not end
	}
	if n := counted(t, reg, "bucketring_trace_spans_dropped_total")["queue_full"]; n < more-maxQueued || len(q.spans) > maxQueued {
		t.Errorf("dropped %v spans with %d waiting, want %d or more, and at most %d", n, len(q.spans), more-maxQueued, maxQueued)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := tracer.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close() with a collector that is stuck = %v, want the end of its time", err)
	}
}

// refusing is a collector that takes nothing.
type refusing struct{}

func (refusing) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error {
	return errors.New("refused")
}
func (refusing) Shutdown(context.Context) error { return nil }

func TestRefusedSpansAreCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	tracer, _ := tracerOf(refusing{}, reg)
	_, span := tracer.Begin(t.Context(), "call", trace.SpanKindServer)
	span.End()
	if err := tracer.Close(waittest.Context(t, waittest.Limit)); err != nil {
		t.Fatal(err)
	}
	if n := counted(t, reg, "bucketring_trace_spans_dropped_total")["export_failed"]; n != 1 {
		t.Errorf("%v spans dropped, want 1", n)
	}
}

// TestBegin: a call is sampled if its parent is; without one, at random; and a call that is
// not sampled has no span and costs no memory.
func TestBegin(t *testing.T) {
	tracer, _ := tracerOf(refusing{}, prometheus.NewRegistry())
	t.Cleanup(func() { _ = tracer.Close(context.Background()) })
	parent := func(flags trace.TraceFlags) context.Context {
		return trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: flags, Remote: true,
		}))
	}
	sampled, unsampled := parent(trace.FlagsSampled), parent(0)
	for _, below := range []uint64{0, 1 << 62, 1 << 63} {
		tracer.below = below
		if _, span := tracer.Begin(sampled, "call", trace.SpanKindServer); span == nil || !span.SpanContext().IsSampled() || span.SpanContext().TraceID() != (trace.TraceID{1}) {
			t.Errorf("Begin() below a sampled span = %v, want a span of its trace", span)
		}
		if _, span := tracer.Begin(unsampled, "call", trace.SpanKindServer); span != nil {
			t.Errorf("Begin() below a span that is not sampled = %v, want none", span)
		}
		spans := 0
		for range 1000 {
			if _, span := tracer.Begin(t.Context(), "call", trace.SpanKindServer); span != nil {
				spans++
			}
		}
		if want := int(below >> 53 * 1000 >> 10); spans < want-100 || spans > want+100 {
			t.Errorf("%d of 1000 calls are sampled, want about %d", spans, want)
		}
	}
	tracer.below = 0
	for name, ctx := range map[string]context.Context{"no parent": t.Context(), "a parent that is not sampled": unsampled} {
		if n := testing.AllocsPerRun(100, func() { tracer.Begin(ctx, "call", trace.SpanKindServer) }); n != 0 {
			t.Errorf("Begin() with %s = %v allocations, want 0", name, n)
		}
	}
}

func TestLinks(t *testing.T) {
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1, 15: 2}, SpanID: trace.SpanID{3, 7: 4}, TraceFlags: trace.FlagsSampled})
	ctx, ok := Linked(t.Context(), Link(span))
	if got := trace.SpanContextFromContext(ctx); !ok || !got.IsRemote() || !got.Equal(span.WithRemote(true)) {
		t.Errorf("Linked(Link(%v)) = %v, %t, want the same", span, got, ok)
	}
	if link := Link(span.WithTraceFlags(0)); link != nil {
		t.Errorf("Link() of a span that is not sampled = %x, want none", link)
	}
	for _, link := range [][]byte{nil, {}, make([]byte, linkBytes), Link(span)[:linkBytes-1], append(Link(span), 0), append(make([]byte, 16), 1, 2, 3, 4, 5, 6, 7, 8, 1), append(Link(span)[:24:24], 0)} {
		if _, ok := Linked(t.Context(), link); ok {
			t.Errorf("Linked(%x) is a parent, want none", link)
		}
	}
}

func TestParseEndpoint(t *testing.T) {
	for _, valid := range []string{"grpc://localhost:4317", "grpcs://collector:4317", "http://127.0.0.1:4318", "https://[::1]:4318/otlp/v1/traces"} {
		if _, err := ParseEndpoint(valid); err != nil {
			t.Errorf("ParseEndpoint(%s) = %v, want it accepted", valid, err)
		}
	}
	for invalid, want := range map[string]string{
		"localhost:4317": "must begin with", "ftp://host:1": "must begin with", "grpc://host": "must have a host and a port", "http://:4318": "must have a host",
		"grpc://host:4317/path": "no more than a host", "http://user:secret@host:4318": "no more than a host", "http://host:4318?x=y": "no more than a host",
	} {
		_, err := ParseEndpoint(invalid)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("ParseEndpoint(%s) = %v, want an error with %q and without the password", invalid, err, want)
		}
	}
}
