// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/limiter"
)

// otherModels labels what models used that are not in the price list.
const otherModels = "other"

// usageCollector turns what calls were charged into metrics, once per scrape. The labels are
// tiers and entries of the price list, so callers cannot add any.
type usageCollector struct {
	usage func() []limiter.UsageTotal

	tokens, dollars, refundedTokens, refundedDollars *prometheus.Desc
}

var _ prometheus.Collector = (*usageCollector)(nil)

func newUsageCollector(usage func() []limiter.UsageTotal) *usageCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("bucketring_"+name, help, labels, nil)
	}
	return &usageCollector{
		usage:           usage,
		tokens:          desc("charged_tokens_total", "Tokens that calls were charged, at the owner of their key, once for each call: a check when it is admitted, a reservation when it is settled or its lease expires. By tier, entry of the price list (else \"other\") and kind: input, cached_input, output.", "tier", "model", "kind"),
		dollars:         desc("charged_dollars_total", "Dollars that calls were charged by the prices of the policy, at the owner of their key, once for each call.", "tier", "model"),
		refundedTokens:  desc("refunded_tokens_total", "The part of bucketring_charged_tokens_total that was given back later: by a settle after the lease had expired, or because the answer did not reach the caller.", "tier", "model", "kind"),
		refundedDollars: desc("refunded_dollars_total", "The part of bucketring_charged_dollars_total that was given back later.", "tier", "model"),
	}
}

// Describe implements prometheus.Collector.
func (c *usageCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.tokens, c.dollars, c.refundedTokens, c.refundedDollars} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *usageCollector) Collect(ch chan<- prometheus.Metric) {
	for _, total := range c.usage() {
		labels := []string{total.Tier, cmp.Or(total.Model, otherModels)}
		collectUsed(ch, c.tokens, c.dollars, &total.Charged, labels)
		collectUsed(ch, c.refundedTokens, c.refundedDollars, &total.Refunded, labels)
	}
}

func collectUsed(ch chan<- prometheus.Metric, tokens, dollars *prometheus.Desc, u *limiter.Used, labels []string) {
	for _, kind := range []struct {
		name  string
		count int64
	}{{"input", u.Input - u.Cached}, {"cached_input", u.Cached}, {"output", u.Output}} {
		ch <- prometheus.MustNewConstMetric(tokens, prometheus.CounterValue, float64(kind.count), labels[0], labels[1], kind.name)
	}
	ch <- prometheus.MustNewConstMetric(dollars, prometheus.CounterValue, float64(u.Spend)/1e6, labels...)
}
