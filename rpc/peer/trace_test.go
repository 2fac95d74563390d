// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/bucketring/bucketring/internal/tracing"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// newTracer returns a tracer without a collector that traces only calls of callers that do.
func newTracer(t *testing.T) *tracing.Tracer {
	t.Helper()
	tracer, err := tracing.New(tracing.Options{Endpoint: "grpc://127.0.0.1:1", Registry: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = tracer.Close(ctx)
	})
	return tracer
}

// TestUntracedCallsCostNothingMore: with a tracer, a call that is not sampled allocates as much
// as without one, whether this member decides it or another; and without a tracer there is
// nothing around the router.
func TestUntracedCallsCostNothingMore(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	plain, traced := newCluster(t, 2), newCluster(t, 2, func(o *Options) { o.Tracer = newTracer(t) })
	if got := server.Traced(plain[0].Router, nil); got != pb.RateLimiterServer(plain[0].Router) {
		t.Errorf("Traced() without a tracer = %T, want the router itself", got)
	}
	ctx := context.Background()
	for name, owner := range map[string]int{"local": 0, "forward": 1} {
		allocs := func(nodes []*node, tracer *tracing.Tracer) float64 {
			q := &pb.CheckRequest{Key: nodes[owner].ownedBy(0), Tier: "thousand", RequestId: "a"}
			s := server.Traced(nodes[0].Router, tracer)
			check := func() {
				if _, err := s.Check(ctx, q); err != nil {
					t.Error(err)
				}
			}
			for range 50 {
				check()
			}
			return testing.AllocsPerRun(500, check)
		}
		without, with := allocs(plain, nil), allocs(traced, traced[0].options.Tracer)
		t.Logf("%s: %v allocations without a tracer, %v with one", name, without, with)
		if slack := float64(2 * owner); with > without+slack { // batches of a forward vary
			t.Errorf("%s: %v allocations with a tracer, want %v as without", name, with, without)
		}
	}
}

// TestTraceToMemberWithoutTracer: a member that does not trace, as one of an earlier version,
// decides a traced call as any other.
func TestTraceToMemberWithoutTracer(t *testing.T) {
	tracer := newTracer(t)
	nodes := newCluster(t, 2, func(o *Options) {
		if o.Name == "node1" {
			o.Tracer = tracer
		}
	})
	ctx := trace.ContextWithRemoteSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, Remote: true,
	}))
	d, err := server.Traced(nodes[0].Router, tracer).Check(ctx, &pb.CheckRequest{Key: nodes[1].ownedBy(0), Tier: "thousand"})
	if err != nil || d.GetRoute() != pb.Route_ROUTE_FORWARD {
		t.Errorf("Check() = %v, %v, want a decision of the owner", d, err)
	}
}
