// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// An owner that does not answer a check or a reserve in time may decide it all the same,
// while another node denies it in its place, or the call fails. Such attempts are
// withdrawn at the owner, so that a call that was not admitted costs nothing and holds no
// slot until its lease expires. A call that was refused, or never sent, needs no
// withdrawal.

// A starved cluster leaves thousands of them each second, and takes few back meanwhile. A
// withdrawal that is lost leaves a charge, so there is room for those of a minute, and many
// are delivered at once: together they take few batches.
const (
	maxWithdrawals  = 65_536 // pending, and at most outbox.DefaultMaxBytes
	withdrawalsSent = 2_048  // in flight; a quarter of them to one owner
	withdrawWithin  = time.Minute
)

// withdrawer withdraws attempts in the background.
type withdrawer struct {
	outbox *outbox.Outbox
	done   chan struct{}
	lost   atomic.Int64
}

// startWithdrawer starts c.withdrawer. It needs c.ring and c.settler.
func (c *Client) startWithdrawer(o Options) error {
	box, err := outbox.New(outbox.Options{
		Deliver:    c.deliverWithdrawal,
		Owner:      func(item *pb.Item) string { return c.Owner(item.GetCancel().GetKey()) },
		MaxEntries: maxWithdrawals, MaxInFlight: withdrawalsSent, MaxAge: withdrawWithin, Timeout: o.Timeout,
		Events: outbox.Events{Dropped: func(*pb.Item, outbox.Reason, error) { c.withdrawer.lost.Add(1) }},
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

// len returns how many withdrawals are pending.
func (w *withdrawer) len() int {
	if w.outbox == nil {
		return 0
	}
	return w.outbox.Len()
}

// flush waits until none is pending.
func (w *withdrawer) flush(ctx context.Context) error {
	if w.len() == 0 {
		return nil
	}
	return w.outbox.Flush(ctx)
}

// close waits for the deliveries in flight. The settler must be closed before.
func (w *withdrawer) close() {
	if w.outbox != nil {
		w.outbox.Close()
		<-w.done
	}
}

// attemptIDs are the ids of the attempts of a call. None is used twice, also if it was answered: a
// member that denied the call without its owner withdraws that attempt there.
type attemptIDs struct {
	last       uint64
	unanswered []uint64
}

func (a *attemptIDs) next() uint64 {
	a.last = requestid.NextAttempt(a.last)
	return a.last
}

// number gives an item that is about to be sent an attempt id, if it is a check or a
// reserve.
func (a *attemptIDs) number(item *pb.Item) {
	if item.GetReserve() != nil || item.GetCheck() != nil {
		item.Attempt = a.next()
	}
}

// withAttempts returns m with an attempt id for each call, if it is a check or a reserve.
// Those that were not answered are recorded in e.
func withAttempts[Req, Res any](e *envelope, m method[Req, Res]) method[Req, Res] {
	if e.item.GetReserve() == nil && e.item.GetCheck() == nil {
		return m
	}
	return func(api pb.RateLimiterClient, ctx context.Context, req Req, o ...grpc.CallOption) (Res, error) {
		attempt := e.tried.next()
		res, err := m(api, requestid.WithAttempt(ctx, attempt), req, o...)
		if err != nil && (retryable(err) || status.Code(err) == codes.Canceled) {
			e.tried.unanswered = append(e.tried.unanswered, attempt)
		}
		return res, err
	}
}

// add records that item was not answered.
func (a *attemptIDs) add(item *pb.Item) {
	if item.GetAttempt() != 0 && !slices.Contains(a.unanswered, item.GetAttempt()) {
		a.unanswered = append(a.unanswered, item.GetAttempt())
	}
}

// withdraw withdraws the unanswered attempts of a call that another node denied, or that
// failed. check is nil for a reserve.
func (c *Client) withdraw(key, id string, unanswered []uint64, check *pb.CheckRequest) {
	for _, attempt := range unanswered {
		w := cancelWire(key, id)
		w.item.Attempt = attempt
		w.item.Withdrawn = proto.CloneOf(check) // its costs are the caller's map
		if c.withdrawer.outbox.Put(&w.item) != nil {
			c.withdrawer.lost.Add(1) // a lease expires and a charge stays
		}
	}
}

// deliverWithdrawal implements [outbox.Options].Deliver. Only a batch can carry an
// attempt id, so there is no unary call.
func (c *Client) deliverWithdrawal(ctx context.Context, item *pb.Item) error {
	attempts, err := c.newAttempts(ctx)
	if err != nil {
		return err
	}
	r, call := item.GetCancel(), &settlementCall{}
	call.item.Call, call.item.Attempt, call.item.Withdrawn = item.GetCall(), item.GetAttempt(), item.GetWithdrawn()
	call.hints = hints{&c.strings, r.GetKey(), r.GetRequestId()}
	answered, err := c.askOwner(ctx, &attempts, r.GetKey(), &call.envelope, call)
	if err == nil && !answered {
		return status.Error(codes.Unavailable, "the owner does not answer")
	}
	return err
}
