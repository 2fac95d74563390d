// SPDX-License-Identifier: Apache-2.0

package node

import (
	"github.com/bucketring/bucketring/internal/usagelog"
	"github.com/bucketring/bucketring/limiter"
)

// openUsageLog opens the usage log, if there is one, and returns what the engine tells it.
func (n *Node) openUsageLog() (limiter.Ledger, error) {
	metrics := usagelog.NewMetrics(n.registry)
	if n.config.UsageLog == "" {
		return nil, nil
	}
	l, err := usagelog.Open(usagelog.Options{
		Path: n.config.UsageLog, Node: n.config.Name, MaxSize: int64(n.config.UsageLogSize), Keep: n.config.UsageLogKeep,
		Metrics: metrics, Logger: n.log,
	})
	if err != nil {
		return nil, err
	}
	n.cleanups.push("write the usage log", l.Close)
	n.usage = l
	return l, nil
}

// usageStatus returns the status of the usage log, or nil without one.
func (n *Node) usageStatus() *usagelog.Status {
	if n.usage == nil {
		return nil
	}
	s := n.usage.Status()
	return &s
}
