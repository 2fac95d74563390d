// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/bucketring/bucketring/rpc/pb"
)

// A Reservation is a held charge, or the denial of one. Any process that knows
// its Key and RequestID can settle it: see [Client.Reservation].
//
// Its methods are safe for concurrent use; its fields are not to be changed.
// To settle after the context of the request is done, for instance because the
// reader of a stream has left, pass [context.WithoutCancel] of it.
type Reservation struct {
	Decision
	Key string

	granted int64
	client  *Client
	phase   atomic.Int32
}

// The phases of a reservation, as far as this handle has reported them.
const (
	reserved int32 = iota // nothing is known to have run
	running               // progress was reported
	ended                 // settled or cancelled
)

// Granted returns the output, per choice, that the call may generate: send it
// to the model as max_tokens. It is 0 when denied.
func (r *Reservation) Granted() int64 { return r.granted }

// Settle trues the reservation up with the real usage of the finished call, and
// frees its slot. Usage{} settles at the estimated input and the last progress.
//
// The same usage again is harmless, so a failed Settle may be repeated. Other
// numbers after a Settle that succeeded are an [ErrConflict]. A Settle that
// comes after the lease ran out corrects what expiry charged.
func (r *Reservation) Settle(ctx context.Context, u Usage) (Settlement, error) {
	// The call ran, whatever becomes of this report: no Cancel may undo it.
	r.phase.Store(ended)
	return r.report(ctx, "settle", u, true)
}

// Progress reports usage so far and renews the lease. A call that may run for
// longer than its lease, 30 s by default, must report progress in time, or its
// slot is freed and only what was last reported stays charged. Usage{} renews
// the lease and no more.
//
// Copies may arrive late or in any order: the highest progress counts.
func (r *Reservation) Progress(ctx context.Context, u Usage) (Settlement, error) {
	r.phase.CompareAndSwap(reserved, running)
	return r.report(ctx, "progress", u, false)
}

func (r *Reservation) report(ctx context.Context, verb string, u Usage, final bool) (Settlement, error) {
	if r.Denied() {
		return Settlement{}, fmt.Errorf("%s %s: the reservation was denied: %w", verb, r.Key, ErrUnknownReservation)
	}
	w := u.wire(r.Key, r.RequestID, final)
	err := ask(ctx, r.client, pb.RateLimiterClient.Settle, texts{key: r.Key, id: r.RequestID, costs: u.Costs}, &w.request, w)
	if err != nil {
		return Settlement{}, fmt.Errorf("%s %s: %w", verb, r.Key, err)
	}
	return w.answer, nil
}

// Cancel gives everything back: the call never ran. It does nothing when the
// reservation was denied, or was settled through r, even if that failed: the
// usual place for it is a defer, as with [database/sql.Tx.Rollback].
//
// A call whose Progress was reported did run. Cancel then settles it at its
// last progress, so that a stream that breaks off is not served for free.
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
	w := cancelWire(r.Key, r.RequestID)
	if err := ask(ctx, r.client, pb.RateLimiterClient.Cancel, texts{key: r.Key, id: r.RequestID}, &w.request, w); err != nil {
		return fmt.Errorf("cancel %s: %w", r.Key, err)
	}
	r.phase.CompareAndSwap(reserved, ended)
	return nil
}
