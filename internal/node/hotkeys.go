// SPDX-License-Identifier: Apache-2.0

package node

import (
	"cmp"
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/httpapi/statuspage"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// statusHotKeys is how many hot keys a status lists.
	statusHotKeys = 10
	// hotRate is the rate from which on metrics count a key as hot, in calls per second.
	hotRate = 1000
	// maxHotKeys bounds the number of hot keys in metrics.
	maxHotKeys = 100
)

// ownHotKeys returns the keys for which this node decides most often, and what waits at it.
func (n *Node) ownHotKeys() *pb.HotKeysResponse {
	keys, rate := n.router.OwnHotKeys(statusHotKeys)
	return &pb.HotKeysResponse{Keys: keys, Members: []*pb.MemberRate{rate}, Waiting: n.router.OwnWaitingLimits()}
}

// pageHotKeys returns those of the whole cluster for the status page. It waits for at most
// half a second for members that do not answer.
func (n *Node) pageHotKeys() (statuspage.HotKeys, statuspage.Waiting, statuspage.Traffic) {
	found, err := n.router.HotKeys(context.Background(), &pb.HotKeysRequest{Limit: statusHotKeys})
	if err != nil { // the request is valid and has no deadline
		return statuspage.HotKeys{}, statuspage.Waiting{}, statuspage.Traffic{}
	}
	all := httpapi.HotKeysOf(found)
	page := statuspage.HotKeys{Rate: all.Rate, Unreachable: all.Unreachable}
	for i := range all.Keys {
		k := &all.Keys[i]
		shown := statuspage.HotKey{Key: k.Key, Owner: k.Owner, Rate: k.Rate, RateError: k.RateError, SliceRate: k.SliceRate, Share: k.Share}
		if l := found.GetKeys()[i].GetLimit(); l != nil {
			shown.Limit, shown.Scope, shown.Shadow = l.GetName(), l.GetScope(), l.GetShadow()
			shown.Left = amount.Group(l.GetRemaining()) + " of " + amount.Group(l.GetCapacity())
		}
		for _, a := range k.Askers {
			shown.Askers = append(shown.Askers, statuspage.Asker{Name: cmp.Or(a.Member, a.Client), Rate: a.Rate})
		}
		for _, h := range k.Holders {
			shown.Holders = append(shown.Holders, statuspage.Holder{Name: cmp.Or(h.Member, h.Client), Slices: int(h.Slices)})
		}
		page.Keys = append(page.Keys, shown)
	}
	return page, pageWaiting(all.Waiting), pageTraffic(found)
}

func pageWaiting(w *httpapi.Waiting) statuspage.Waiting {
	page := statuspage.Waiting{WaitingCalls: statuspage.WaitingCalls(w.WaitingCalls)}
	for _, l := range w.Limits {
		page.Limits = append(page.Limits, statuspage.WaitingLimit{
			Limit: l.Name, Scope: l.Scope, Model: l.Model, Owner: l.Owner,
			WaitingCalls: statuspage.WaitingCalls(l.WaitingCalls), Longest: time.Duration(l.LongestMillis) * time.Millisecond,
		})
	}
	return page
}

// hotKeysCollector reads the rates of hot keys once per scrape. Keys are not labels: anyone
// who may read metrics would learn them, and there are too many.
type hotKeysCollector struct {
	node         *Node
	hottest, hot *prometheus.Desc
}

var _ prometheus.Collector = (*hotKeysCollector)(nil)

func newHotKeysCollector(n *Node) *hotKeysCollector {
	return &hotKeysCollector{
		node:    n,
		hottest: prometheus.NewDesc("bucketring_hottest_key_rate", "Checks and reserves per second of the busiest key of this node, with those that are decided from slices.", nil, nil),
		hot:     prometheus.NewDesc("bucketring_hot_keys", "Keys of this node with at least 1,000 checks and reserves per second, with those that are decided from slices, up to 100.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *hotKeysCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.hottest
	ch <- c.hot
}

// Collect implements prometheus.Collector.
func (c *hotKeysCollector) Collect(ch chan<- prometheus.Metric) {
	keys, _ := c.node.router.OwnHotKeys(maxHotKeys)
	hottest, hot := 0.0, 0
	for i, k := range keys {
		if i == 0 {
			hottest = k.GetRate()
		}
		if k.GetRate() >= hotRate {
			hot++
		}
	}
	ch <- prometheus.MustNewConstMetric(c.hottest, prometheus.GaugeValue, hottest)
	ch <- prometheus.MustNewConstMetric(c.hot, prometheus.GaugeValue, float64(hot))
}
