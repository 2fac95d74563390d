// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"time"
)

const (
	sweepEvery = 10 * time.Millisecond
	sweepMin   = 256
	// sweepShare of the keys are visited at a time, so that all are within 10 s.
	sweepShare = 1000
	recount    = 100 // steps between looking at how many keys there are
)

// sweep ends leases that ran out and drops what is full again, in steps that
// are too small to be felt.
func (n *Node) sweep(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	visit := sweepMin
	for step := 1; ; step++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if step%recount == 0 {
			visit = max(sweepMin, n.engine.Stats().Keys/sweepShare)
		}
		now := n.now()
		n.engine.Sweep(now, visit)
		n.standIn.Sweep(now, sweepMin)
	}
}
