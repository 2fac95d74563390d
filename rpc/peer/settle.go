// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"google.golang.org/grpc/codes"

	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// A reservation that a member made in fallback is settled by that member, in its
// fallback service, and at the owner through its outbox: behind the replay of
// the reserve, which may still wait there.

// checkNewID refuses the id of a new reservation that reads like one made in
// fallback: its settle would go astray.
func checkNewID(item *pb.Item) error {
	call, ok := item.GetCall().(*pb.Item_Reserve)
	if !ok || !reserved(call.Reserve.GetRequestId()) {
		return nil
	}
	return wrongField("request_id", server.Quote(call.Reserve.GetRequestId()),
		"must not begin with "+idPrefix+", as the ids do that are made when an owner is unreachable")
}

// nameDecider finds out whether c ends a reservation that was made in fallback,
// and by whom. From then on c's own item has the id that the owner knows.
func (c *call) nameDecider() {
	asked := reservationOf(c.item)
	member, original := splitID(asked)
	if member == "" {
		return
	}
	c.asked, c.decider = asked, member
	c.item = withReservation(c.item, original)
}

// startAtDecider lets the member decide that made the reservation. It returns
// false if that is this one and it does not know of it: then c goes to the owner.
func (r *Router) startAtDecider(ctx *deadline, c *call) bool {
	if c.decider == r.name {
		c.decider = ""
		return r.settleHere(c)
	}
	m := c.view.member(c.decider)
	if m == nil || m.peer == nil {
		r.fall(c, causeNoOwner)
		return true
	}
	c.to = m
	c.pending = m.peer.link.Start(ctx, withReservation(c.item, c.asked))
	return true
}

// settleHere settles a reservation that this member made in fallback, and tells
// the owner. It returns false if this member does not know of it.
func (r *Router) settleHere(c *call) bool {
	result := r.answerHere(r.fallback, c.item)
	switch code(result) {
	case codes.OK:
		c.result = result
		r.tell(c, false)
	case codes.NotFound:
		return false
	default:
		c.result = result
	}
	return true
}

// settled looks once more at what has become of a settle or a cancel.
func (r *Router) settled(c *call) {
	if reservationOf(c.item) == "" {
		return
	}
	if code(c.result) == codes.NotFound {
		// The caller may have used its own id for a reservation that was made
		// here in fallback, and that the owner was not told of yet.
		r.settleHere(c)
	}
	if s := c.result.GetSettlement(); s != nil && c.asked != "" {
		s.RequestId = c.asked
	}
}

// fallSettle takes a settle or a cancel in place of the owner.
func (r *Router) fallSettle(c *call) {
	if r.settleHere(c) {
		return
	}
	done := &pb.Settlement{RequestId: reservationOf(c.item), Owner: r.name, Route: pb.Route_ROUTE_FALLBACK}
	switch call := c.item.GetCall().(type) {
	case *pb.Item_Cancel:
		done.Status = pb.ReservationStatus_RESERVATION_STATUS_CANCELLED
	case *pb.Item_Settle:
		done.Status = pb.ReservationStatus_RESERVATION_STATUS_SETTLED
		if final := call.Settle.Final; final != nil && !*final {
			done.Status = pb.ReservationStatus_RESERVATION_STATUS_HELD
		}
	}
	c.result = &pb.Result{Result: &pb.Result_Settlement{Settlement: done}}
	r.tell(c, false)
}
