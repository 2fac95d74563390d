// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/rpc/pb"
)

// A Client asks the nodes of one cluster for decisions. It is safe for
// concurrent use; a process needs one.
type Client struct {
	nodes     []*node       // of Options.Addrs
	turn      atomic.Uint32 // of the next call, in the nodes that it may go to
	timeout   time.Duration
	attempts  int
	ring      *follower      // nil if Options.Plain
	strings   stringInterner // of answers
	later     sender
	withdrawn withdrawer
}

// Dial returns a client for the nodes of o. It waits neither for connections
// nor for the ring: both are made, and made again when they break, in the
// background, until Close. The error names every option that cannot be used.
func Dial(o Options) (*Client, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	c := &Client{timeout: o.Timeout, attempts: o.Attempts}
	opts := o.dialOptions(nodeBackoff)
	for _, addr := range o.Addrs {
		target, _ := parseAddr(addr)
		conn, err := grpc.NewClient(target, opts...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("dial %s: %w", addr, err), c.Close())
		}
		conn.Connect()
		c.nodes = append(c.nodes, &node{addr: addr, conn: conn, api: pb.NewRateLimiterClient(conn)})
	}
	if err := c.startSender(o); err != nil {
		return nil, errors.Join(fmt.Errorf("dial: %w", err), c.Close())
	}
	if !o.Plain {
		c.follow(o, o.dialOptions(peerBackoff))
		if err := c.startWithdrawer(o); err != nil {
			return nil, errors.Join(fmt.Errorf("dial: %w", err), c.Close())
		}
	}
	return c, nil
}

// Close ends all connections. Calls under way fail. What is reserved stays
// reserved until its lease runs out. What [Reservation.SettleLater] has not
// reported yet is lost, and the error says how much that is: call
// [Client.Flush] before.
func (c *Client) Close() error {
	var errs []error
	if c.later.box != nil {
		errs = append(errs, c.later.close())
	}
	c.withdrawn.close()
	for _, n := range c.nodes {
		errs = append(errs, n.conn.Close())
	}
	if c.ring != nil {
		errs = append(errs, c.ring.close())
	}
	return errors.Join(errs...)
}

// Check charges a known cost at once and for good. It holds no slot of a
// concurrency limit.
func (c *Client) Check(ctx context.Context, call Call) (Decision, error) {
	if call.RequestID == "" {
		call.RequestID = newID()
	}
	w := call.wire()
	if err := ask(ctx, c, pb.RateLimiterClient.Check, call.texts(), &w.request, w); err != nil {
		return Decision{}, fmt.Errorf("check %s: %w", call.Key, err)
	}
	return w.answer, nil
}

// Reserve holds the estimated cost of a call, and a slot of every concurrency
// limit, until the reservation is settled or cancelled, or its lease runs out.
//
// A reservation is also returned when the call was denied: ask
// [Decision.Denied] before running anything.
//
// After [ErrUnreachable] the reservation may be held all the same, until its
// lease runs out. A caller that named the RequestID may reserve it again.
func (c *Client) Reserve(ctx context.Context, e Estimate) (*Reservation, error) {
	if e.RequestID == "" {
		e.RequestID = newID()
	}
	w := e.wire()
	if err := ask(ctx, c, pb.RateLimiterClient.Reserve, e.texts(), &w.request, w); err != nil {
		return nil, fmt.Errorf("reserve %s: %w", e.Key, err)
	}
	if w.answer.Denied() {
		c.withdraw(e.Key, e.RequestID, w.lost)
	}
	return &Reservation{
		Decision: w.answer,
		Key:      e.Key,
		granted:  w.granted,
		client:   c,
	}, nil
}

// Reservation returns a handle on a reservation made elsewhere, from its key
// and request id. It asks no node, so the reservation is taken to be held, and
// what was granted is not known.
func (c *Client) Reservation(key, requestID string) *Reservation {
	return &Reservation{
		Decision: Decision{Outcome: Allowed, RequestID: requestID},
		Key:      key,
		client:   c,
	}
}

// Peek reports the state of every limit of a key and changes nothing.
func (c *Client) Peek(ctx context.Context, q Query) (State, error) {
	w := q.wire()
	if err := ask(ctx, c, pb.RateLimiterClient.Peek, q.texts(), &w.request, w); err != nil {
		return State{}, fmt.Errorf("peek %s: %w", q.Key, err)
	}
	return w.answer, nil
}

// spare are the nodes that a call may be sent to alone if none of Options.Addrs
// is connected.
func (c *Client) spare() []*node {
	if c.ring == nil {
		return nil
	}
	return c.ring.spare()
}

// newID returns 130 random bits as text.
func newID() string { return rand.Text() }
