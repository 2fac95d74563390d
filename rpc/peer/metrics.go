// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/handshake"
)

// fallbackLabels name a counter of fallbacks.
type fallbackLabels struct {
	cause cause
	call  call.Kind
}

// metrics are those of calls between members. Labels come from fixed sets, except the
// names of members.
type metrics struct {
	batches    prometheus.Counter
	items      prometheus.Histogram
	redirects  prometheus.Counter
	refused    *prometheus.CounterVec // by member
	watchers   prometheus.Gauge
	fallbacks  map[fallbackLabels]prometheus.Counter
	byCause    map[cause]*atomic.Uint64 // the same, for the status
	handshakes map[string]prometheus.Counter
	dropped    prometheus.Counter

	repaid, repayLost, repayUnknown prometheus.Counter

	slicesLent, slicesReturned, slicesExpired, sliceRecalls prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		batches: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_forward_batches_total",
			Help: "Batches of calls sent to other members.",
		}),
		items: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "bucketring_forward_items",
			Help:    "Calls in a batch sent to another member.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512},
		}),
		redirects: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_redirects_total",
			Help: "Forwarded calls that the asked member did not own.",
		}),
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_forward_refused_total",
			Help: "Calls refused because their owner is asked more than it answers in time, before they were sent to it.",
		}, []string{"peer"}),
		watchers: f.NewGauge(prometheus.GaugeOpts{
			Name: "bucketring_ring_watchers",
			Help: "Clients that watch the ring of this node.",
		}),
		dropped: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_outbox_dropped_total",
			Help: "Calls in the outbox that were never charged at their owner, because it rejected them or they became too old.",
		}),
		repaid: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_repaid_calls_total",
			Help: "Calls that this node answered as an owner before its heir had their charges, and reported to the next owner.",
		}),
		repayLost: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_repay_lost_calls_total",
			Help: "Such calls that the next owner rejected, or that could not be reported for too long.",
		}),
		repayUnknown: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_repay_lost_partitions_total",
			Help: "Partitions of which this node has charges that the next owner lacks, and does not know of which calls they are.",
		}),
		slicesLent: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_slices_lent_total",
			Help: "Slices of hot keys that this node lent to other members and clients.",
		}),
		slicesReturned: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_slices_returned_total",
			Help: "Such slices that were returned before their lease ended.",
		}),
		slicesExpired: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_slices_expired_total",
			Help: "Such slices that were not returned, so that all of them was charged.",
		}),
		sliceRecalls: f.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_slice_recalls_total",
			Help: "Recalls of slices that this node sent to members, because it would have had to deny a call.",
		}),
		fallbacks:  map[fallbackLabels]prometheus.Counter{},
		byCause:    map[cause]*atomic.Uint64{},
		handshakes: map[string]prometheus.Counter{},
	}
	fallbacks := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_fallbacks_total",
		Help: "Calls decided without the owner of their key, by cause and kind of call.",
	}, []string{"cause", "call"})
	for _, why := range causes {
		m.byCause[why] = new(atomic.Uint64)
		for _, kind := range call.Kinds {
			m.fallbacks[fallbackLabels{why, kind}] = fallbacks.WithLabelValues(string(why), kind.String())
		}
	}
	handshakes := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_peer_handshakes_total",
		Help: "Handshakes of streams between members, by side and result.",
	}, []string{"side", "result"})
	for _, side := range []string{handshake.Caller, handshake.Owner} {
		for _, result := range handshake.Results {
			m.handshakes[side+" "+result] = handshakes.WithLabelValues(side, result)
		}
	}
	return m
}

func (m *metrics) sent(items int) {
	m.batches.Inc()
	m.items.Observe(float64(items))
}

func (m *metrics) fellBack(why cause, kind call.Kind) {
	m.fallbacks[fallbackLabels{why, kind}].Inc()
	m.byCause[why].Add(1)
}

// causes returns how many fallbacks there were, by cause.
func (m *metrics) causes() map[string]uint64 {
	n := map[string]uint64{}
	for why, count := range m.byCause {
		n[string(why)] = count.Load()
	}
	return n
}

// collector reads gauges once per scrape.
type collector struct {
	router                                              *Router
	members, partitions, roster, queue, breaker, outbox *prometheus.Desc
	lent, held, returns                                 *prometheus.Desc
}

var _ prometheus.Collector = (*collector)(nil)

func newCollector(r *Router) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bucketring_"+name, help, labels, nil)
	}
	return &collector{
		router:     r,
		members:    desc("ring_members", "Members that serve."),
		partitions: desc("ring_partitions_owned", "Partitions that this node decides for."),
		roster:     desc("ring_roster", "Members that may be deciding: dead ones count until they are forgotten."),
		queue:      desc("forward_queue", "Calls queued for another member.", "peer"),
		breaker:    desc("peer_breaker_open", "1 while calls for the member are decided in fallback because it did not answer.", "peer"),
		outbox:     desc("outbox_entries", "Calls decided here that wait for delivery to their owner."),
		lent:       desc("slices_outstanding", "Slices that this node has lent, and that are neither returned nor over."),
		held:       desc("slices_held", "Slices from which this node answers calls of keys that other members own."),
		returns:    desc("slice_returns_pending", "Slices that ended here, and whose return their owner has not acknowledged."),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.members, c.partitions, c.roster, c.queue, c.breaker, c.outbox, c.lent, c.held, c.returns} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	v := c.router.table.Load()
	gauge(c.members, len(v.members))
	gauge(c.partitions, c.router.owned())
	gauge(c.roster, v.roster)
	gauge(c.outbox, c.router.outbox.Len())
	s := c.router.sliceStatus()
	gauge(c.lent, s.Lent)
	gauge(c.held, s.Held)
	gauge(c.returns, s.PendingReturns)
	for _, m := range v.all() {
		if m.peer == nil {
			continue
		}
		s := m.peer.link.Status()
		open := 0
		if s.BreakerOpen {
			open = 1
		}
		gauge(c.queue, s.Queued, m.Name)
		gauge(c.breaker, open, m.Name)
	}
}
