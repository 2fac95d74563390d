// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// restartTry is the time between two tries to start a node whose port somebody
// else has.
const restartTry = 200 * time.Millisecond

// do does what is due. It calls next when the node is free for what comes next.
func (r *run) do(ctx context.Context, s step, next func()) {
	nodes := r.cluster.all()
	if s.Kind == Restart {
		r.restartAll(ctx, s.Fault, nodes)
		return
	}
	n := nodes[s.node-1]
	text := fmt.Sprintf("%s %s", s.Kind, n.name)
	if s.Kind == Pause {
		text += " for " + brief(s.For)
	}
	if err := n.take(ctx); err != nil {
		r.failed(r.begin(s.Kind, n.name, text), err)
		return
	}
	m := r.begin(s.Kind, n.name, text)
	want, err := r.hit(ctx, s.Fault, n)
	n.release()
	next()
	r.settle(ctx, m, want, err)
}

// settle waits until a fault that was done, unless there was an error, has taken
// effect.
func (r *run) settle(ctx context.Context, m *Mark, want func(*status) error, err error) {
	if err != nil {
		if ctx.Err() == nil || !errors.Is(err, context.Cause(ctx)) { // the end of the run is none
			r.failed(m, err)
		}
		return
	}
	if r.cluster.awaitRing(ctx, want) == nil {
		r.took(m)
	}
}

// hit does a fault to a node whose turn it is. It returns the ring in which the
// fault has taken effect.
func (r *run) hit(ctx context.Context, f Fault, n *node) (want func(*status) error, err error) {
	if f.Kind == Join {
		boot, err := r.cluster.bring(n)
		return has(boot), err
	}
	ch, boot, ok := n.up()
	if !ok {
		return nil, n.notUp()
	}
	switch f.Kind {
	case Kill:
		ch.kill()
		return lacks(boot), nil
	case Pause:
		return has(boot), pause(ctx, n, ch, f.For)
	case Leave:
		return lacks(boot), leave(ctx, n, ch)
	}
	return nil, fmt.Errorf("no fault is called %q", f.Kind)
}

// pause makes a node stand still for a while, or until ctx is done.
func pause(ctx context.Context, n *node, ch *child, length time.Duration) error {
	if err := freeze(ch.process); err != nil {
		return fmt.Errorf("pause %s: %w", n.name, err)
	}
	n.turnTo(ch, paused)
	sleep(ctx, time.Now().Add(length))
	if err := thaw(ch.process); err != nil {
		return fmt.Errorf("let %s go on: %w", n.name, err)
	}
	n.turnTo(ch, running)
	return nil
}

// leave asks a node to end, and waits for it.
func leave(ctx context.Context, n *node, ch *child) error {
	n.turnTo(ch, leaving)
	ch.interrupt()
	select {
	case <-ch.done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if ch.err != nil {
		return fmt.Errorf("%s failed at its end: %s", n.name, ch.fate())
	}
	return nil
}

// restartAll restarts the nodes that run, one after the other. It begins no other
// one when ctx is done, or when one does not come back: what comes next would not
// be a rolling restart.
func (r *run) restartAll(ctx context.Context, f Fault, nodes []*node) {
	first := true
	for _, n := range nodes {
		if !first {
			sleep(ctx, time.Now().Add(f.Wait))
		}
		text := "restart " + n.name
		if err := n.take(ctx); err != nil {
			r.failed(r.begin(Restart, n.name, text), err)
			return
		}
		ch, _, ok := n.up()
		if !ok { // it is down
			n.release()
			continue
		}
		first = false
		m := r.begin(Restart, n.name, text)
		boot, err := r.cluster.restart(n, ch)
		n.release()
		r.settle(ctx, m, has(boot), err)
		if err != nil {
			return
		}
	}
}

// restart makes a node leave and starts it again. It is not cut short by the end
// of a run: the cluster is whole after it.
func (c *Cluster) restart(n *node, ch *child) (boot string, err error) {
	ctx, cancel := context.WithTimeoutCause(c.life, c.o.StartTimeout, fmt.Errorf("%s did not end within %s", n.name, c.o.StartTimeout))
	defer cancel()
	if err := leave(ctx, n, ch); err != nil {
		return "", err
	}
	return c.bring(n)
}

// bring starts a node that is down, and returns the boot of one that is ready. As
// restart, it is cut short by the end of the cluster only.
func (c *Cluster) bring(n *node) (boot string, err error) {
	ctx, cancel := context.WithTimeout(c.life, c.o.StartTimeout)
	defer cancel()
	for {
		err := c.tryStart(ctx, n)
		if err == nil {
			_, boot, _ := n.up()
			return boot, nil
		}
		if !errors.Is(err, errPortTaken) || !sleep(ctx, time.Now().Add(restartTry)) {
			return "", err
		}
		if err := n.move(c.pick); err != nil {
			return "", err
		}
	}
}

// tryStart starts a node that is down, and waits until it is ready. If that fails
// it is down.
func (c *Cluster) tryStart(ctx context.Context, n *node) error {
	if !n.isDown() {
		return n.notUp()
	}
	var peers []*node
	for _, p := range c.all() {
		if p.known() {
			peers = append(peers, p)
		}
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
