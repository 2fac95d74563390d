// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// restartRetryInterval is the time between two attempts to start a node whose port is
// in use by another process.
const restartRetryInterval = 200 * time.Millisecond

// execute applies a fault. It calls next when the next fault of the node may begin.
func (r *run) execute(ctx context.Context, s step, next func()) {
	nodes := r.cluster.allNodes()
	switch s.Kind {
	case Restart:
		r.restartAll(ctx, s.Fault, nodes)
		return
	case Busy:
		next() // it has no node that others wait for
		r.beBusy(ctx, s.Fault)
		return
	}
	n := nodes[s.node-1]
	text := fmt.Sprintf("%s %s", s.Kind, n.name)
	if s.Kind == Pause {
		text += " for " + formatDuration(s.Duration)
	}
	if s.Kind == Pause && s.Interval != 0 {
		text += " each " + formatDuration(s.Interval)
	}
	if err := n.acquire(ctx); err != nil {
		r.fail(r.addMark(s.Kind, n.name, text), err)
		return
	}
	m := r.addMark(s.Kind, n.name, text)
	want, err := r.apply(ctx, s.Fault, n)
	n.release()
	next()
	r.awaitEffect(ctx, m, want, err)
}

// awaitEffect waits until the fault has taken effect: until the rings of the nodes
// satisfy want. err is the error of applying it.
func (r *run) awaitEffect(ctx context.Context, m *Mark, want func(*status) error, err error) {
	if err != nil {
		if ctx.Err() == nil || !errors.Is(err, context.Cause(ctx)) { // the end of the run is not a problem
			r.fail(m, err)
		}
		return
	}
	if r.cluster.awaitRing(ctx, want) == nil {
		r.effective(m)
	}
}

// apply applies a fault to a node that the caller has acquired. It returns a condition
// that holds for the ring once the fault has taken effect.
func (r *run) apply(ctx context.Context, f Fault, n *node) (want func(*status) error, err error) {
	if f.Kind == Join {
		boot, err := r.cluster.startNode(n)
		return ringHas(boot), err
	}
	ch, boot, ok := n.runningChild()
	if !ok {
		return nil, n.stateError()
	}
	switch f.Kind {
	case Kill:
		ch.kill()
		return ringLacks(boot), nil
	case Pause:
		return ringHas(boot), pauseEach(ctx, n, ch, f.Duration, f.Interval)
	case Leave:
		return ringLacks(boot), leave(ctx, n, ch)
	}
	return nil, fmt.Errorf("unknown kind of fault %q", f.Kind)
}

// pauseEach pauses a node once, or each interval until ctx is done if that is not 0.
func pauseEach(ctx context.Context, n *node, ch *child, length, interval time.Duration) error {
	for next := time.Now(); ; {
		if err := pause(ctx, n, ch, length); err != nil || interval == 0 {
			return err
		}
		next = next.Add(interval)
		if !sleep(ctx, next) {
			return nil
		}
	}
}

// pause suspends a node for a time, or until ctx is done.
func pause(ctx context.Context, n *node, ch *child, length time.Duration) error {
	if err := suspend(ch.process); err != nil {
		return fmt.Errorf("pause %s: %w", n.name, err)
	}
	n.setState(ch, paused)
	sleep(ctx, time.Now().Add(length))
	if err := resume(ch.process); err != nil {
		return fmt.Errorf("resume %s: %w", n.name, err)
	}
	n.setState(ch, running)
	return nil
}

// leave stops a node gracefully and waits for its end.
func leave(ctx context.Context, n *node, ch *child) error {
	n.setState(ch, leaving)
	ch.interrupt()
	select {
	case <-ch.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if ch.err != nil {
		return fmt.Errorf("%s failed during shutdown: %s", n.name, ch.exitDetails())
	}
	return nil
}

// restartAll restarts the running nodes one after the other. It stops when ctx is done
// or when a node fails to restart.
func (r *run) restartAll(ctx context.Context, f Fault, nodes []*node) {
	first := true
	for _, n := range nodes {
		if !first {
			sleep(ctx, time.Now().Add(f.Interval))
		}
		text := "restart " + n.name
		if err := n.acquire(ctx); err != nil {
			r.fail(r.addMark(Restart, n.name, text), err)
			return
		}
		ch, _, ok := n.runningChild()
		if !ok {
			n.release()
			continue
		}
		first = false
		m := r.addMark(Restart, n.name, text)
		boot, err := r.cluster.restart(n, ch)
		n.release()
		r.awaitEffect(ctx, m, ringHas(boot), err)
		if err != nil {
			return
		}
	}
}

// restart stops a node and starts it again. The end of a run does not interrupt it, so
// that the cluster is complete afterwards.
func (c *Cluster) restart(n *node, ch *child) (boot string, err error) {
	ctx, cancel := context.WithTimeoutCause(c.ctx, c.o.StartTimeout, fmt.Errorf("%s did not stop within %s", n.name, c.o.StartTimeout))
	defer cancel()
	if err := leave(ctx, n, ch); err != nil {
		return "", err
	}
	return c.startNode(n)
}

// startNode starts a node that is down and returns its boot id when it is ready. Only
// the end of the cluster interrupts it.
func (c *Cluster) startNode(n *node) (boot string, err error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.o.StartTimeout)
	defer cancel()
	for {
		err := c.tryStart(ctx, n)
		if err == nil {
			_, boot, _ := n.runningChild()
			return boot, nil
		}
		if !errors.Is(err, errPortTaken) || !sleep(ctx, time.Now().Add(restartRetryInterval)) {
			return "", err
		}
		if err := n.changePorts(c.o.pickPorts); err != nil {
			return "", err
		}
	}
}

// tryStart starts a node that is down and waits until it is ready. If it fails, the
// node is down.
func (c *Cluster) tryStart(ctx context.Context, n *node) error {
	if !n.isDown() {
		return n.stateError()
	}
	var peers []*node
	for _, p := range c.allNodes() {
		if p.reachable() {
			peers = append(peers, p)
		}
	}
	if len(peers) == 0 { // all are down: those that start at the same time find each other
		peers = c.allNodes()
	}
	ch, err := c.launch(n, peers)
	if err != nil {
		return err
	}
	if err := c.awaitReady(ctx, n, ch); err != nil {
		ch.kill()
		return err
	}
	return nil
}
