// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"sync/atomic"
	"time"
)

// connections bounds the calls in flight to a number of connections, and those that wait
// for one. net/http would let any number wait, in order, so that under overload each call
// waits until its deadline and none is answered in time.
//
// Many may wait after a stall or a burst. If calls have waited all the time for
// standingTime, more is asked than the connections carry, and only as many may as there
// are connections, or 16: this is the rule by which CoDel tells a standing queue from a
// burst (Nichols and Jacobson, "Controlling queue delay", 2012). It ends when no call was
// refused for a while.
type connections struct {
	free chan struct{} // an element for each free connection
	few  int64
	many int64

	waiting   atomic.Int64
	emptyAt   atomic.Int64 // when no call waited, last
	refusedAt atomic.Int64 // when a call was refused, last
}

const (
	standingTime = int64(200 * time.Millisecond)
	standingEnds = int64(time.Second) // after the last refusal
)

func newConnections(n int) *connections {
	c := &connections{free: make(chan struct{}, n), few: int64(max(n, 16)), many: int64(max(8*n, 1024))}
	for range n {
		c.free <- struct{}{}
	}
	c.refusedAt.Store(-standingEnds)
	return c
}

// acquire waits for a free connection. It returns errHeldBack if too many calls wait
// already, unless the call must be sent, and the error of ctx if that ends first. The
// caller must call release unless there is an error. now is in nanoseconds since any
// fixed moment.
func (c *connections) acquire(ctx context.Context, now int64, must bool) error {
	select {
	case <-c.free:
		if c.waiting.Load() == 0 {
			c.emptyAt.Store(now)
		}
		return nil
	default:
	}
	n := c.waiting.Add(1)
	defer c.waiting.Add(-1)
	if n == 1 {
		c.emptyAt.Store(now)
	}
	if !must && n > c.bound(now) {
		c.refusedAt.Store(now)
		return errHeldBack
	}
	select {
	case <-c.free:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// bound returns how many calls may wait.
func (c *connections) bound(now int64) int64 {
	if now-c.emptyAt.Load() > standingTime || now-c.refusedAt.Load() < standingEnds {
		return c.few
	}
	return c.many
}

func (c *connections) release() { c.free <- struct{}{} }
