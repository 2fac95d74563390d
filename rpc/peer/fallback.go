// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// cause is why a call was decided in fallback.
type cause string

const (
	causeBroken   cause = "broken"     // the connection
	causeBreaker  cause = "breaker"    // the circuit breaker is open: earlier calls were not answered
	causeFull     cause = "queue_full" // of calls for the owner
	causeLate     cause = "late"       // no answer in time
	causeRedirect cause = "redirect"   // no member says that it is the owner
	causeNoOwner  cause = "no_owner"   // the member that made the reservation is not known
	causeNoLease  cause = "no_lease"   // this member is the owner, and has no lease of its heir
)

var causes = [...]cause{causeBroken, causeBreaker, causeFull, causeLate, causeRedirect, causeNoOwner, causeNoLease}

// causeOf returns the cause for an error of a link; false if the caller cancelled the
// call.
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

// fallBack decides a call without its owner, and reports to the owner what it admits.
func (r *Router) fallBack(f *forward, why cause) {
	if r.spendSlice(f) {
		return
	}
	f.fellBack = true
	if f.Origin == call.Outbox || f.Kind == call.SliceReturn { // for the owner alone; it is sent again
		f.result = unavailable("the owner cannot be reached: " + string(why))
		return
	}
	if f.Kind == call.Admin { // only the owner knows the state of the key
		f.result = unavailable("the owner of the key cannot be reached (" + string(why) + "): it is not known whether a change was made; send it again with the same request_id")
		return
	}
	r.metrics.fellBack(why, f.Kind)
	switch f.Kind {
	case call.Settle, call.Cancel:
		f.result = r.endWithoutOwner(f.Call)
	case call.Peek:
		f.result = decideAt(r.fallback, f.Call)
	case call.Count:
		f.result = r.countInFallback(f.Call)
	default:
		r.decideInFallback(f)
	}
}

// decideInFallback decides a check or a reserve. What is admitted is a charge that
// is replayed at the owner. A repeated id is replayed again: the first replay may
// not have been enqueued, and the owner knows ids.
func (r *Router) decideInFallback(f *forward) {
	f.result = decideAt(r.fallback, f.Call)
	d := f.result.GetDecision()
	if d == nil || d.Outcome == pb.Outcome_OUTCOME_DENIED {
		return
	}
	replay := f.Copy()
	replay.Replay = true
	replay.Attempt = f.Attempt // a caller that does not get the answer withdraws it
	if rejected := r.enqueue(replay); rejected != nil {
		f.result = rejected
		return
	}
	if f.Kind == call.Reserve {
		d.RequestId = requestid.Fallback(r.name, d.RequestId)
	}
}

// endWithoutOwner accepts a settle or a cancel in place of the owner. If this member
// did not make the reservation, only the owner knows it: the answer says what the owner
// will do once the outbox has delivered the call.
func (r *Router) endWithoutOwner(c *call.Call) *pb.Result {
	if result, known := r.endInFallback(c); known {
		return result
	}
	status := pb.ReservationStatus_RESERVATION_STATUS_CANCELLED
	if q := c.Settle(); q != nil {
		status = pb.ReservationStatus_RESERVATION_STATUS_SETTLED
		if q.Final != nil && !*q.Final {
			status = pb.ReservationStatus_RESERVATION_STATUS_HELD
		}
	}
	if rejected := r.enqueue(c.Copy()); rejected != nil {
		return rejected
	}
	return &pb.Result{Result: &pb.Result_Settlement{Settlement: &pb.Settlement{
		RequestId: c.CallerID(), Status: status, Owner: r.name, Route: pb.Route_ROUTE_FALLBACK,
	}}}
}

// enqueue gives a call to the outbox, which keeps the item until the owner has it. If
// the outbox is full it returns the result of the call, which counts as not decided.
func (r *Router) enqueue(item *pb.Item) (rejected *pb.Result) {
	if err := r.outbox.Put(item); err != nil {
		return unavailable("the owner of the key cannot be reached, and the call cannot be sent to it later: " + err.Error())
	}
	return nil
}

// withdraw takes the attempt of a check or a reserve back at the owner. If the outbox is full,
// a reservation that is held there ends with its lease, and the charge of a check stays.
func (r *Router) withdraw(c *call.Call) {
	if c.Attempt != 0 { // else it would cancel the call, whoever made it
		_ = r.outbox.Put(c.Withdrawal())
	}
}

// deliver sends an item of the outbox to its owner. Its error has a gRPC status.
func (r *Router) deliver(ctx context.Context, item *pb.Item) error {
	results := r.Do(ctx, []call.Call{call.FromItem(item, call.Outbox)})
	defer results.Release()
	result := results.Get(0)
	if item.GetReplay() && isWithdrawn(result) {
		return nil
	}
	return server.ErrorOf(result)
}

// isWithdrawn reports whether the attempt of a call was withdrawn before the owner got it. A replay is
// done then: nobody has its answer. Sent again after the owner has forgotten the withdrawal, it
// would be charged.
func isWithdrawn(result *pb.Result) bool { return code(result) == codes.Aborted }

// ownerOfItem returns the member to which the outbox would deliver a call now.
func (r *Router) ownerOfItem(item *pb.Item) string {
	c := call.FromItem(item, call.Outbox)
	return r.owners.Place(c.Partition).Owner.Name
}
