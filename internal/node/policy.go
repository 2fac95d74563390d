// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/limiter/policy/source"
	"github.com/bucketring/bucketring/limiter/policy/source/web"
)

// PolicyTLS returns the files for the TLS of a policy at a URL.
func PolicyTLS(s config.PolicySource) web.TLSFiles {
	return web.TLSFiles{CA: s.CAFile, Cert: s.CertFile, Key: s.KeyFile}
}

// policyHint adds to the error of a policy at a URL what an operator can do.
func policyHint(err error, c *config.Config) error {
	switch {
	case !strings.Contains(c.Policy, "://"):
		return err
	case c.Data == "":
		return fmt.Errorf("%w\nrepair it, or start with the file of a policy; with --data, a node keeps the last good policy, and starts with that while its source is down", err)
	}
	return fmt.Errorf("%w\nrepair it, or start with the file of a policy", err)
}

// Reload reads the policy, the callers, Envoy's rules, the cluster keys and the JWT keys of
// the proxy again, and opens the audit log again. An invalid file changes nothing and is logged;
// the status and the metrics show an invalid policy and invalid rules. It returns what was
// not read, and why.
func (n *Node) Reload() (problems []string) {
	if err := n.policies.Reload(); err != nil {
		n.log.Error("policy not reloaded", "path", n.policies.Name(), "error", err)
		problems = append(problems, "policy not reloaded: "+err.Error())
	}
	if err := n.access.Reload(); err != nil { // which it has logged
		problems = append(problems, "callers not reloaded: "+err.Error())
	}
	if n.proxy != nil {
		if err := n.proxy.Reload(); err != nil {
			n.log.Error("JWT keys not reloaded", "error", err)
			problems = append(problems, "JWT keys not reloaded: "+err.Error())
		}
	}
	if err := n.reloadEnvoy(); err != nil {
		problems = append(problems, "envoy rules not reloaded: "+err.Error())
	}
	switch changed, err := n.keys.reload(n.cluster); {
	case err != nil:
		n.log.Error("cluster keys not reloaded", "path", n.config.ClusterKeyFile, "error", err)
		problems = append(problems, "cluster keys not reloaded: "+err.Error())
	case changed:
		n.log.Info("cluster keys changed", "path", n.config.ClusterKeyFile, "fingerprints", fmt.Sprint(n.cluster.KeyIDs()))
	}
	if err := n.audit.Reopen(); err != nil {
		n.log.Error("audit log not opened again", "error", err)
		problems = append(problems, "audit log not opened again: "+err.Error())
	}
	return problems
}

// policyCollector exports the policy in force and the state of its reloads.
type policyCollector struct {
	status                      func() source.Status
	info, good, loaded, reloads *prometheus.Desc
	stale                       *prometheus.Desc
}

var _ prometheus.Collector = (*policyCollector)(nil)

func newPolicyCollector(status func() source.Status) *policyCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bucketring_policy_"+name, help, labels, nil)
	}
	return &policyCollector{
		status:  status,
		info:    desc("info", "Always 1; the labels identify the policy in force.", "digest", "version"),
		good:    desc("last_reload_successful", "1 if the last reload of the policy succeeded, 0 if the policy is invalid or its source is down."),
		loaded:  desc("last_reload_success_timestamp_seconds", "When the policy in force was loaded."),
		reloads: desc("reloads_total", "Reloads of a changed policy, by result.", "result"),
		stale:   desc("stale_seconds", "Time since the URL or the database with the policy was found down or invalid; 0 while it is not, and for files."),
	}
}

// Describe implements prometheus.Collector.
func (c *policyCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.info, c.good, c.loaded, c.reloads, c.stale} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *policyCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.status()
	ch <- prometheus.MustNewConstMetric(c.info, prometheus.GaugeValue, 1, s.Digest, s.Version)
	ch <- prometheus.MustNewConstMetric(c.good, prometheus.GaugeValue, boolGauge(s.LastError == ""))
	ch <- prometheus.MustNewConstMetric(c.loaded, prometheus.GaugeValue, float64(s.LoadedAt.UnixMilli())/1e3)
	ch <- prometheus.MustNewConstMetric(c.reloads, prometheus.CounterValue, float64(s.Reloads), "success")
	ch <- prometheus.MustNewConstMetric(c.reloads, prometheus.CounterValue, float64(s.Failures), "failure")
	stale := 0.0
	if !s.StaleSince.IsZero() {
		stale = time.Since(s.StaleSince).Seconds()
	}
	ch <- prometheus.MustNewConstMetric(c.stale, prometheus.GaugeValue, stale)
}
