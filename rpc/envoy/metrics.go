// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bucketring/bucketring/rpc/envoy/config"
	"github.com/bucketring/bucketring/rpc/server"
)

// The outcomes of a request.
const (
	outcomeOK    = "ok"
	outcomeOver  = "over_limit"
	outcomeError = "error"
)

// otherDomain labels requests whose domain has no rules. A label must not come from a
// caller.
const otherDomain = ""

// overrideRule labels counters of limit overrides.
const overrideRule = "(override)"

// metrics are the metrics of a service. Labels come from the rules, never from values
// of descriptors.
type metrics struct {
	requests    *prometheus.CounterVec
	descriptors *prometheus.CounterVec
	shadowed    prometheus.Counter
	duration    prometheus.Histogram

	hits, within, near, over, shadow, givenBack *prometheus.CounterVec
}

// ruleCounters are the counters of a rule. Rules with the same keys share them.
type ruleCounters struct {
	hits, within, near, over, shadow, givenBack prometheus.Counter
}

// ruleset is rules with their counters.
type ruleset struct {
	config    *config.Config
	counters  map[*config.Rule]*ruleCounters
	overrides map[string]*ruleCounters // by domain
	labels    map[series]bool          // of all series
}

type series struct{ domain, rule string }

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	hits := func(name, help string) *prometheus.CounterVec {
		return f.NewCounterVec(prometheus.CounterOpts{Name: "bucketring_envoy_" + name, Help: help}, []string{"domain", "rule"})
	}
	return &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_envoy_requests_total",
			Help: "Requests of Envoy, by domain (empty: the rules do not have it) and outcome.",
		}, []string{"domain", "outcome"}),
		descriptors: f.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_envoy_descriptors_total",
			Help: "Descriptors of Envoy's requests, by how they were decided: none has no limit; rejected is invalid, and so over its limit.",
		}, []string{"domain", "kind"}),
		shadowed: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_envoy_shadowed_requests_total",
			Help: "Requests over a limit that were answered OK because the service is in shadow mode.",
		}),
		duration: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "bucketring_envoy_request_duration_seconds",
			Help:    "Time to answer a request of Envoy. Its default timeout is 20 ms.",
			Buckets: []float64{100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 20e-3, 50e-3, 100e-3, 250e-3, 1},
		}),
		hits:      hits("hits_total", "Hits that were counted, by the keys of the rule."),
		within:    hits("within_limit_hits_total", "Hits of descriptors within their limit."),
		near:      hits("near_limit_hits_total", "Hits between 80 % of a limit and the limit."),
		over:      hits("over_limit_hits_total", "Hits beyond a limit."),
		shadow:    hits("shadow_hits_total", "Hits beyond the limit of a rule in shadow mode."),
		givenBack: hits("given_back_hits_total", "Hits that were given back."),
	}
}

// vecs are the vectors with the labels of a rule.
func (m *metrics) vecs() []*prometheus.CounterVec {
	return []*prometheus.CounterVec{m.hits, m.within, m.near, m.over, m.shadow, m.givenBack}
}

// ruleset returns a ruleset, whose series begin at 0.
func (m *metrics) ruleset(c *config.Config) *ruleset {
	r := &ruleset{config: c, counters: map[*config.Rule]*ruleCounters{}, overrides: map[string]*ruleCounters{}, labels: map[series]bool{}}
	for _, rule := range c.Rules() {
		r.counters[rule] = m.series(r, series{rule.Domain, rule.Path})
	}
	for _, domain := range c.Domains() {
		r.overrides[domain] = m.series(r, series{domain, overrideRule})
		for _, outcome := range []string{outcomeOK, outcomeOver, outcomeError} {
			m.requests.WithLabelValues(domain, outcome)
		}
		for _, kind := range kindNames {
			m.descriptors.WithLabelValues(domain, kind)
		}
	}
	return r
}

func (m *metrics) series(r *ruleset, s series) *ruleCounters {
	r.labels[s] = true
	of := func(v *prometheus.CounterVec) prometheus.Counter { return v.WithLabelValues(s.domain, s.rule) }
	return &ruleCounters{of(m.hits), of(m.within), of(m.near), of(m.over), of(m.shadow), of(m.givenBack)}
}

// deleteSeries deletes the series of old that r does not have.
func (m *metrics) deleteSeries(old, r *ruleset) {
	if old == nil {
		return
	}
	for s := range old.labels {
		if r.labels[s] {
			continue
		}
		for _, v := range m.vecs() {
			v.DeleteLabelValues(s.domain, s.rule)
		}
	}
	for domain := range old.overrides {
		if r.overrides[domain] == nil {
			m.requests.DeletePartialMatch(prometheus.Labels{"domain": domain})
			m.descriptors.DeletePartialMatch(prometheus.Labels{"domain": domain})
		}
	}
}

func (r *ruleset) override(domain string) *ruleCounters { return r.overrides[domain] }

// domain returns the label for a domain.
func (r *ruleset) domain(name string) string {
	if r == nil || !r.config.Has(name) {
		return otherDomain
	}
	return name
}

func (m *metrics) observe(r *ruleset, domain, outcome string, duration time.Duration) {
	m.requests.WithLabelValues(r.domain(domain), outcome).Inc()
	m.duration.Observe(duration.Seconds())
}

func (m *metrics) countKind(r *ruleset, domain string, k kind) {
	m.descriptors.WithLabelValues(r.domain(domain), kindNames[k]).Inc()
}

// count counts the hits of a descriptor. They may lie on both sides of a threshold.
func (c *ruleCounters) count(d *descriptor, got *server.Counted) {
	if d.giveBack {
		c.givenBack.Add(float64(d.hits))
		return
	}
	c.hits.Add(float64(d.hits))
	if got.Full {
		c.over.Add(float64(d.hits))
		return
	}
	before, after := got.Used-d.hits, got.Used
	limit, threshold := got.Limit, got.Limit/10*8+got.Limit%10*8/10
	c.near.Add(float64(between(before, after, threshold, limit)))
	if !got.Over {
		c.within.Add(float64(d.hits))
		return
	}
	beyond := after - max(before, limit)
	c.over.Add(float64(beyond))
	if !d.exceeded {
		c.shadow.Add(float64(beyond))
	}
}

// between returns how much of the range from before to after is between low and high.
func between(before, after, low, high int64) int64 {
	return max(min(after, high)-max(before, low), 0)
}
