// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/pb"
)

// An owner that does not answer a reserve in time may decide it all the same, while
// another node denies it in its place, or the call fails. Such attempts are withdrawn at
// the owner, so that they do not hold a slot until their lease expires. A call that was
// refused, or never sent, needs no withdrawal.

const (
	maxWithdrawals = 4096 // pending; further ones are left to expire
	withdrawWithin = time.Minute
)

// withdrawer withdraws attempts in the background.
type withdrawer struct {
	outbox *outbox.Outbox
	done   chan struct{}
}

// startWithdrawer starts c.withdrawer. It needs c.settler, and c.ring if there is one.
func (c *Client) startWithdrawer(o Options) error {
	box, err := outbox.New(outbox.Options{
		Deliver:    c.deliverWithdrawal,
		Owner:      func(item *pb.Item) string { return c.Owner(item.GetCancel().GetKey()) },
		MaxEntries: maxWithdrawals, MaxAge: withdrawWithin, Timeout: o.Timeout,
	})
	if err != nil {
		return err
	}
	w := &c.withdrawer
	w.outbox, w.done = box, make(chan struct{})
	go func() {
		defer close(w.done)
		_ = box.Run(c.settler.ctx) // always nil
	}()
	return nil
}

// close waits for the deliveries in flight. The settler must be closed before.
func (w *withdrawer) close() {
	if w.outbox != nil {
		w.outbox.Close()
		<-w.done
	}
}

// attemptIDs are the ids of attempts to reserve that were not answered.
type attemptIDs []uint64

// number gives an item that is about to be sent an attempt id, if it is a reserve.
func (a attemptIDs) number(item *pb.Item) {
	if item.GetReserve() != nil {
		item.Attempt = rand.Uint64() | 1
	}
}

// add records that item was not answered.
func (a *attemptIDs) add(item *pb.Item) {
	if item.GetAttempt() != 0 {
		*a = append(*a, item.GetAttempt())
	}
}

// withdraw withdraws the unanswered attempts of a reserve that another node denied, or
// that failed.
func (c *Client) withdraw(key, id string, unanswered attemptIDs) {
	for _, attempt := range unanswered {
		w := cancelWire(key, id)
		w.item.Attempt = attempt
		_ = c.withdrawer.outbox.Put(&w.item) // if the outbox is full, the lease expires
	}
}

// mayBeHeld reports whether a reserve that failed with err may be held by a node.
func mayBeHeld(err error) bool {
	return errors.Is(err, ErrUnreachable) || errors.Is(err, context.Canceled)
}

// cancelLater cancels a reservation that a unary call may have made, and whose id only
// this client knows.
func (c *Client) cancelLater(key, id string) {
	w := cancelWire(key, id)
	_ = c.withdrawer.outbox.Put(&w.item) // if the outbox is full, the lease expires
}

// deliverWithdrawal implements [outbox.Options].Deliver. Only a batch can carry an
// attempt id, so there is no unary call for one.
func (c *Client) deliverWithdrawal(ctx context.Context, item *pb.Item) error {
	if item.GetAttempt() == 0 {
		w := cancelWire(item.GetCancel().GetKey(), item.GetCancel().GetRequestId())
		return ask(ctx, c, pb.RateLimiterClient.Cancel, callFields{key: w.request.GetKey(), requestID: w.request.GetRequestId()}, &w.request, w)
	}
	attempts, err := c.newAttempts(ctx)
	if err != nil {
		return err
	}
	r, call := item.GetCancel(), &settlementCall{}
	call.item.Call, call.item.Attempt = item.GetCall(), item.GetAttempt()
	call.hints = hints{&c.strings, r.GetKey(), r.GetRequestId()}
	answered, err := c.askOwner(ctx, &attempts, r.GetKey(), &call.envelope, call)
	if err == nil && !answered {
		return status.Error(codes.Unavailable, "the owner does not answer")
	}
	return err
}
