// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/rpc/client"
)

// A Call is a metered call in progress. Handlers get it from [FromContext]. Its
// methods are safe for concurrent use and have no effect after the handler has
// returned.
type Call struct {
	metering    *metering
	reservation *client.Reservation
	undecided   bool // no node answered; the reservation is not one
	estimate    client.Estimate
	method      string
	started     time.Time
	ctx         context.Context // of the request; used for its values only

	reservedInput int64 // tokens

	// Of a call whose body the middleware has read.
	predicted    int64 // input tokens
	bounded      bool  // the body has a bound of the output
	boundAdded   bool  // the middleware has added it
	usageRefused bool  // the model server refuses to be asked for the usage of a stream

	output atomic.Int64 // output tokens up to now, reported as progress; 0: unknown

	mu struct {
		sync.Mutex
		usage  *client.Usage // nil: SetUsage was not called
		notRun bool
		ran    bool
		ended  bool
	}
}

type contextKey struct{}

// FromContext returns the call of a handler's request. It returns false if the
// request is not metered.
func FromContext(ctx context.Context) (*Call, bool) {
	c, ok := ctx.Value(contextKey{}).(*Call)
	return c, ok
}

// Decision returns the decision about the reservation.
func (c *Call) Decision() client.Decision { return c.reservation.Decision }

// Undecided reports whether the call runs without a decision, because no node answered.
// See [AllowUndecided].
func (c *Call) Undecided() bool { return c.undecided }

// Granted returns the output tokens of each choice that the call may generate. Unless
// Options.Estimate is set, the body of the handler's request already has the bound that
// it needs: if the caller set none, and the decision is neither degraded nor bounds the
// output, it has none, and what is generated beyond the grant is charged too.
func (c *Call) Granted() int64 { return c.reservation.Granted() }

// bound returns the bound for the body of the request, whose own bound is asked: the
// grant if it is lower, or if the caller set none (negative) and the policy wants one. -1:
// leave the body as it is.
func (c *Call) bound(asked int64) int64 {
	granted := c.Granted()
	c.bounded = asked >= 0
	switch {
	case granted <= 0 || asked >= 0 && granted >= asked:
		return -1
	case asked < 0 && c.reservation.Outcome != client.Degraded && !c.reservation.BoundOutput:
		return -1
	}
	c.boundAdded = asked < 0
	c.bounded = true
	return granted
}

// RequestID returns the id of the reservation.
func (c *Call) RequestID() string { return c.reservation.RequestID }

// Key returns the key that is charged.
func (c *Call) Key() string { return c.reservation.Key }

// SetUsage sets the usage of the call so far and takes precedence over what the
// response reports. The numbers are cumulative. A long call may set it
// repeatedly: each value is also reported as progress, and the last one is
// charged.
func (c *Call) SetUsage(u client.Usage) {
	u.InputTokens, u.OutputTokens, u.Costs = clone(u.InputTokens), clone(u.OutputTokens), maps.Clone(u.Costs)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.ended {
		return
	}
	c.mu.usage = &u
	if n := orZero(u.OutputTokens); n > 0 && n <= amount.Max {
		c.output.Store(n)
	}
}

func clone(n *int64) *int64 {
	if n == nil {
		return nil
	}
	return new(*n)
}

// hasUsage reports whether SetUsage was called.
func (c *Call) hasUsage() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.usage != nil
}

// MarkNotRun records that the call did not reach the model. The whole reservation
// is refunded.
func (c *Call) MarkNotRun() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.notRun = true
}

// MarkRun records that the model may have run. The call is then charged also if
// its response has an error status.
func (c *Call) MarkRun() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.ran = true
}

// recordOutput sets the output tokens for the next report of progress, if they
// have grown.
func (c *Call) recordOutput(tokens int64) {
	if tokens > c.output.Load() {
		c.output.Store(tokens)
	}
}

// reportProgress renews the lease and reports the output so far.
func (c *Call) reportProgress() error {
	var u client.Usage
	if n := c.output.Load(); n > 0 {
		u.OutputTokens = &n
	}
	ctx := context.WithoutCancel(c.ctx)
	_, err := c.reservation.Progress(ctx, u)
	if _, invalid := errors.AsType[*client.InvalidError](err); invalid {
		_, err = c.reservation.Progress(ctx, client.Usage{}) // an absurd output must not end the lease
	}
	return err
}

// maxOutput returns the granted output tokens of all choices together.
func (c *Call) maxOutput() int64 {
	n, g := max(c.estimate.N, 1), c.reservation.Granted()
	if c.undecided {
		g = max(orZero(c.estimate.MaxOutputTokens), 0)
	}
	if g <= amount.Max/n {
		return g * n
	}
	return amount.Max
}
