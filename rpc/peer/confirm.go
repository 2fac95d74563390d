// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/replication"
	"github.com/bucketring/bucketring/rpc/server"
)

// confirmTimeout is how long the answers to calls of a stream wait for heirs: those that come
// after them on the stream wait, too. Usually it takes one round trip.
const confirmTimeout = 50 * time.Millisecond

// confirm gives what this member has just decided to the heirs, and waits for them where
// the charges are large. It returns the indexes of the calls that this member may not
// answer: their partitions have another owner now or are about to get one, or this member
// has lost its lease.
//
// A large charge is answered only when the heir has it, so that it survives this member.
// A small one is answered at once, and the heir gets it within 20 ms; while the heir is
// further behind, small charges wait, too. Until the heir has it, it is remembered.
//
// A call of a stream whose change the heir does not get soon is asked again by its sender, with
// the same request id: then it is a repeat, and waits again. Other calls wait until little of
// their time is left, while an heir that is gone is replaced. A slice that was lent with an
// answer which is not sent is taken back.
func (r *Router) confirm(ctx context.Context, calls []call.Call, results *server.Results) (unconfirmed []int) {
	now := r.owners.Clock()
	replicated := r.owners.Waits()
	if replicated {
		list := confirming.Get().(*[]replication.Awaited)
		for i := range calls {
			switch c := results.Change(i); {
			case c.Seq == 0:
			case r.urgent(&calls[i], &c, now):
				*list = append(*list, replication.Awaited{
					Call: i, Partition: calls[i].Partition, Origin: c.Since, Seq: c.Seq, Patient: !calls[i].Origin.Streamed(),
				})
			default:
				r.owners.Changed(calls[i].Partition, false)
			}
		}
		if len(*list) > 0 {
			unconfirmed = r.replicate(ctx, *list)
			now = r.owners.Clock()
		}
		*list = (*list)[:0]
		confirming.Put(list)
	}
	v, waited := r.table.Load(), len(unconfirmed)
	for i := range calls {
		switch c := results.Change(i); {
		case c.Closed || c.Decided && !r.mine(v, calls[i].Partition, now):
			unconfirmed = append(unconfirmed, i)
		case replicated && c.Seq != 0 && ctx.Err() == nil && !slices.Contains(unconfirmed[:waited], i) && !r.remember(&calls[i], &c, now):
			unconfirmed = append(unconfirmed, i)
		}
	}
	slices.Sort(unconfirmed)
	unconfirmed = slices.Compact(unconfirmed)
	r.takeBack(calls, results, unconfirmed)
	return unconfirmed
}

// takeBack ends the slices that were lent with answers which are not sent. Otherwise nobody
// would have them until they are over, and each call that asks meanwhile would get another.
func (r *Router) takeBack(calls []call.Call, results *server.Results, unconfirmed []int) {
	for _, i := range unconfirmed {
		c := &calls[i]
		if id := r.local.TakeBack(results, i, c); id != "" {
			r.lender.returned(c.Partition, c.Key, id, 0)
			r.owners.Changed(c.Partition, false)
		}
	}
}

// confirming has lists of changes that are waited for, for reuse.
var confirming = sync.Pool{New: func() any { return new([]replication.Awaited) }}

// replicate waits until the heirs have changes, of calls that all came on a stream or all did
// not. It returns the calls of which they do not have them in time.
func (r *Router) replicate(ctx context.Context, changes []replication.Awaited) (unconfirmed []int) {
	atMost := confirmTimeout
	if changes[0].Patient {
		atMost = r.timeFor(ctx, time.Now())
	}
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	r.owners.Replicate(ctx, changes)
	for i := range changes {
		if changes[i].Err != nil {
			unconfirmed = append(unconfirmed, changes[i].Call)
		}
	}
	return unconfirmed
}

// urgent reports whether a call with a change is answered only when the heir has it. A
// replay is: who sends it forgets it then.
func (r *Router) urgent(c *call.Call, change *server.Change, now time.Duration) bool {
	return change.Large || c.Replay || r.owners.Lags(c.Partition, now) || r.answered.full(c.Partition)
}

// remember remembers a call that is answered before the heir has its change, so that the
// change can be reported to another owner that lacks it. If it returns false, the call
// cannot be remembered, and must not be answered: when it is asked again it waits.
func (r *Router) remember(c *call.Call, change *server.Change, now time.Duration) bool {
	acknowledged := r.owners.Acknowledged(c.Partition)
	if acknowledged >= change.Seq || c.Kind != call.Check && c.Kind != call.Count {
		return true // others wait
	}
	late, err := r.answered.add(c, change, acknowledged, now)
	if late != nil {
		r.reportLate(c.Partition, late)
	}
	return err == nil
}
