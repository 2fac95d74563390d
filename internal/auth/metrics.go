// SPDX-License-Identifier: Apache-2.0

package auth

import "github.com/prometheus/client_golang/prometheus"

// collector exports the state of the file.
type collector struct {
	authority                      *Authority
	callers, good, loaded, reloads *prometheus.Desc
}

var _ prometheus.Collector = (*collector)(nil)

func newCollector(a *Authority) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bucketring_auth_"+name, help, labels, nil)
	}
	return &collector{
		authority: a,
		callers:   desc("callers", "Callers of the file of --auth that is in force."),
		good:      desc("last_reload_successful", "1 if the last reload of the callers succeeded, 0 if the file is invalid."),
		loaded:    desc("last_reload_success_timestamp_seconds", "When the callers in force were loaded."),
		reloads:   desc("reloads_total", "Reloads of the changed file of callers, by result.", "result"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.callers, c.good, c.loaded, c.reloads} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	s := c.authority.Status()
	good := 0.0
	if s.LastError == "" {
		good = 1
	}
	ch <- prometheus.MustNewConstMetric(c.callers, prometheus.GaugeValue, float64(s.Callers))
	ch <- prometheus.MustNewConstMetric(c.good, prometheus.GaugeValue, good)
	ch <- prometheus.MustNewConstMetric(c.loaded, prometheus.GaugeValue, float64(s.LoadedAt.UnixMilli())/1e3)
	ch <- prometheus.MustNewConstMetric(c.reloads, prometheus.CounterValue, float64(s.Reloads), "success")
	ch <- prometheus.MustNewConstMetric(c.reloads, prometheus.CounterValue, float64(s.Failures), "failure")
}
