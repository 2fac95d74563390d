// SPDX-License-Identifier: Apache-2.0

package server

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// scrape returns the samples that are not zero, as Prometheus sees them. Of
// histograms it keeps the count.
func scrape(t *testing.T, registry *prometheus.Registry) []string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	var samples []string
	for line := range strings.Lines(w.Body.String()) {
		line = strings.TrimSuffix(line, "\n")
		name, _, _ := strings.Cut(line, "{")
		if strings.HasPrefix(line, "#") || strings.HasSuffix(line, " 0") ||
			strings.HasSuffix(name, "_bucket") || strings.HasSuffix(name, "_sum") {
			continue
		}
		samples = append(samples, line)
	}
	slices.Sort(samples)
	return samples
}

func TestMetrics(t *testing.T) {
	n := newNode(t)
	ctx := t.Context()
	for range 11 { // 10 a minute
		if _, err := n.Check(ctx, &pb.CheckRequest{Key: "acme/alice"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Reserve(ctx, &pb.ReserveRequest{
		Key: "k", Tier: "shrink", InputTokens: 500, MaxOutputTokens: new(int64(1000)), MinOutputTokens: new(int64(16)), RequestId: "a",
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second is over the limit in shadow
		if _, err := n.Check(ctx, &pb.CheckRequest{Key: "w", Tier: "watched", Costs: map[string]int64{"images": 1}}); err != nil {
			t.Fatal(err)
		}
	}
	_, _ = n.Settle(ctx, &pb.SettleRequest{Key: "k", RequestId: "a", OutputTokens: new(int64(100)), Final: new(false)})
	_, _ = n.Settle(ctx, &pb.SettleRequest{Key: "k", RequestId: "a", OutputTokens: new(int64(100))})
	_, _ = n.Settle(ctx, &pb.SettleRequest{Key: "k", RequestId: "a", OutputTokens: new(int64(101))})
	_, _ = n.Cancel(ctx, &pb.CancelRequest{Key: "k", RequestId: "never"})
	_, _ = n.Check(ctx, &pb.CheckRequest{Key: ""})
	_, _ = n.Check(ctx, &pb.CheckRequest{Key: "k", Costs: map[string]int64{"whatever": -1}})

	want := []string{
		`bucketring_decision_duration_seconds_count{route="local"} 14`,
		`bucketring_decisions_total{dimension="images",outcome="allowed",tier="watched"} 2`,
		`bucketring_decisions_total{dimension="requests",outcome="allowed",tier="free"} 10`,
		`bucketring_decisions_total{dimension="requests",outcome="denied",tier="free"} 1`,
		`bucketring_decisions_total{dimension="tokens",outcome="degraded",tier="shrink"} 1`,
		`bucketring_degraded_tokens_total 504`,
		`bucketring_invalid_requests_total{field="costs"} 1`,
		`bucketring_invalid_requests_total{field="key"} 1`,
		`bucketring_keys 3`,
		`bucketring_largest_root_keys 1`,
		`bucketring_remembered_ids 13`,
		`bucketring_settle_delta_tokens_count 1`,
		`bucketring_settle_delta_tokens_sum 396`,
		`bucketring_settlements_total{status="held"} 1`,
		`bucketring_settlements_total{status="request_id_conflict"} 1`,
		`bucketring_settlements_total{status="settled"} 1`,
		`bucketring_settlements_total{status="unknown_reservation"} 1`,
		`bucketring_shadow_denials_total{dimension="requests",tier="watched"} 1`,
	}
	if diff := cmp.Diff(want, scrape(t, n.registry)); diff != "" {
		t.Errorf("metrics differ (-want +got):\n%s", diff)
	}
}

// TestSeriesAtZero: a series exists before its first event, so that a rate over
// it is right.
func TestSeriesAtZero(t *testing.T) {
	n := newNode(t)
	if _, err := n.Check(t.Context(), &pb.CheckRequest{Key: "k"}); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	promhttp.HandlerFor(n.registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, sample := range []string{
		`bucketring_decisions_total{dimension="requests",outcome="denied",tier="free"} 0`,
		`bucketring_decision_duration_seconds_count{route="forward"} 0`,
		`bucketring_decision_duration_seconds_count{route="fallback"} 0`,
		`bucketring_fallback_decisions_total{outcome="denied"} 0`,
		`bucketring_invalid_requests_total{field="call"} 0`,
		`bucketring_evictions_total{reason="lossless"} 0`,
		`bucketring_evictions_total{reason="almost_unused"} 0`,
		`bucketring_evicted_budget_total{dimension="tokens"} 0`,
		`bucketring_settlements_total{status="cancelled"} 0`,
		`bucketring_leases_expired_total 0`,
		`bucketring_table_full_total 0`,
		`bucketring_ids_forgotten_total 0`,
		`bucketring_ids_full_total 0`,
		`bucketring_reservations 0`,
	} {
		if !strings.Contains(w.Body.String(), sample+"\n") {
			t.Errorf("no sample %s", sample)
		}
	}
}

// TestOneReadPerScrape: the engine is asked once, whatever is shown of it.
func TestOneReadPerScrape(t *testing.T) {
	reads := 0
	registry := prometheus.NewRegistry()
	registry.MustRegister(newStatsCollector(func() limiter.Stats {
		reads++
		return limiter.Stats{Overrun: map[limiter.Dimension]int64{limiter.Tokens: 7}}
	}))
	if diff := cmp.Diff([]string{`bucketring_overrun_total{dimension="tokens"} 7`}, scrape(t, registry)); diff != "" {
		t.Errorf("metrics differ (-want +got):\n%s", diff)
	}
	if reads != 1 {
		t.Errorf("a scrape read the engine %d times, want 1", reads)
	}
}
