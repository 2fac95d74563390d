// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"slices"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/server"
)

// confirmTimeout is how long the answers to a batch wait for heirs. Usually it takes one
// round trip.
const confirmTimeout = 50 * time.Millisecond

// confirm gives what this member has just decided to the heirs, and waits for them where
// the charges are large. It returns the indexes of the calls that this member may not
// answer: their partitions have another owner now or are about to get one, or this member
// has lost its lease.
//
// A large charge is answered only when the heir has it, so that it survives this member.
// A small one is answered at once, and the heir gets it within 20 ms; while the heir is
// further behind, small charges wait, too.
//
// A call whose change the heir does not get in time is asked again, by this member or by
// the one that sent it, with the same request id: then it is a repeat, and waits again.
func (r *Router) confirm(ctx context.Context, calls []call.Call, results *server.Results) (unconfirmed []int) {
	now := r.owners.Clock()
	wait := false
	if r.owners.Waits() {
		for i := range calls {
			if c := results.Change(i); c.Seq != 0 {
				p := calls[i].Partition
				urgent := c.Large || r.owners.Lags(p, now)
				r.owners.Changed(p, urgent)
				wait = wait || urgent
			}
		}
	}
	if wait {
		limited, cancel := context.WithTimeout(ctx, confirmTimeout)
		defer cancel()
		for i := range calls {
			c, p := results.Change(i), calls[i].Partition
			if c.Seq == 0 || !c.Large && !r.owners.Lags(p, now) {
				continue
			}
			if err := r.owners.WaitSince(limited, p, c.Since, c.Seq); err != nil {
				unconfirmed = append(unconfirmed, i)
				if ctx.Err() != nil {
					break // nobody waits any more
				}
			}
		}
		now = r.owners.Clock()
	}
	v := r.table.Load()
	for i := range calls {
		if c := results.Change(i); c.Closed || c.Decided && !r.mine(v, calls[i].Partition, now) {
			unconfirmed = append(unconfirmed, i)
		}
	}
	slices.Sort(unconfirmed)
	return slices.Compact(unconfirmed)
}
