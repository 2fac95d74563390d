// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	members  map[string]prometheus.Gauge // by state, plus fenced and crashed
	view     prometheus.Gauge
	policies prometheus.Gauge
	rules    prometheus.Gauge
	rejoins  map[bool]prometheus.Counter // by success
	rejected prometheus.Counter
	tcpOnly  prometheus.Counter
	tooLarge prometheus.Counter
}

// newMetrics registers the metrics, unless the registry is nil. lastAlive returns
// Unix seconds.
func newMetrics(reg prometheus.Registerer, healthScore func() int, lastAlive func() float64) *metrics {
	f := promauto.With(reg)
	members := f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bucketring_cluster_members", Help: "Members by state, as this node sees them. Crashed ones count until they are forgotten; fenced are boots that lost their slot.",
	}, []string{"state"})
	rejoins := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_cluster_rejoin_attempts_total", Help: "Attempts to contact missing seeds and members.",
	}, []string{"result"})
	m := &metrics{
		members:  map[string]prometheus.Gauge{},
		view:     f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_cluster_view", Help: "Number of the current view."}),
		policies: f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_cluster_policies", Help: "Number of different policies in force among the members: should be 1."}),
		rules:    f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_cluster_envoy_rules", Help: "Number of different rules of Envoy's rate limit service in force among the members that have rules: should be 1."}),
		rejoins:  map[bool]prometheus.Counter{true: rejoins.WithLabelValues("ok"), false: rejoins.WithLabelValues("failed")},
		rejected: f.NewCounter(prometheus.CounterOpts{Name: "bucketring_cluster_rejected_total", Help: "Nodes rejected for another ring configuration or invalid metadata."}),
		tcpOnly:  f.NewCounter(prometheus.CounterOpts{Name: "bucketring_cluster_tcp_only_probes_total", Help: "Probes that a peer answered over TCP but not over UDP: check the firewall."}),
		tooLarge: f.NewCounter(prometheus.CounterOpts{Name: "bucketring_gossip_too_large_total", Help: "Connections of gossip that were closed because they sent more than 512 KiB."}),
	}
	for _, state := range []string{"joining", "serving", "leaving", "fenced", "crashed"} {
		m.members[state] = members.WithLabelValues(state)
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bucketring_cluster_health_score", Help: "How far this node is behind with gossip: 0 is healthy, 1 is not.",
	}, func() float64 { return float64(healthScore()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bucketring_cluster_last_gossip_timestamp_seconds", Help: "When gossip last reported a node as alive: more than a minute ago means that gossip stalls.",
	}, lastAlive)
	return m
}

// set updates the gauges for a view.
func (m *metrics) set(v *View) {
	n := map[string]int{"fenced": len(v.Fenced), "crashed": v.Roster() - len(v.Members)}
	for _, member := range v.Members {
		n[member.State.String()]++
	}
	for state, gauge := range m.members {
		gauge.Set(float64(n[state]))
	}
	m.view.Set(float64(v.Number))
	m.policies.Set(float64(max(1, len(v.PolicySkew()))))
	m.rules.Set(float64(max(1, len(v.RulesSkew()))))
}
