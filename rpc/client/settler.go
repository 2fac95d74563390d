// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/rpc/internal/outbox"
	"github.com/bucketring/bucketring/rpc/pb"
)

// ErrQueueFull means that the queue of pending settlements of [Reservation.SettleLater] is
// full. See Options.MaxPendingSettlements.
var ErrQueueFull = errors.New("queue of pending settlements is full")

// settler reports settlements in the background.
type settler struct {
	outbox  *outbox.Outbox
	dropped atomic.Int64

	ctx  context.Context // ends with close
	stop context.CancelCauseFunc
	done sync.WaitGroup
}

// startSettler starts c.settler.
func (c *Client) startSettler(o Options) error {
	s := &c.settler
	box, err := outbox.New(outbox.Options{
		Deliver:    c.deliverSettlement,
		Owner:      c.settlementOwner,
		MaxEntries: o.MaxPendingSettlements,
		Timeout:    o.Timeout,
		Events: outbox.Events{Dropped: func(item *pb.Item, _ outbox.Reason, err error) {
			s.dropped.Add(1)
			if o.OnSettlementDropped == nil {
				return
			}
			if err == nil {
				err = fmt.Errorf("%w for %v", ErrUnreachable, outbox.DefaultMaxAge)
			}
			r := item.GetSettle()
			o.OnSettlementDropped(r.GetKey(), r.GetRequestId(), err)
		}},
	})
	if err != nil {
		return err
	}
	s.outbox = box
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	s.done.Go(func() { _ = box.Run(s.ctx) }) // always nil
	return nil
}

// close stops the deliveries. The error says how many settlements are lost.
func (s *settler) close() error {
	s.outbox.Close()
	s.stop(ErrClosed)
	s.done.Wait()
	if n := s.outbox.Len(); n > 0 {
		return fmt.Errorf("settlements that were not delivered are lost (%d): call Flush before Close", n)
	}
	return nil
}

// deliverSettlement implements [outbox.Options].Deliver.
func (c *Client) deliverSettlement(ctx context.Context, item *pb.Item) error {
	r, call := item.GetSettle(), &settlementCall{}
	if _, done, err := c.settleFromSlice(ctx, r); done || err != nil {
		return err
	}
	call.item.Call = item.GetCall()
	return ask(ctx, c, pb.RateLimiterClient.Settle, callFields{key: r.GetKey(), requestID: r.GetRequestId(), costs: r.GetCosts()}, r, call)
}

// settlementOwner implements [outbox.Options].Owner.
func (c *Client) settlementOwner(item *pb.Item) string {
	key := item.GetSettle().GetKey()
	if owner := c.Owner(key); owner != "" {
		return owner
	}
	return keypath.Root(key)
}

// SettleLater is like Settle but returns at once. The usage is reported in the
// background, with retries, until a node has accepted it. If a node rejects it, or
// none can be reached for 10 minutes, it is dropped: see Options.OnSettlementDropped.
//
// Pending settlements are in memory: call [Client.Flush] before [Client.Close]. If
// SettleLater returns an error, nothing will be reported. The error wraps
// ErrQueueFull or ErrClosed, an [InvalidError], or [ErrUnknownReservation] if the
// reservation was denied.
func (r *Reservation) SettleLater(u Usage) error {
	if r.Denied() {
		return fmt.Errorf("settle %s: the reservation was denied: %w", r.Key, ErrUnknownReservation)
	}
	f := callFields{key: r.Key, requestID: r.RequestID, costs: u.Costs}
	if err := f.validate(); err != nil {
		return fmt.Errorf("settle %s: %w", r.Key, err)
	}
	r.phase.Store(ended) // as in Settle
	u = u.copied()
	w := u.wire(r.Key, r.RequestID, true)
	if r.settleAtOnce(&w.request) {
		return nil
	}
	r.bring(w) // nobody can be asked for it when the call is delivered
	err := r.client.settler.outbox.Put(&w.item)
	switch {
	case errors.Is(err, outbox.ErrFull):
		err = ErrQueueFull
	case errors.Is(err, outbox.ErrClosed):
		err = ErrClosed
	}
	if err != nil {
		return fmt.Errorf("settle %s: %w", r.Key, err)
	}
	return nil
}

// copied returns a usage that shares no memory with u, which its caller may change.
func (u Usage) copied() Usage {
	u.InputTokens, u.OutputTokens, u.Costs = clone(u.InputTokens), clone(u.OutputTokens), maps.Clone(u.Costs)
	return u
}

func clone[T any](n *T) *T {
	if n == nil {
		return nil
	}
	return new(*n)
}

// Flush waits until all settlements of SettleLater were reported or dropped, and until
// the charges of calls that got no answer were taken back. It retries both at once. If
// ctx ends or the client is closed before that, the error wraps the cause and says how
// many are left; these stay pending. Without a deadline Flush waits for as long as the
// nodes are unreachable, at most 10 minutes.
func (c *Client) Flush(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.settler.ctx, func() { cancel(ErrClosed) })()
	err := errors.Join(c.settler.outbox.Flush(ctx), c.withdrawer.flush(ctx))
	if err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}
