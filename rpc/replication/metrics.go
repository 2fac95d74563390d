// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bucketring/bucketring/cluster/continuity"
)

type metrics struct {
	framesSent, framesReceived, bytesSent, dropped        prometheus.Counter
	copiesSent, copiesReceived, copiesFailed, bytesCopied prometheus.Counter
	applyFailed, lost, deaths, rejected                   prometheus.Counter
	gained, handedOver                                    prometheus.Counter
}

// newMetrics registers the metrics, if registry is not nil.
func newMetrics(registry prometheus.Registerer) *metrics {
	f := promauto.With(registry)
	counter := func(name, help string) prometheus.Counter {
		return f.NewCounter(prometheus.CounterOpts{Name: "bucketring_replication_" + name + "_total", Help: help})
	}
	moves := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_ring_moves_total", Help: "Partitions that this node gained or lost.",
	}, []string{"direction"})
	return &metrics{
		gained: moves.WithLabelValues("gained"), handedOver: moves.WithLabelValues("lost"),
		framesSent:     counter("frames_sent", "Messages to other members about partitions, with their changes."),
		framesReceived: counter("frames_received", "Messages from other members about partitions, with their changes."),
		bytesSent:      counter("sent_bytes", "Bytes of messages to other members about partitions."),
		dropped:        counter("frames_dropped", "Messages about partitions that were not sent, because their member was not connected or did not read. They are repeated."),
		copiesSent:     counter("copies_sent", "Complete copies of partitions that were sent."),
		copiesReceived: counter("copies_received", "Complete copies of partitions that were received."),
		copiesFailed:   counter("copies_failed", "Complete copies of partitions that could not be sent. They are repeated."),
		bytesCopied:    counter("copied_bytes", "Bytes of complete copies of partitions that were sent."),
		applyFailed:    counter("apply_failed", "Copies and changes of partitions that were received and could not be applied."),
		lost:           counter("lost_partitions", "Partitions for which all members that had the latest state were gone."),
		deaths:         counter("deaths", "Members found dead because their ports refused connections."),
		rejected:       counter("rejected_streams", "Streams from other members that were rejected."),
	}
}

// collector reads gauges from the places.
type collector struct {
	host        *Host
	roles       *prometheus.Desc
	withoutHeir *prometheus.Desc
	lag         *prometheus.Desc
}

var _ prometheus.Collector = (*collector)(nil)

func newCollector(h *Host) *collector {
	return &collector{
		host:        h,
		roles:       prometheus.NewDesc("bucketring_partitions", "Partitions by the role of this node.", []string{"role"}, nil),
		withoutHeir: prometheus.NewDesc("bucketring_partitions_without_heir", "Partitions of this node that no other member has a copy of.", nil, nil),
		lag:         prometheus.NewDesc("bucketring_replication_lag_seconds", "For how long an heir of this node has lacked a charge, at most.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.roles
	ch <- c.withoutHeir
	ch <- c.lag
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	var roles [numRoles]int
	alone, lag, now := 0, time.Duration(0), c.host.clock()
	for i := range c.host.parts {
		place := c.host.parts[i].place.Load()
		roles[place.Role]++
		if place.Owner == c.host.self && place.Heir.IsZero() {
			alone++
		}
		if place.Owner == c.host.self {
			lag = max(lag, lagOf(place.Heir, time.Duration(c.host.parts[i].lags.Load()), now))
		}
	}
	for r, n := range roles {
		ch <- prometheus.MustNewConstMetric(c.roles, prometheus.GaugeValue, float64(n), continuity.Role(r).String())
	}
	ch <- prometheus.MustNewConstMetric(c.withoutHeir, prometheus.GaugeValue, float64(alone))
	ch <- prometheus.MustNewConstMetric(c.lag, prometheus.GaugeValue, lag.Seconds())
}

// numRoles is the number of roles.
const numRoles = int(continuity.Reconciling) + 1
