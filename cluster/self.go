// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	updateTimeout   = 2 * time.Second         // for an update to be sent as often as retransmitMult says
	propagationTime = 500 * time.Millisecond  // for others to pass the state leaving on
	leaveTimeout    = 5 * time.Second         // for memberlist to announce that this node leaves
	postLeaveTime   = 1500 * time.Millisecond // in which a node that left still answers probes
)

// SetState announces a new state of this node and returns at once. It is an error
// to go back to an earlier state.
func (c *Cluster) SetState(state State) error {
	return c.updateSelf(func(r *record) error {
		if !state.valid() || state < r.state {
			return fmt.Errorf("set state: cannot go from %s to %s", r.state, state)
		}
		r.state = state
		return nil
	})
}

// SetPolicy announces the digest of the policy in force and returns at once.
func (c *Cluster) SetPolicy(digest ID) {
	_ = c.updateSelf(func(r *record) error { r.policy = digest; return nil }) // cannot fail
}

// SetRules announces the digest of the rules of Envoy's rate limit service in
// force, 0 if there are none, and returns at once.
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
	c.selfChanged.Set()
	return nil
}

func (c *Cluster) encodeSelf() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.self.encode()
}

// publishSelf gossips changes of this node's record until ctx is done.
func (c *Cluster) publishSelf(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.selfChanged.C():
		}
		// memberlist drops an update that coincides with a refutation, and only returns
		// a timeout.
		for err := c.update(ctx); err != nil && ctx.Err() == nil; err = c.update(ctx) {
			c.log.Debug("update of this node was not sent in time, retrying", "error", err)
		}
	}
}

// update gossips this node's record and returns when it was sent retransmitMult
// times. Members that missed it get it with the next exchange of state.
func (c *Cluster) update(ctx context.Context) error {
	return c.withList(ctx, func(list *memberlist.Memberlist) error {
		if c.left {
			return nil // the other members ignore updates of a node that left
		}
		state := c.state()
		err := list.UpdateNode(updateTimeout)
		if err == nil && state == Leaving {
			c.announced.CompareAndSwap(nil, new(time.Now()))
		}
		return err
	})
}

func (c *Cluster) state() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.self.state
}

// withList calls f with listLock held, which UpdateNode, Leave and Shutdown need.
// The lock is a channel, so that waiting for it can be cancelled: f waits for the
// network.
func (c *Cluster) withList(ctx context.Context, f func(*memberlist.Memberlist) error) error {
	select {
	case c.listLock <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return errors.New("gossip has ended")
	}
	defer func() { <-c.listLock }()
	return f(c.list.Load())
}

// Leave leaves the cluster and ends Run. It announces the state [Leaving], if
// [Cluster.SetState] has not, then announces the departure, goes on answering
// probes for 1.5 s so that no member takes it for crashed, and waits for Run to
// return. That takes about 2 s if the state was announced before, otherwise 3 s, and less
// if ctx is done earlier; Run ends in any case. After an error other members may see a
// crash.
//
// Hand over what this node owns before calling Leave.
func (c *Cluster) Leave(ctx context.Context) error {
	if c.list.Load() == nil {
		return errors.New("leave: gossip is not running")
	}
	c.mu.Lock()
	again := c.mu.leaving
	c.mu.leaving = true
	c.mu.Unlock()
	if again {
		return errors.New("leave: Leave was called before")
	}
	err := c.announceLeave(ctx)
	close(c.stop)
	<-c.done
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil
}

func (c *Cluster) announceLeave(ctx context.Context) error {
	_ = c.SetState(Leaving) // cannot fail: it is the last state
	spread := propagationTime
	if at := c.announced.Load(); at != nil {
		spread -= time.Since(*at)
	} else {
		_ = c.update(ctx) // publishSelf retries
	}
	if err := c.sleep(ctx, spread); err != nil {
		return err
	}
	err := c.withList(ctx, func(list *memberlist.Memberlist) error {
		timeout := leaveTimeout
		if deadline, ok := ctx.Deadline(); ok {
			timeout = min(timeout, max(time.Until(deadline), time.Millisecond)) // 0 would mean no timeout
		}
		c.left = true
		return list.Leave(timeout)
	})
	if err != nil {
		return err
	}
	_ = c.sleep(ctx, postLeaveTime) // the departure is announced, so an early end is no error
	return nil
}

// sleep returns an error if ctx or Run ends before d has passed.
func (c *Cluster) sleep(ctx context.Context, d time.Duration) error {
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
