// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/internal/overload"
	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A Client asks the nodes of one cluster for decisions. It is safe for
// concurrent use; a process needs one.
type Client struct {
	seeds       []*node       // the nodes of Options.Addrs
	next        atomic.Uint32 // round robin over the nodes, for calls that are sent alone
	timeout     time.Duration
	maxAttempts int
	trace       func(context.Context) []byte // nil: nothing is traced
	budget      overload.RetryBudget
	ring        *ringWatcher   // nil if Options.DisableOwnerRouting
	strings     stringInterner // of answers
	settler     settler
	withdrawer  withdrawer
	slices      *slices.Table // nil if nobody lends to this client
	closing     sync.Once
	closed      atomic.Bool // before the connections are
}

// Dial returns a client for the nodes of o. It does not wait for connections or
// for the ring: both are established, and re-established, in the background until
// Close. The error names every invalid option.
func Dial(o Options) (*Client, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	if err := o.openToken(); err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	c := &Client{timeout: o.Timeout, maxAttempts: o.MaxAttempts, trace: o.Trace}
	opts := o.dialOptions(maxSeedBackoff)
	for _, addr := range o.Addrs {
		target, _ := parseAddr(addr)
		conn, err := grpc.NewClient(target, opts...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("dial %s: %w", addr, err), c.Close())
		}
		conn.Connect()
		c.seeds = append(c.seeds, newNode(addr, conn))
	}
	if err := c.startSettler(o); err != nil {
		return nil, errors.Join(fmt.Errorf("dial: %w", err), c.Close())
	}
	if !o.DisableOwnerRouting {
		c.watchRing(o, o.dialOptions(maxPeerBackoff))
		if err := c.startWithdrawer(o); err != nil {
			return nil, errors.Join(fmt.Errorf("dial: %w", err), c.Close())
		}
		if !o.DisableSlices {
			c.startSlices()
		}
	}
	return c, nil
}

// Close closes all connections. Calls in flight and later ones fail with [ErrClosed].
// Only the first Close does anything; the others wait for it and return nil.
//
// Reservations are held until their lease expires. Settlements of [Reservation.SettleLater]
// that were not delivered are lost, and the error says how many: call [Client.Flush] first.
// So are charges of calls without an answer that were not taken back yet.
//
// Slices are returned first, which takes at most Options.Timeout. The error says how many
// could not be returned: their owners charge them in full.
func (c *Client) Close() (err error) {
	c.closing.Do(func() { err = c.close() })
	return err
}

func (c *Client) close() error {
	errs := []error{c.closeSlices()}
	if c.settler.outbox != nil {
		errs = append(errs, c.settler.close())
	}
	c.withdrawer.close()
	c.closed.Store(true)
	for _, n := range c.seeds {
		errs = append(errs, n.close())
	}
	if c.ring != nil {
		errs = append(errs, c.ring.close())
	}
	return errors.Join(errs...)
}

// Check charges a known cost at once and for good. It does not count against
// concurrency limits.
//
// After [ErrUnreachable] a node may have charged it all the same. The client takes that
// back in the background, as far as it can. A caller that set the RequestID may repeat
// the call: the repetition is not taken back.
//
// If the policy says so for all limits of a key (slices: clients), the owner lends a part of
// them to a client that asks for the key very often. Then Check answers calls with the same
// cost from memory, with the [Route] [Slice], if they have no RequestID of the caller.
//
// If the policy lets calls wait at the limit that denies this one, it waits at the owner of its
// key until it is admitted or its time is over: see [Call].MaxWait. The deadline of ctx bounds
// that, and Options.Timeout does not. If the owner changes, the call goes on waiting at the next
// one.
func (c *Client) Check(ctx context.Context, call Call) (d Decision, err error) {
	if err = validateWait(call.MaxWait, call.Priority); err != nil {
		return Decision{}, &callFailure{"check", call.Key, err}
	}
	chosen := call.RequestID != ""
	if !chosen && ctx.Err() == nil && c.takeSlice(&call, &d, true) {
		return d, nil
	}
	if err = c.refuse(ctx, call.Key); err != nil {
		if !chosen && c.takeSlice(&call, &d, false) { // it was only to renew the slice
			return d, nil
		}
		return Decision{}, err
	}
	if !chosen {
		call.RequestID = newID()
	}
	w := call.wire()
	w.takesSlice = !chosen && c.slices != nil
	f := call.fields()
	if err = ask(ctx, c, checkAtOnce, f, &w.request, w); err == nil && w.answer.Denied() {
		if !chosen && w.answer.Reason == LimitExceeded && c.takeSlice(&call, &d, false) {
			c.withdraw(call.Key, call.RequestID, w.tried.unanswered, &w.request)
			return d, nil // it was only to renew the slice, which the owner has charged before
		}
		err = c.waitForCheck(ctx, w, f, call.MaxWait)
	}
	if err != nil {
		c.withdraw(call.Key, call.RequestID, w.tried.unanswered, &w.request)
		if !chosen && ctx.Err() == nil && c.takeSlice(&call, &d, false) {
			return d, nil
		}
		return Decision{}, &callFailure{"check", call.Key, err}
	}
	w.answer.Model = call.Model
	if w.answer.Denied() {
		c.withdraw(call.Key, call.RequestID, w.tried.unanswered, &w.request)
		w.answer.MaxWait = clone(call.MaxWait)
	}
	return w.answer, nil
}

// Reserve holds the estimated cost of a call, and a slot of every concurrency
// limit, until the reservation is settled or cancelled, or its lease expires. It may wait, as a
// Check may.
//
// It also returns a reservation when the call was denied: check
// [Decision.Denied] before running anything.
//
// After [ErrUnreachable] a node may hold the reservation all the same. The client takes
// it back in the background; if that fails, too, its lease expires. A caller that set the
// RequestID may repeat the call: the repetition is not taken back.
//
// As for Check, the owner may lend slices for reserves with the same key, tier, model and
// service tier and any amounts, if none of their limits is on concurrency. Then Reserve answers
// from memory, with the [Route] [Slice], if the caller sets no RequestID, or says Once. Such a reservation
// can be settled and cancelled by this client at once, and elsewhere, by its id, when the slice
// has been returned: a quarter of a second later, as a rule.
func (c *Client) Reserve(ctx context.Context, e Estimate) (*Reservation, error) {
	if err := validateWait(e.MaxWait, e.Priority); err != nil {
		return nil, &callFailure{"reserve", e.Key, err}
	}
	chosen := e.RequestID != "" && !e.Once
	if !chosen && ctx.Err() == nil {
		if r := c.reserveFromSlice(&e, true); r != nil {
			return r, nil
		}
	}
	if err := c.refuse(ctx, e.Key); err != nil {
		if !chosen {
			if r := c.reserveFromSlice(&e, false); r != nil { // it was only to renew the slice
				return r, nil
			}
		}
		return nil, err
	}
	began := time.Now()
	id := cmp.Or(e.RequestID, newID())
	w := e.wire()
	w.request.RequestId = id
	w.takesSlice = !chosen && c.slices != nil
	f := e.fields()
	f.requestID = id
	err := ask(ctx, c, reserveAtOnce, f, &w.request, w)
	if err == nil && w.answer.Denied() {
		if !chosen && w.answer.Reason == LimitExceeded {
			if r := c.reserveFromSlice(&e, false); r != nil { // the owner has charged it before
				c.withdraw(e.Key, id, w.tried.unanswered, nil)
				return r, nil
			}
		}
		err = c.waitForReserve(ctx, w, f, e.MaxWait)
	}
	if err != nil {
		c.withdraw(e.Key, id, w.tried.unanswered, nil)
		if !chosen && ctx.Err() == nil {
			if r := c.reserveFromSlice(&e, false); r != nil {
				return r, nil
			}
		}
		return nil, &callFailure{"reserve", e.Key, err}
	}
	if w.answer.Denied() {
		c.withdraw(e.Key, id, w.tried.unanswered, nil)
		w.answer.MaxWait = clone(e.MaxWait)
	}
	e.RequestID = id
	r := c.newReservation(&e, w.answer, w.granted)
	if !chosen || !w.answer.Replayed { // else its lease began with an earlier call
		if w.leasedFrom.After(began) {
			began = w.leasedFrom
		}
		r.renewed(began)
	}
	return r, nil
}

// newReservation returns the answer to a reserve with an id.
func (c *Client) newReservation(e *Estimate, d Decision, granted int64) *Reservation {
	d.Model = e.Model
	return &Reservation{Decision: d, Key: e.Key, granted: granted, client: c, estimate: copyEstimate(e)}
}

// Reservation returns a handle for a reservation that another process or client
// made. It asks no node: the outcome is taken to be allowed, and what was granted is
// not known.
func (c *Client) Reservation(key, requestID string) *Reservation {
	return &Reservation{
		Decision: Decision{Outcome: Allowed, RequestID: requestID},
		Key:      key,
		client:   c,
	}
}

// Peek returns the state of every limit of a key and changes nothing.
func (c *Client) Peek(ctx context.Context, q Query) (State, error) {
	if err := c.refuse(ctx, q.Key); err != nil {
		return State{}, err
	}
	w := q.wire()
	if err := ask(ctx, c, pb.RateLimiterClient.Peek, q.fields(), &w.request, w); err != nil {
		return State{}, &callFailure{"peek", q.Key, err}
	}
	return w.answer, nil
}

// newID returns 130 random bits as text.
func newID() string { return rand.Text() }
