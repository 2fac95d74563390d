// SPDX-License-Identifier: Apache-2.0

package listenlimit

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bucketring/bucketring/internal/share"
)

// Metrics are those of all listeners of a registry.
type Metrics struct {
	registry         prometheus.Registerer
	refused, evicted *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		registry: reg,
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_connections_refused_total",
			Help: "Connections closed at once because too many were open, from their address or to the node.",
		}, []string{"listener", "limit"}),
		evicted: f.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_connections_evicted_total",
			Help: "Idle connections closed to make room for new ones.",
		}, []string{"listener"}),
	}
}

// series are the metrics of one listener.
type series struct {
	refused map[share.Refusal]prometheus.Counter
	evicted prometheus.Counter
}

func (m *Metrics) of(name string, l *Listener) series {
	if m == nil {
		m = NewMetrics(nil)
	}
	labels := prometheus.Labels{"listener": name}
	f := promauto.With(m.registry)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bucketring_connections", Help: "Open connections.", ConstLabels: labels,
	}, func() float64 { return float64(l.Open()) })
	f.NewGauge(prometheus.GaugeOpts{
		Name: "bucketring_connections_limit", Help: "Most connections that may be open.", ConstLabels: labels,
	}).Set(float64(l.options.Max))
	s := series{refused: map[share.Refusal]prometheus.Counter{}, evicted: m.evicted.WithLabelValues(name)}
	for _, why := range share.Refusals {
		s.refused[why] = m.refused.WithLabelValues(name, string(why))
	}
	return s
}
