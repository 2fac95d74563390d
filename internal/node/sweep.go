// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"time"

	"github.com/bucketring/bucketring/rpc/server"
)

const (
	// minSweepInterval is the time between two steps of a node with many keys or with little
	// room for more, and maxSweepInterval that of a node with few: an empty one passes all
	// partitions in 3.2 s.
	minSweepInterval = 10 * time.Millisecond
	maxSweepInterval = 200 * time.Millisecond
	minSweepKeys     = 256
	// sweepTime is how long a full pass over many keys takes.
	sweepTime = 10 * time.Second
	// recountEvery is the time between two counts of the keys.
	recountEvery = 5 * time.Second
)

// sweepStep returns the time between two steps of the sweep for a number of keys, and how
// many keys a step visits, so that a pass takes sweepTime at most.
func sweepStep(keys int) (interval time.Duration, visited int) {
	interval = maxSweepInterval
	if keys > 0 {
		interval = min(max(minSweepKeys*sweepTime/time.Duration(keys), minSweepInterval), maxSweepInterval)
	}
	return interval, max(minSweepKeys, int(time.Duration(keys)*interval/sweepTime))
}

// sweep expires leases and evicts full buckets until ctx is done, in steps that
// are short enough not to delay calls.
func (n *Node) sweep(ctx context.Context) error {
	interval, keys := sweepStep(0)
	timer := time.NewTimer(interval)
	defer timer.Stop()
	recount := time.Now().Add(recountEvery)
	sample := time.Now() // of the traffic
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		if now := time.Now(); !now.Before(recount) {
			recount = now.Add(recountEvery)
			stats := n.engine.Stats()
			interval, keys = sweepStep(stats.Keys)
		}
		if now := time.Now(); !now.Before(sample) {
			sample = now.Add(server.TrafficInterval)
			n.router.SampleTraffic()
		}
		now := n.now()
		n.engine.Sweep(now, keys)
		n.fallbackEngine.Sweep(now, minSweepKeys)
		if n.engine.Crowded() || n.fallbackEngine.Crowded() {
			timer.Reset(minSweepInterval)
		} else {
			timer.Reset(interval)
		}
	}
}
