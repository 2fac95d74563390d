// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"

	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

// cause is why a call was decided without its owner.
type cause string

const (
	causeBroken   cause = "broken"     // the connection
	causeBreaker  cause = "breaker"    // is open: the owner did not answer others
	causeFull     cause = "queue_full" // of calls for the owner
	causeLate     cause = "late"       // no answer in time
	causeRedirect cause = "redirect"   // two members say that they are not the owner
	causeNoOwner  cause = "no_owner"   // nobody serves, or nobody that is known
)

var causes = [...]cause{causeBroken, causeBreaker, causeFull, causeLate, causeRedirect, causeNoOwner}

// causeOf says which cause the error of a link is; false if it is that of a
// caller who has gone.
func causeOf(err error) (cause, bool) {
	switch {
	case errors.Is(err, link.ErrBroken), errors.Is(err, link.ErrClosed), errors.Is(err, link.ErrAnswer):
		return causeBroken, true
	case errors.Is(err, link.ErrBreakerOpen):
		return causeBreaker, true
	case errors.Is(err, link.ErrQueueFull):
		return causeFull, true
	case errors.Is(err, link.ErrTimeout):
		return causeLate, true
	}
	return "", false
}

// fall decides a call without its owner.
func (r *Router) fall(c *call, why cause) {
	if c.telling {
		c.result = unavailable("the owner cannot be told: " + string(why))
		return
	}
	r.metrics.fell(why, c.item)
	switch c.item.GetCall().(type) {
	case *pb.Item_Settle, *pb.Item_Cancel:
		r.fallSettle(c)
	case *pb.Item_Peek:
		c.result = r.answerHere(r.fallback, c.item)
	case *pb.Item_Count:
		r.fallCount(c)
	default:
		r.fallDecision(c)
	}
}

// fallDecision decides a check or a reserve. What is admitted is a charge that
// the owner is told of. A repeated id is told again: it may not have been told
// the first time, and the owner knows ids. What is denied may be held by an owner
// that was asked and did not answer in time: there it is taken back.
func (r *Router) fallDecision(c *call) {
	c.result = r.answerHere(r.fallback, c.item)
	d := c.result.GetDecision()
	if d == nil || d.Outcome == pb.Outcome_OUTCOME_DENIED {
		r.withdraw(c)
		return
	}
	if !r.tell(c, true) {
		return
	}
	if _, ok := c.item.GetCall().(*pb.Item_Reserve); ok {
		d.RequestId = fallbackID(r.name, d.RequestId)
	}
}

// deliver tells an owner, for the outbox. Its error has a status.
func (r *Router) deliver(ctx context.Context, item *pb.Item) error {
	c := &call{
		item:      &pb.Item{Call: item.Call, Replay: item.Replay, Attempt: item.Attempt},
		partition: ring.PartitionOf(keyOf(item)),
		telling:   true,
	}
	limited := r.limit(ctx)
	r.start(limited, r.view.Load(), c)
	r.finish(limited, c)
	return errorOf(c.result)
}

// ownerOf names who would be told of a call now, for the outbox.
func (r *Router) ownerOf(item *pb.Item) string {
	v, p := r.view.Load(), ring.PartitionOf(keyOf(item))
	if v.mine(p) {
		return r.name
	}
	if m := v.owner(p); m != nil {
		return m.Name
	}
	return ""
}

// tell leaves a call to the outbox, which tells the owner. If there is no room,
// the call has an error instead of the answer that it had, and tell returns
// false: what the owner will never hear of was not decided.
func (r *Router) tell(c *call, replay bool) bool {
	if err := r.outbox.Put(kept(c.item, replay)); err != nil {
		c.result = unavailable("the owner of the key cannot be reached, and it cannot be told later: " + err.Error())
		return false
	}
	return true
}

// withdraw takes a reserve back at an owner that may have decided it and could
// not say so. If the outbox has no room, a reservation that is held there ends
// with its lease.
func (r *Router) withdraw(c *call) {
	if !c.unheard {
		return
	}
	if back, ok := withdrawal(c.item); ok {
		_ = r.outbox.Put(back)
	}
}
