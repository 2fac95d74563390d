// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/server"
)

const (
	// minSweepInterval is the time between two steps of a node with many keys or with little
	// room for more, and maxSweepInterval that of a node with few.
	minSweepInterval = 10 * time.Millisecond
	maxSweepInterval = 200 * time.Millisecond
	// sweepKeys is how many keys a step visits at least if there are as many, and if the
	// interval can be longer for it.
	sweepKeys = 256
	// sweepTime is how long a pass over all partitions and their keys takes at most.
	sweepTime = 10 * time.Second
	// recountEvery is the time between two counts of the keys.
	recountEvery = 5 * time.Second
)

// sweepInterval returns the time between two steps of the sweep for a number of keys.
func sweepInterval(keys int) time.Duration {
	return min(max(sweepKeys*sweepTime/time.Duration(max(keys, 1)), minSweepInterval), maxSweepInterval)
}

// sweepVisits returns how many keys and partitions a step visits, so that a pass takes
// sweepTime at most.
func sweepVisits(keys int, interval time.Duration) int {
	return int(time.Duration(keys+limiter.Partitions)*interval/sweepTime) + 1
}

// sweep expires leases and evicts full buckets until ctx is done, in steps that
// are short enough not to delay calls.
func (n *Node) sweep(ctx context.Context) error {
	interval, keys, fallbackKeys := sweepInterval(0), 0, 0
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
			keys, fallbackKeys = n.engine.Stats().Keys, n.fallbackEngine.Stats().Keys
			interval = sweepInterval(max(keys, fallbackKeys))
		}
		if now := time.Now(); !now.Before(sample) {
			sample = now.Add(server.TrafficInterval)
			n.router.SampleTraffic()
		}
		now := n.now()
		n.engine.Sweep(now, sweepVisits(keys, interval))
		n.fallbackEngine.Sweep(now, sweepVisits(fallbackKeys, interval))
		if n.engine.Crowded() || n.fallbackEngine.Crowded() {
			timer.Reset(minSweepInterval)
		} else {
			timer.Reset(interval)
		}
	}
}
