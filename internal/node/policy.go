// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/limiter/policy/source"
)

// Reload reads the policy, Envoy's rules and the cluster keys again now. A bad policy changes
// nothing; it is logged and seen in the status and the metrics. So it is with a
// bad key file, also that of the proxy.
func (n *Node) Reload() {
	if err := n.policies.Reload(); err != nil {
		n.log.Error("policy not reloaded", "path", n.config.Policy, "error", err)
	}
	if n.proxy != nil {
		if err := n.proxy.Reload(); err != nil {
			n.log.Error("keys of tokens not reloaded", "error", err)
		}
	}
	n.reloadEnvoy()
	switch changed, err := n.keys.reload(n.cluster); {
	case err != nil:
		n.log.Error("cluster keys not reloaded", "path", n.config.ClusterKeyFile, "error", err)
	case changed:
		n.log.Info("cluster keys changed", "path", n.config.ClusterKeyFile, "fingerprints", fmt.Sprint(n.cluster.KeyIDs()))
	}
}

// policyCollector shows which policy is in force and how reloading it goes.
type policyCollector struct {
	status                      func() source.Status
	info, good, loaded, reloads *prometheus.Desc
}

var _ prometheus.Collector = (*policyCollector)(nil)

func newPolicyCollector(status func() source.Status) *policyCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bucketring_policy_"+name, help, labels, nil)
	}
	return &policyCollector{
		status:  status,
		info:    desc("info", "1; the labels say which policy is in force.", "digest", "version"),
		good:    desc("last_reload_successful", "1 if the policy files are as they are in force, 0 if they cannot be used."),
		loaded:  desc("last_reload_success_timestamp_seconds", "When the policy in force was loaded."),
		reloads: desc("reloads_total", "Attempts to load a changed policy.", "result"),
	}
}

// Describe implements prometheus.Collector.
func (c *policyCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.info, c.good, c.loaded, c.reloads} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *policyCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.status()
	good := 0.0
	if s.LastError == "" {
		good = 1
	}
	ch <- prometheus.MustNewConstMetric(c.info, prometheus.GaugeValue, 1, s.Digest, s.Version)
	ch <- prometheus.MustNewConstMetric(c.good, prometheus.GaugeValue, good)
	ch <- prometheus.MustNewConstMetric(c.loaded, prometheus.GaugeValue, float64(s.LoadedAt.UnixMilli())/1e3)
	ch <- prometheus.MustNewConstMetric(c.reloads, prometheus.CounterValue, float64(s.Reloads), "success")
	ch <- prometheus.MustNewConstMetric(c.reloads, prometheus.CounterValue, float64(s.Failures), "failure")
}
