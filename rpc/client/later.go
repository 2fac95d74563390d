// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Errors of [Reservation.SettleLater].
var (
	// ErrFull: too many settlements wait already. See Options.MaxWaiting.
	ErrFull = errors.New("too many settlements wait")
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("client is closed")
)

// sender reports settlements in the background.
type sender struct {
	box     *outbox.Outbox
	dropped atomic.Int64

	ctx  context.Context // until close
	stop context.CancelCauseFunc
	done sync.WaitGroup
}

// startSender makes SettleLater work. Options are valid.
func (c *Client) startSender(o Options) error {
	s := &c.later
	box, err := outbox.New(outbox.Options{
		Deliver:    c.deliver,
		Owner:      c.laneOf,
		MaxEntries: o.MaxWaiting,
		Timeout:    o.Timeout,
		Events: outbox.Events{Dropped: func(item *pb.Item, _ outbox.Reason, err error) {
			s.dropped.Add(1)
			if o.Dropped == nil {
				return
			}
			if err == nil {
				err = fmt.Errorf("%w for %v", ErrUnreachable, outbox.DefaultMaxAge)
			}
			r := item.GetSettle()
			o.Dropped(r.GetKey(), r.GetRequestId(), err)
		}},
	})
	if err != nil {
		return err
	}
	s.box = box
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	s.done.Go(func() { _ = box.Run(s.ctx) }) // nil always
	return nil
}

// close ends what is under way, and says what is lost.
func (s *sender) close() error {
	s.box.Close()
	s.stop(ErrClosed)
	s.done.Wait()
	if n := s.box.Len(); n > 0 {
		return fmt.Errorf("%d settlements that were to be reported later are lost", n)
	}
	return nil
}

// deliver reports one settlement, for the outbox.
func (c *Client) deliver(ctx context.Context, item *pb.Item) error {
	r, q := item.GetSettle(), &settlementCall{}
	q.item.Call = item.GetCall()
	return ask(ctx, c, pb.RateLimiterClient.Settle, texts{key: r.GetKey(), id: r.GetRequestId(), costs: r.GetCosts()}, r, q)
}

// laneOf keeps settlements apart that do not have the same owner.
func (c *Client) laneOf(item *pb.Item) string {
	key := item.GetSettle().GetKey()
	if owner := c.Owner(key); owner != "" {
		return owner
	}
	return root(key)
}

// SettleLater is Settle for those who do not wait: it returns at once, and the
// usage is reported in the background, again and again until a node has it or 10
// minutes have passed. Then, and when a node refuses it, Options.Dropped is
// told.
//
// What waits is in the memory of this process: see [Client.Flush]. The error is
// ErrFull or ErrClosed, an [InvalidError], or [ErrUnknownReservation] if the
// reservation was denied; then nothing will be reported.
func (r *Reservation) SettleLater(u Usage) error {
	if r.Denied() {
		return fmt.Errorf("settle %s: the reservation was denied: %w", r.Key, ErrUnknownReservation)
	}
	t := texts{key: r.Key, id: r.RequestID, costs: u.Costs}
	if err := t.check(); err != nil {
		return fmt.Errorf("settle %s: %w", r.Key, err)
	}
	r.phase.Store(ended) // as in Settle
	u.Costs = maps.Clone(u.Costs)
	w := u.wire(r.Key, r.RequestID, true)
	err := r.client.later.box.Put(&w.item)
	switch {
	case errors.Is(err, outbox.ErrFull):
		err = ErrFull
	case errors.Is(err, outbox.ErrClosed):
		err = ErrClosed
	}
	if err != nil {
		return fmt.Errorf("settle %s: %w", r.Key, err)
	}
	return nil
}

// Flush reports what SettleLater has left to the background, and returns when
// nothing waits any more. If ctx ends before, or the client is closed, the error
// wraps the cause and says how much is left; it goes on waiting. A context
// without a deadline waits for as long as the nodes are away.
func (c *Client) Flush(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.later.ctx, func() { cancel(ErrClosed) })()
	if err := c.later.box.Flush(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}
