// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	failing, size, snapshotSize, lastSync, lastSnapshot, corrupt prometheus.Gauge
	failures, snapshotFailures, bytes                            prometheus.Counter
	syncs                                                        prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	gauge := func(name, help string) prometheus.Gauge {
		return f.NewGauge(prometheus.GaugeOpts{Name: "bucketring_" + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "bucketring_" + name, Help: help})
	}
	return &metrics{
		failing:          gauge("journal_failing", "Whether changes cannot be written to the journal: 1 or 0. A crash loses them."),
		size:             gauge("journal_size_bytes", "Size of all journals in the data directory."),
		lastSync:         gauge("journal_last_sync_timestamp_seconds", "All changes before are on disk."),
		snapshotSize:     gauge("snapshot_size_bytes", "Size of the last snapshot written."),
		lastSnapshot:     gauge("snapshot_last_success_timestamp_seconds", "When the last snapshot was written."),
		corrupt:          gauge("corrupt_snapshots", "Corrupt snapshots and journals in the data directory, which were not restored."),
		failures:         counter("journal_failures_total", "Writes and fsyncs of the journal that failed."),
		snapshotFailures: counter("snapshot_failures_total", "Snapshots that could not be written."),
		bytes:            counter("journal_written_bytes_total", "Bytes written to journals."),
		syncs: f.NewHistogram(prometheus.HistogramOpts{
			Name: "bucketring_journal_sync_duration_seconds", Help: "Duration of the fsyncs of the journal.",
			Buckets: []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10},
		}),
	}
}
