// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// A Call is a metered call under way: what was granted, and where a server that
// knows better than the meter says what was used. Its methods are safe for
// concurrent use, and do nothing once the handler has returned.
type Call struct {
	metering    *metering
	reservation *client.Reservation
	estimate    client.Estimate
	method      string
	started     time.Time
	ctx         context.Context // of the request; only its values count

	output atomic.Int64 // generated so far, for progress; 0: not known

	mu struct {
		sync.Mutex
		usage  *client.Usage // by SetUsage
		notRun bool
		ran    bool
		ended  bool
	}
}

type contextKey struct{}

// FromContext returns the call that a handler serves, if it is metered.
func FromContext(ctx context.Context) (*Call, bool) {
	c, ok := ctx.Value(contextKey{}).(*Call)
	return c, ok
}

// Decision returns the answer to the reservation.
func (c *Call) Decision() client.Decision { return c.reservation.Decision }

// Granted returns the output, per choice, that the model may generate. The
// body that the handler gets says so already, unless Options.Cost is set.
func (c *Call) Granted() int64 { return c.reservation.Granted() }

// RequestID returns the id of the reservation.
func (c *Call) RequestID() string { return c.reservation.RequestID }

// Key returns who pays.
func (c *Call) Key() string { return c.reservation.Key }

// SetUsage says what the call has used so far. It goes before what the meter
// reads. Numbers are cumulative: a call that runs for long may say it again and
// again, which reports progress, and what was said last counts. As in
// [client.Usage], 0 means not known, and [client.Zero] exactly 0.
func (c *Call) SetUsage(u client.Usage) {
	u.Costs = maps.Clone(u.Costs)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.ended {
		return
	}
	c.mu.usage = &u
	if u.OutputTokens > 0 && u.OutputTokens <= maxAmount {
		c.output.Store(u.OutputTokens)
	}
}

// said reports whether SetUsage was called.
func (c *Call) said() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.usage != nil
}

// NotRun says that the model never got the call: everything is given back.
func (c *Call) NotRun() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.notRun = true
}

// Ran says that the model may have run, whatever status the answer gets: an
// error status then gives nothing back.
func (c *Call) Ran() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.ran = true
}

// count stores how much output has come, for the next report of progress.
func (c *Call) count(output int64) {
	if output > c.output.Load() {
		c.output.Store(output)
	}
}

// progress renews the lease and reports what was generated so far.
func (c *Call) progress() error {
	_, err := c.reservation.Progress(context.WithoutCancel(c.ctx), client.Usage{OutputTokens: c.output.Load()})
	return err
}

// bound is the most output that was granted, over all choices.
func (c *Call) bound() int64 {
	n := max(c.estimate.N, 1)
	if g := c.reservation.Granted(); g <= maxAmount/n {
		return g * n
	}
	return maxAmount
}
