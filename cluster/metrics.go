// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	members map[string]prometheus.Gauge // by label; see count
	view    prometheus.Gauge
	skew    prometheus.Gauge
	rules   prometheus.Gauge
	rejoins map[bool]prometheus.Counter // by success
	refused prometheus.Counter
	tcpOnly prometheus.Counter
}

// newMetrics takes a nil registry to register nothing.
func newMetrics(reg prometheus.Registerer, healthScore func() int, heard func() float64) *metrics {
	f := promauto.With(reg)
	members := f.NewGaugeVec(prometheus.GaugeOpts{
		Name: "bucketring_cluster_members", Help: "Slots by state, as this node sees them. Crashed ones count until they are forgotten; fenced are boots that lost their slot.",
	}, []string{"state"})
	rejoins := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_cluster_rejoin_attempts_total", Help: "Attempts to reach seeds and members that are missing.",
	}, []string{"result"})
	m := &metrics{
		members: map[string]prometheus.Gauge{},
		view:    f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_cluster_view", Help: "Number of the current view."}),
		skew:    f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_cluster_policies", Help: "Different policies in force among the members: more than 1 is a skew."}),
		rules:   f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_cluster_envoy_rules", Help: "Different rules of Envoy's rate limit service in force among the members that have any: more than 1 is a skew."}),
		rejoins: map[bool]prometheus.Counter{true: rejoins.WithLabelValues("ok"), false: rejoins.WithLabelValues("failed")},
		refused: f.NewCounter(prometheus.CounterOpts{Name: "bucketring_cluster_refused_total", Help: "Boots kept out for another ring configuration or unreadable metadata."}),
		tcpOnly: f.NewCounter(prometheus.CounterOpts{Name: "bucketring_cluster_tcp_only_probes_total", Help: "Probes that a peer answered over TCP but not over UDP: look for a firewall."}),
	}
	for _, state := range []string{"joining", "serving", "leaving", "fenced", "crashed"} {
		m.members[state] = members.WithLabelValues(state)
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bucketring_cluster_health_score", Help: "How badly this node keeps up with gossip: 0 is well, 1 is not.",
	}, func() float64 { return float64(healthScore()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bucketring_cluster_last_gossip_timestamp_seconds", Help: "When gossip last brought news of any node; older than a minute means that it stalls.",
	}, heard)
	return m
}

// count shows a view.
func (m *metrics) count(v *View) {
	n := map[string]int{"fenced": len(v.Fenced), "crashed": v.Roster() - len(v.Members)}
	for _, member := range v.Members {
		n[member.State.String()]++
	}
	for state, gauge := range m.members {
		gauge.Set(float64(n[state]))
	}
	m.view.Set(float64(v.Number))
	m.skew.Set(float64(max(1, len(v.PolicySkew()))))
	m.rules.Set(float64(max(1, len(v.RulesSkew()))))
}
