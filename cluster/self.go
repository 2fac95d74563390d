// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"
)

// How this node tells others about itself.
const (
	updateTimeout = 2 * time.Second        // for an update to be sent often enough
	spreadTime    = 500 * time.Millisecond // for it to be passed on
	leaveTimeout  = 5 * time.Second
	lingerTime    = 1500 * time.Millisecond
)

// SetState tells the others a new state of this node, and returns at once. A
// state never goes back: that is an error.
func (c *Cluster) SetState(state State) error {
	return c.updateSelf(func(r *record) error {
		if !state.valid() || state < r.state {
			return fmt.Errorf("set state: cannot go from %s to %s", r.state, state)
		}
		r.state = state
		return nil
	})
}

// SetPolicy tells the others the digest of the policy now in force, and returns
// at once.
func (c *Cluster) SetPolicy(digest ID) {
	_ = c.updateSelf(func(r *record) error { r.policy = digest; return nil }) // cannot fail
}

// SetRules is SetPolicy for the rules of Envoy's rate limit service; 0: none.
func (c *Cluster) SetRules(digest ID) {
	_ = c.updateSelf(func(r *record) error { r.rules = digest; return nil }) // cannot fail
}

func (c *Cluster) updateSelf(change func(*record) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	self := c.mu.self
	if err := change(&self); err != nil || self == c.mu.self {
		return err
	}
	c.mu.self = self
	select {
	case c.announce <- struct{}{}:
	default:
	}
	return nil
}

func (c *Cluster) encodeSelf() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.self.encode()
}

// publishSelf hands changes of the own record to gossip.
func (c *Cluster) publishSelf(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.announce:
		}
		// memberlist drops an update that meets a refutation, and says no more
		// than that it timed out.
		for err := c.update(ctx); err != nil && ctx.Err() == nil; err = c.update(ctx) {
			c.log.Debug("update of this node goes round slowly, trying again", "error", err)
		}
	}
}

// update gossips the own record, and returns when it was sent often enough. What
// is not heard then travels with the next exchange of state.
func (c *Cluster) update(ctx context.Context) error {
	return c.exclusive(ctx, func(list *memberlist.Memberlist) error {
		if c.left {
			return nil // nobody would listen
		}
		return list.UpdateNode(updateTimeout)
	})
}

// exclusive calls f while nobody else updates, leaves or shuts down. The lock is
// a channel because f waits for the network.
func (c *Cluster) exclusive(ctx context.Context, f func(*memberlist.Memberlist) error) error {
	select {
	case c.updating <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return errors.New("gossip has ended")
	}
	defer func() { <-c.updating }()
	return f(c.list.Load())
}

// Leave says goodbye and ends Run: it tells the others that this node is
// leaving, if [Cluster.SetState] has not, then that it is gone, goes on
// answering for a moment, so that nobody who is late takes it for crashed, and
// waits for Run. It takes about 3 s, and less if ctx is done before; Run ends in
// any case. An error means that others may take it for a crash.
//
// Whatever this node owns should have been handed over before.
func (c *Cluster) Leave(ctx context.Context) error {
	if c.list.Load() == nil {
		return errors.New("leave: gossip does not run")
	}
	c.mu.Lock()
	again := c.mu.leaving
	c.mu.leaving = true
	c.mu.Unlock()
	if again {
		return errors.New("leave: it is leaving already")
	}
	err := c.sayGoodbye(ctx)
	close(c.stop)
	<-c.done
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

func (c *Cluster) sayGoodbye(ctx context.Context) error {
	_ = c.SetState(Leaving) // no state is above it
	_ = c.update(ctx)       // publishSelf goes on trying
	if err := c.pause(ctx, spreadTime); err != nil {
		return err
	}
	err := c.exclusive(ctx, func(list *memberlist.Memberlist) error {
		timeout := leaveTimeout
		if deadline, ok := ctx.Deadline(); ok {
			timeout = min(timeout, max(time.Until(deadline), time.Millisecond)) // 0 would wait for ever
		}
		c.left = true
		return list.Leave(timeout)
	})
	if err != nil {
		return err
	}
	_ = c.pause(ctx, lingerTime) // the goodbye is out
	return nil
}

func (c *Cluster) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return errors.New("gossip has ended")
	}
}
