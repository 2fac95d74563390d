// SPDX-License-Identifier: Apache-2.0

package usagelog

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are those of a usage log. They are there without one, too.
type Metrics struct {
	lines, errors     prometheus.Counter
	full, unknown     prometheus.Counter
	abandoned         prometheus.Counter
	failing, lastSync prometheus.Gauge
}

// NewMetrics registers the metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	lost := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_usage_log_lost_total",
		Help: "Charges that are not in the usage log: queue_full, because it was not written fast enough; unknown_call, because a reservation from before the log was on expired; shutdown, because it could not be written when the node ended.",
	}, []string{"reason"})
	return &Metrics{
		lines: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_usage_log_lines_total", Help: "Lines written to the usage log.",
		}),
		errors: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_usage_log_errors_total", Help: "Writes, fsyncs and rotations of the usage log that failed. They are tried again.",
		}),
		failing: f.NewGauge(prometheus.GaugeOpts{
			Name: "bucketring_usage_log_failing", Help: "Whether the usage log cannot be written: 1 or 0. Charges wait in a bounded queue.",
		}),
		lastSync: f.NewGauge(prometheus.GaugeOpts{
			Name: "bucketring_usage_log_last_sync_timestamp_seconds", Help: "All charges before are in the usage log on disk; 0 without one.",
		}),
		full: lost.WithLabelValues("queue_full"), unknown: lost.WithLabelValues("unknown_call"), abandoned: lost.WithLabelValues("shutdown"),
	}
}
