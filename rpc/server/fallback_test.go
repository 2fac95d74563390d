// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/pb"
)

const fallbackPolicy = `
tiers:
  free: { requests: 3/min }
default_tier: free
`

func newFallback(t *testing.T, n *node) *Service {
	t.Helper()
	engine := limiter.New(limiter.Options{})
	p, err := policy.Parse("fallback.yaml", []byte(fallbackPolicy), engine.Catalog())
	if err != nil {
		t.Fatalf("policy: %v", err)
	}
	return n.Fallback(engine, func() Policy { return p })
}

// TestFallback: it has limits and state of its own, and its answers say so.
func TestFallback(t *testing.T) {
	n := newNode(t)
	f := newFallback(t, n)
	got := answers(f,
		item(&pb.CheckRequest{Key: "k", Requests: new(int64(3)), RequestId: "1"}),
		item(&pb.CheckRequest{Key: "k", RequestId: "2"}),
		item(&pb.ReserveRequest{Key: "r", RequestId: "3", MaxOutputTokens: new(int64(1))}),
		item(&pb.SettleRequest{Key: "r", RequestId: "3"}),
		item(&pb.PeekRequest{Key: "k"}),
	)
	if diff := cmp.Diff([]string{"1 allowed", "2 denied", "3 allowed", "3 settled", "1 limits"}, briefs(got)); diff != "" {
		t.Errorf("results differ (-want +got):\n%s", diff)
	}
	for _, r := range got {
		owner, route := r.GetDecision().GetOwner(), r.GetDecision().GetRoute()
		if s := r.GetSettlement(); s != nil {
			owner, route = s.Owner, s.Route
		}
		if l := r.GetLimits(); l != nil {
			owner, route = l.Owner, l.Route
		}
		if owner != "node1" || route != pb.Route_ROUTE_FALLBACK {
			t.Errorf("answer of %q by route %v, want node1 and fallback: %v", owner, route, r)
		}
	}
	if d, err := f.Check(t.Context(), &pb.CheckRequest{Key: "other"}); err != nil || d.Route != pb.Route_ROUTE_FALLBACK || d.RequestId != "made-1" {
		t.Errorf("Check() = %v, %v, want made-1 by route fallback", d, err)
	}
	if left := remaining(t, n, "k", "requests"); left != 10 {
		t.Errorf("the owner's engine has %d requests left, want 10", left)
	}
	if d, err := n.Check(t.Context(), &pb.CheckRequest{Key: "k"}); err != nil || d.Route != pb.Route_ROUTE_LOCAL {
		t.Errorf("Check() of the owner = %v, %v, want route local", d, err)
	}
}

// TestFallbackMetrics: fallback decisions are decisions, and can be told apart. A
// settle counts at the owner.
func TestFallbackMetrics(t *testing.T) {
	n := newNode(t)
	f := newFallback(t, n)
	answers(f,
		item(&pb.CheckRequest{Key: "k", Requests: new(int64(3)), RequestId: "1"}),
		item(&pb.CheckRequest{Key: "k", RequestId: "2"}),
		item(&pb.ReserveRequest{Key: "r", RequestId: "3", MaxOutputTokens: new(int64(1))}),
		item(&pb.SettleRequest{Key: "r", RequestId: "3"}),
		item(&pb.SettleRequest{Key: "r", RequestId: "never"}),
		item(&pb.CheckRequest{Key: ""}),
	)
	answers(n.Service,
		replay(&pb.CheckRequest{Key: "k", Requests: new(int64(3)), RequestId: "1"}),
		replay(&pb.ReserveRequest{Key: "r", RequestId: "3", MaxOutputTokens: new(int64(1))}),
		replay(&pb.SettleRequest{Key: "r", RequestId: "3"}),
		item(&pb.CheckRequest{Key: "own", RequestId: "4"}),
	)
	n.Observe(pb.Route_ROUTE_FORWARD, 3*time.Millisecond)
	n.Observe(pb.Route_ROUTE_FORWARD, 3*time.Millisecond)
	f.Observe(pb.Route_ROUTE_SLICE, time.Microsecond)
	n.Observe(pb.Route_ROUTE_UNSPECIFIED, time.Second)
	n.Observe(pb.Route(99), time.Second)
	want := []string{
		`bucketring_decision_duration_seconds_count{route="fallback"} 3`,
		`bucketring_decision_duration_seconds_count{route="forward"} 2`,
		`bucketring_decision_duration_seconds_count{route="local"} 1`,
		`bucketring_decision_duration_seconds_count{route="slice"} 1`,
		`bucketring_decisions_total{dimension="requests",outcome="allowed",tier="free"} 3`,
		`bucketring_decisions_total{dimension="requests",outcome="denied",tier="free"} 1`,
		`bucketring_fallback_decisions_total{outcome="allowed"} 2`,
		`bucketring_fallback_decisions_total{outcome="denied"} 1`,
		`bucketring_invalid_requests_total{field="key"} 1`,
		`bucketring_keys 3`,
		`bucketring_remembered_ids 3`,
		`bucketring_settle_delta_tokens_count 1`,
		`bucketring_settle_delta_tokens_sum 1`,
		`bucketring_settlements_total{status="settled"} 1`,
	}
	if diff := cmp.Diff(want, scrape(t, n.registry)); diff != "" {
		t.Errorf("metrics differ (-want +got):\n%s", diff)
	}
}
