// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"time"
)

const (
	sweepInterval = 10 * time.Millisecond
	minSweepKeys  = 256
	// sweepFraction of all keys are visited per step, so that a full pass takes 10 s.
	sweepFraction = 1000
	recountSteps  = 100 // steps between two counts of the keys
)

// sweep expires leases and evicts full buckets until ctx is done, in steps that
// are short enough not to delay calls.
func (n *Node) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	keys := minSweepKeys
	for step := 1; ; step++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if step%recountSteps == 0 {
			keys = max(minSweepKeys, n.engine.Stats().Keys/sweepFraction)
		}
		now := n.now()
		n.engine.Sweep(now, keys)
		n.fallbackEngine.Sweep(now, minSweepKeys)
	}
}
