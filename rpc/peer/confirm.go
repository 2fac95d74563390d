// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/server"
)

// confirm gives what this member has just decided to the heirs, and waits for them
// where the charges are large. It returns the indexes of the calls that this member may
// not answer: their partitions have another owner now, are about to get one, or this
// member has lost its lease.
//
// A large charge is answered only when the heir has it, so that it survives this
// member. A small one is answered at once, and the heir has it 20 ms later; if the heir
// is further behind, small charges wait, too.
func (r *Router) confirm(ctx context.Context, calls []call.Call, results *server.Results) (unconfirmed []int) {
	waits := r.owners.Waits()
	waiting := false
	now := r.owners.Now()
	for i := range calls {
		change, decided := results.Change(i)
		if !decided || change.Seq == 0 || !waits {
			continue
		}
		p := calls[i].Partition
		wait := change.Large || r.owners.Lags(p, now)
		waiting = waiting || wait
		r.owners.Changed(p, change.Seq, wait)
	}
	if waiting {
		for i := range calls {
			change, decided := results.Change(i)
			if p := calls[i].Partition; decided && change.Seq != 0 && (change.Large || r.owners.Lags(p, now)) {
				if err := r.owners.Durable(ctx, p, change.Seq); err != nil && !errors.Is(err, ErrNotOwner) {
					results.SetError(i, err) // the caller has gone
				}
			}
		}
		now = r.owners.Now()
	}
	v := r.table.Load()
	for i := range calls {
		_, decided := results.Change(i)
		if closed := errors.Is(results.Err(i), limiter.ErrClosed); closed || decided && !r.mine(v, calls[i].Partition, now) {
			unconfirmed = append(unconfirmed, i)
		}
	}
	return unconfirmed
}
