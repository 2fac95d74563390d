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

// awaitReturn waits until the owner has a reservation that was made from a slice, for half of
// the time of the call at most. err is that of the table, and ends the call. If ctx ends, the
// call that follows says so.
func (c *Client) awaitReturn(ctx context.Context, returned <-chan struct{}, err error) error {
	if err != nil {
		return &statusError{ErrConflict, status.Error(codes.AlreadyExists, err.Error())}
	}
	if returned == nil {
		return nil
	}
	wait := c.timeout
	if at, ok := ctx.Deadline(); ok {
		wait = time.Until(at)
	}
	timer := time.NewTimer(wait / 2)
	defer timer.Stop()
	select {
	case <-returned:
	case <-timer.C:
	case <-ctx.Done():
	}
	return nil
}
