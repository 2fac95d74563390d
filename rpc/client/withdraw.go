// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A reserve that its owner did not answer in time may be decided all the same,
// while another node denies it in the owner's place. What nobody heard of is then
// taken back at the owner, so that it holds no slot until its lease ends.

const (
	maxWithdrawals = 4096 // that wait; more are left to their leases
	withdrawWithin = time.Minute
)

// withdrawer takes reserves back in the background.
type withdrawer struct {
	box  *outbox.Outbox
	done chan struct{}
}

// startWithdrawer needs the ring.
func (c *Client) startWithdrawer(o Options) error {
	box, err := outbox.New(outbox.Options{
		Deliver:    c.tellWithdrawn,
		Owner:      func(item *pb.Item) string { return c.Owner(item.GetCancel().GetKey()) },
		MaxEntries: maxWithdrawals, MaxAge: withdrawWithin, Timeout: o.Timeout,
	})
	if err != nil {
		return err
	}
	w := &c.withdrawn
	w.box, w.done = box, make(chan struct{})
	go func() {
		defer close(w.done)
		_ = box.Run(c.later.ctx) // nil always
	}()
	return nil
}

// close ends what is under way, after the context of the sender has ended.
func (w *withdrawer) close() {
	if w.box != nil {
		w.box.Close()
		<-w.done
	}
}

// attempts are the numbers of the sendings of one reserve that were not answered.
type attempts []uint64

// next gives item, which is about to be sent, a number if it is a reserve.
func (a attempts) next(item *pb.Item) {
	if item.GetReserve() != nil {
		item.Attempt = rand.Uint64() | 1
	}
}

// lost notes that nobody will hear the answer to item.
func (a *attempts) lost(item *pb.Item) {
	if item.GetAttempt() != 0 {
		*a = append(*a, item.GetAttempt())
	}
}

// withdraw takes back the sendings of a reserve that was denied by now.
func (c *Client) withdraw(key, id string, lost attempts) {
	for _, attempt := range lost {
		w := cancelWire(key, id)
		w.item.Attempt = attempt
		_ = c.withdrawn.box.Put(&w.item) // if there is no room, its lease ends it
	}
}

// tellWithdrawn tells the owner, for the outbox. Only a stream has a number to
// tell it by.
func (c *Client) tellWithdrawn(ctx context.Context, item *pb.Item) error {
	trial, err := c.begin(ctx)
	if err != nil {
		return err
	}
	r, q := item.GetCancel(), &settlementCall{}
	q.item.Call, q.item.Attempt = item.GetCall(), item.GetAttempt()
	q.hints = hints{&c.strings, r.GetKey(), r.GetRequestId()}
	answered, err := c.askOwner(ctx, &trial, r.GetKey(), &q.envelope, q)
	if err == nil && !answered {
		return status.Error(codes.Unavailable, "the owner does not answer")
	}
	return err
}
