// SPDX-License-Identifier: Apache-2.0

package server

import (
	"maps"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/limiter"
)

// statsCollector turns the engine's counters into metrics. It reads them once
// per scrape, so that the metrics of a scrape agree.
type statsCollector struct {
	stats func() limiter.Stats

	keys, reservations, ids             *prometheus.Desc
	expired, forgotten, evicted, denied *prometheus.Desc
	idsFull, overrun, budget, largest   *prometheus.Desc
	kept                                *prometheus.Desc
}

var _ prometheus.Collector = (*statsCollector)(nil)

func newStatsCollector(stats func() limiter.Stats) *statsCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bucketring_"+name, help, labels, nil)
	}
	return &statsCollector{
		stats:        stats,
		keys:         desc("keys", "Keys with state in memory."),
		reservations: desc("reservations", "Live reservations."),
		ids:          desc("remembered_ids", "Request ids that are remembered, live reservations included."),
		expired:      desc("leases_expired_total", "Reservations whose lease ran out."),
		forgotten:    desc("ids_forgotten_total", "Request ids forgotten before their time, for want of room."),
		evicted:      desc("evictions_total", "Keys whose state was dropped, for want of room.", "reason"),
		denied:       desc("table_full_total", "Calls denied because there was no room for a new key."),
		idsFull:      desc("ids_full_total", "Reserves denied because live reservations filled the share of request ids of their root."),
		budget:       desc("evicted_budget_total", "Use of budgets that was dropped with keys in last resort: less than 1 % of each. At most that much is admitted beyond them.", "dimension"),
		largest:      desc("largest_root_keys", "Keys with state in memory of the root that has the most."),
		kept:         desc("kept_reservations_total", "Reservations from slices for reserves that were open when these were returned: made here then (kept), made here before (known), or charged for good for want of room for their id (charged).", "result"),
		overrun:      desc("overrun_total", "Use beyond a reservation and beyond the debt that a bucket may carry: served and not charged.", "dimension"),
	}
}

// Describe implements prometheus.Collector.
func (c *statsCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.keys, c.reservations, c.ids, c.expired, c.forgotten, c.evicted, c.denied, c.idsFull, c.overrun, c.budget, c.largest, c.kept} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *statsCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	counter := func(d *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	s := c.stats()
	gauge(c.keys, s.Keys)
	gauge(c.largest, s.LargestRoot)
	gauge(c.reservations, s.Reservations)
	gauge(c.ids, s.IDs)
	counter(c.expired, s.Expired)
	counter(c.forgotten, s.Forgotten)
	counter(c.denied, s.TableFull)
	counter(c.idsFull, s.IDsFull)
	counter(c.kept, s.Kept, "kept")
	counter(c.kept, s.KeptKnown, "known")
	counter(c.kept, s.KeptCharged, "charged")
	for reason, n := range s.Evicted {
		counter(c.evicted, n, limiter.EvictionReason(reason).String())
	}
	budgets := map[limiter.Dimension]int64{limiter.Requests: 0, limiter.Tokens: 0, limiter.Spend: 0}
	maps.Copy(budgets, s.BudgetEvicted)
	for dimension, n := range budgets {
		counter(c.budget, n, string(dimension))
	}
	for dimension, n := range s.Overrun {
		counter(c.overrun, n, string(dimension))
	}
}
