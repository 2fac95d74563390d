// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// A Reservation is a held charge, or the denial of one. Any process that knows
// its Key and RequestID can settle it: see [Client.Reservation].
//
// Its methods are safe for concurrent use; its fields must not be changed.
type Reservation struct {
	Decision
	Key string

	granted  int64
	client   *Client
	phase    atomic.Int32
	estimate estimateCopy // of the caller that made the reservation, as it was sent
	leased   atomic.Int64 // until when its lease lasts at least, in Unix nanoseconds; 0: not known; or leaseOver
}

// The phases of a reservation, as far as this handle knows.
const (
	reserved int32 = iota // no progress was reported
	running               // progress was reported
	ended                 // settled or cancelled
)

// Granted returns the output tokens, per choice, that the call may generate: the
// max_tokens for the model. It is 0 for a denied call.
func (r *Reservation) Granted() int64 { return r.granted }

// Settle charges the actual usage of the finished call in place of the estimate, and
// frees its slot. Usage{} charges the estimated input and the output last reported.
//
// The same usage may be reported again, so a failed Settle can be repeated. Other
// usage after a successful Settle is an [ErrConflict]. A Settle after the lease has
// expired corrects what was charged on expiry.
//
// The end of ctx does not stop it, because the usage is owed also when the caller has
// disconnected. It takes no longer than Options.Timeout or, if that is later, until the
// deadline of ctx. To go on without waiting, use [Reservation.SettleLater].
func (r *Reservation) Settle(ctx context.Context, u Usage) (Settlement, error) {
	// The call ran, even if this report fails: Cancel must not undo the charge.
	r.phase.Store(ended)
	ctx, cancel := r.client.endingContext(ctx)
	defer cancel()
	return r.report(ctx, "settle", u, true)
}

// endingContext returns the context for what ends a reservation. It has the values of ctx, and
// goes on when ctx has ended. A deadline of ctx counts only if it leaves more time than a call
// without a deadline has.
func (c *Client) endingContext(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, limited := ctx.Deadline()
	switch {
	case limited && time.Until(deadline) > c.timeout:
		return context.WithDeadline(context.WithoutCancel(ctx), deadline)
	case ctx.Done() != nil:
		ctx = context.WithoutCancel(ctx)
	}
	return ctx, func() {}
}

// Progress reports the usage so far and renews the lease. A call that may run longer
// than its lease, 30 s by default, must report progress in time. Otherwise its slot is
// freed, and only the usage last reported stays charged. Usage{} just renews the lease.
//
// Reports may arrive repeatedly and in any order: the highest usage counts.
//
// If the members that had the reservation are lost, a Progress or a Settle during its lease
// makes it anew: it is charged again, even beyond the limits, and takes its slots.
func (r *Reservation) Progress(ctx context.Context, u Usage) (Settlement, error) {
	r.phase.CompareAndSwap(reserved, running)
	return r.report(ctx, "progress", u, false)
}

func (r *Reservation) report(ctx context.Context, verb string, u Usage, final bool) (Settlement, error) {
	if r.Denied() {
		return Settlement{}, fmt.Errorf("%s %s: the reservation was denied: %w", verb, r.Key, ErrUnknownReservation)
	}
	began := time.Now()
	w := u.wire(r.Key, r.RequestID, final)
	if s, done, err := r.client.settleFromSlice(ctx, &w.request); err != nil {
		return Settlement{}, fmt.Errorf("%s %s: %w", verb, r.Key, err)
	} else if done {
		r.leased.Store(leaseOver)
		return s, nil
	}
	f := callFields{key: r.Key, requestID: r.RequestID, costs: u.Costs}
	err := ask(ctx, r.client, pb.RateLimiterClient.Settle, f, &w.request, w)
	if (errors.Is(err, ErrUnknownReservation) || err == nil && w.answer.Route == Fallback && r.Route != Fallback) && r.bring(w) {
		// After an answer without the owner an error changes nothing.
		if again := ask(ctx, r.client, pb.RateLimiterClient.Settle, f, &w.request, w); err != nil {
			err = again
		}
	}
	if err != nil {
		return Settlement{}, fmt.Errorf("%s %s: %w", verb, r.Key, err)
	}
	if !final {
		r.renewed(began)
	}
	return w.answer, nil
}

// Cancel gives the whole charge back, because the call never ran. It does nothing if
// the reservation was denied, or settled through r, even if that failed. So it is
// usually deferred, like [database/sql.Tx.Rollback].
//
// A call with reported progress did run. Cancel settles it at its last progress, so
// that a stream that breaks off is charged.
//
// The end of ctx does not stop it, as for Settle.
func (r *Reservation) Cancel(ctx context.Context) error {
	if r.Denied() {
		return nil
	}
	switch r.phase.Load() {
	case ended:
		return nil
	case running:
		_, err := r.Settle(ctx, Usage{})
		return err
	}
	ctx, cancel := r.client.endingContext(ctx)
	defer cancel()
	done, err := r.client.cancelFromSlice(ctx, r.Key, r.RequestID)
	if err != nil {
		return fmt.Errorf("cancel %s: %w", r.Key, err)
	}
	if done {
		r.leased.Store(leaseOver)
		r.phase.CompareAndSwap(reserved, ended)
		return nil
	}
	w := cancelWire(r.Key, r.RequestID)
	err = ask(ctx, r.client, pb.RateLimiterClient.Cancel, callFields{key: r.Key, requestID: r.RequestID}, &w.request, w)
	if errors.Is(err, ErrUnknownReservation) && r.isLeased(time.Now()) {
		err = nil // it was lost with the members that had it: nothing is charged
	}
	if err != nil {
		return fmt.Errorf("cancel %s: %w", r.Key, err)
	}
	r.phase.CompareAndSwap(reserved, ended)
	return nil
}
