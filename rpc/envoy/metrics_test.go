// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	w := newWorld(t, `
domain: d
descriptors:
  - key: k
    descriptors: [{ key: secret, rate_limit: { unit: day, requests_per_unit: 10 } }]
  - { key: soft, shadow_mode: true, rate_limit: { unit: day, requests_per_unit: 1 } }
`, func(o *Options) { o.Registry = registry })
	for _, ask := range []string{
		"d k=1 secret=x +7",    // 7 within
		"d k=1 secret=x +2",    // one of them near the limit
		"d k=1 secret=x +4",    // one near the limit, three over
		"d k=1 secret=x +2",    // all over
		"d k=1 secret=x -5",    //
		"d soft=1 +3; other=1", // two over, in shadow
		"d k=9 5/day",          // an override
		"d bucketring.key=k; bucketring.key=",
		"stranger k=1",
	} {
		w.ask(request(ask))
	}
	want := `
bucketring_envoy_descriptors_total{domain="",kind="none"} 1
bucketring_envoy_descriptors_total{domain="d",kind="none"} 1
bucketring_envoy_descriptors_total{domain="d",kind="override"} 1
bucketring_envoy_descriptors_total{domain="d",kind="policy"} 1
bucketring_envoy_descriptors_total{domain="d",kind="rejected"} 1
bucketring_envoy_descriptors_total{domain="d",kind="rule"} 6
bucketring_envoy_given_back_hits_total{domain="d",rule="k.secret"} 5
bucketring_envoy_hits_total{domain="d",rule="(override)"} 1
bucketring_envoy_hits_total{domain="d",rule="k.secret"} 15
bucketring_envoy_hits_total{domain="d",rule="soft"} 3
bucketring_envoy_near_limit_hits_total{domain="d",rule="k.secret"} 2
bucketring_envoy_near_limit_hits_total{domain="d",rule="soft"} 1
bucketring_envoy_over_limit_hits_total{domain="d",rule="k.secret"} 5
bucketring_envoy_over_limit_hits_total{domain="d",rule="soft"} 2
bucketring_envoy_request_duration_seconds_count 9
bucketring_envoy_requests_total{domain="",outcome="ok"} 1
bucketring_envoy_requests_total{domain="d",outcome="ok"} 5
bucketring_envoy_requests_total{domain="d",outcome="over_limit"} 3
bucketring_envoy_shadow_hits_total{domain="d",rule="soft"} 2
bucketring_envoy_within_limit_hits_total{domain="d",rule="(override)"} 1
bucketring_envoy_within_limit_hits_total{domain="d",rule="k.secret"} 9`
	if d := cmp.Diff(strings.Split(strings.TrimSpace(want), "\n"), scrape(t, registry)); d != "" {
		t.Errorf("samples (-want +got):\n%s", d)
	}

	// The series of a rule are deleted with the rule.
	w.SetRules(mustParse(t, "domain: e\ndescriptors: [{ key: k, rate_limit: { unit: day, requests_per_unit: 10 } }]\n"))
	w.ask(request("e k=1"))
	for _, line := range scrape(t, registry) {
		if strings.Contains(line, `domain="d"`) {
			t.Errorf("after the rules changed there is %s, want no series of domain d", line)
		}
	}
}

// scrape returns the samples that are not zero. Of histograms it returns the count.
func scrape(t *testing.T, registry *prometheus.Registry) (samples []string) {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		line = strings.TrimSuffix(line, "\n")
		name, _, _ := strings.Cut(line, "{")
		if strings.HasPrefix(line, "#") || strings.HasSuffix(line, " 0") || strings.HasSuffix(name, "_bucket") || strings.Contains(name, "_sum ") {
			continue
		}
		samples = append(samples, line)
	}
	slices.Sort(samples)
	return samples
}
