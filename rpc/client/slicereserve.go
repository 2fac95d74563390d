// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// reserveFromSlice makes a reservation from a slice. It returns nil if none is held that
// covers e. renews says that it may leave the call to the owner, to renew the slice, and that
// no node was asked yet. Otherwise the reservation gets another id than e has: under that one
// an owner may have made a reservation, which is withdrawn.
func (c *Client) reserveFromSlice(e *Estimate, renews bool) *Reservation {
	if c.slices == nil || !c.slices.Holds() {
		return nil
	}
	began, id := time.Now(), e.RequestID
	if !renews || id == "" {
		id = newID()
	}
	var q pb.ReserveRequest
	e.fill(&q)
	q.RequestId = ""
	var a slices.Answer
	if !c.slices.Reserve(&q, id, &a, renews) {
		return nil
	}
	r := c.newReservation(e, answerFrom(&a.Limits, id), a.Granted)
	r.estimate.id = id
	r.renewed(began)
	return r
}

// settleFromSlice settles a reservation that was made from a slice which lasts. Otherwise done
// is false, and a node is to be asked; the owner has the reservation then, if it was made from
// a slice.
func (c *Client) settleFromSlice(ctx context.Context, q *pb.SettleRequest) (s Settlement, done bool, err error) {
	if c.slices == nil || ctx.Err() != nil {
		return s, false, nil
	}
	var a slices.Settlement
	done, returned, err := c.slices.Settle(q, q.GetRequestId(), &a)
	if !done || err != nil {
		return s, false, c.awaitReturn(ctx, returned, err)
	}
	l := a.View.(*lent)
	return Settlement{
		RequestID: q.GetRequestId(), Status: Settled, Tier: l.decision.Tier, Limits: l.limits(&a.Limits),
		PolicyVersion: l.decision.PolicyVersion, Owner: l.decision.Owner, Route: Slice,
	}, true, nil
}

// settleAtOnce settles the reservation if it was made from a slice which lasts. It does not
// wait.
func (r *Reservation) settleAtOnce(q *pb.SettleRequest) bool {
	if r.client.slices == nil {
		return false
	}
	var a slices.Settlement
	done, _, _ := r.client.slices.Settle(q, q.GetRequestId(), &a) // an error is reported when the call is delivered
	if done {
		r.leased.Store(leaseOver)
	}
	return done
}

// cancelFromSlice is like settleFromSlice for a cancel.
func (c *Client) cancelFromSlice(ctx context.Context, key, id string) (done bool, err error) {
	if c.slices == nil || ctx.Err() != nil {
		return false, nil
	}
	var a slices.Settlement
	done, returned, err := c.slices.Cancel(key, id, &a)
	if !done || err != nil {
		return false, c.awaitReturn(ctx, returned, err)
	}
	return true, nil
}

// errNotReturned is the error of a call for a reservation from a slice that has ended, if the
// owner may not have the return yet. The owner would not know the reservation.
var errNotReturned = &statusError{ErrUnreachable, status.Error(codes.Unavailable, "the return of the slice of this reservation is not acknowledged yet: try again")}

// awaitReturn waits until the owner has a reservation that was made from a slice, or the return
// of that is lost, for as long as the call may take. If it returns nil, the owner is to be
// asked. err is that of the table, and ends the call.
func (c *Client) awaitReturn(ctx context.Context, returned <-chan struct{}, err error) error {
	if err != nil {
		return &statusError{ErrConflict, status.Error(codes.AlreadyExists, err.Error())}
	}
	if returned == nil {
		return nil
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	select {
	case <-returned:
		return nil
	case <-ctx.Done():
	}
	if ctx.Err() == context.Canceled {
		return ctx.Err()
	}
	return errNotReturned
}
