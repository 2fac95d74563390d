// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// node is a member of the cluster, whether it runs or not.
type node struct {
	name string
	turn chan struct{} // capacity 1, full while somebody starts, ends or pauses it

	mu struct {
		sync.Mutex
		ports ports
		state state
		child *child        // the latest; nil before the first
		boot  string        // of child, when it has said so; it is ready then
		seen  bool          // some child was ready
		spent time.Duration // processor time of the children that ended
		last  time.Duration // of child, when it was asked
	}
}

// state is what a node does, as far as this process made it do that.
type state string

const (
	down     state = "down"
	starting state = "starting"
	running  state = "running"
	paused   state = "paused"
	leaving  state = "leaving"
)

func newNode(number int, p ports) *node {
	n := &node{name: nameOf(number), turn: make(chan struct{}, 1)}
	n.mu.ports, n.mu.state = p, down
	return n
}

// errTooLate is the problem of a fault that was due.
var errTooLate = errors.New("the run ended before its turn came")

// take waits until nobody else starts, ends or pauses the node. Who took it
// must release it.
func (n *node) take(ctx context.Context) error {
	if ctx.Err() != nil {
		return errTooLate
	}
	select {
	case n.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errTooLate
	}
}

func (n *node) release() { <-n.turn }

// at is where the node listens.
func (n *node) at() ports {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.ports
}

// move gives the node other ports, unless somebody may know those that it has.
func (n *node) move(pick func() (ports, error)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.seen {
		return nil
	}
	var err error
	n.mu.ports, err = pick()
	return err
}

// up returns the child and its boot, if the node is ready and not paused.
func (n *node) up() (c *child, boot string, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.child, n.mu.boot, n.mu.state == running
}

// latest returns the child, which may have ended; nil before the first.
func (n *node) latest() *child {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.child
}

// known reports whether other nodes may find this one.
func (n *node) known() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.state == starting || n.mu.state == running || n.mu.state == paused
}

func (n *node) isDown() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.state == down
}

// turnTo changes the state of a child, unless that has ended.
func (n *node) turnTo(c *child, s state) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.child == c && n.mu.state != down {
		n.mu.state = s
	}
}

// launchedLocked notes a new child.
func (n *node) launchedLocked(c *child) {
	n.mu.child, n.mu.state, n.mu.boot, n.mu.last = c, starting, "", 0
}

// ready notes that the child is.
func (n *node) ready(c *child, boot string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.child == c && n.mu.state == starting {
		n.mu.state, n.mu.boot, n.mu.seen = running, boot, true
	}
}

// exited notes that the child has ended. It reports whether that is a crash: of
// one that was ready, and not asked to.
func (n *node) exited(c *child) (crash bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.state = down
	n.mu.spent += c.cpu
	n.mu.last = 0
	return !c.asked.Load() && n.mu.boot != ""
}

// use is what all processes of the node have used; no memory if it is down.
func (n *node) use() (Use, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.state == down {
		return Use{CPU: n.mu.spent}, nil
	}
	u, err := ProcessUse(n.mu.child.process.Pid)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return Use{}, err
	case err != nil: // it has ended a moment ago
		return Use{CPU: n.mu.spent + n.mu.last}, nil
	}
	n.mu.last = u.CPU
	u.CPU += n.mu.spent
	return u, nil
}

// Node is a member of a cluster, as it was when it was asked for.
type Node struct {
	Name       string
	HTTP, GRPC string // addresses; they stay the same when it is restarted
	PID        int    // 0: it is down
	Paused     bool
}

func (n *node) info() Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := Node{Name: n.name, HTTP: address(n.mu.ports.http), GRPC: address(n.mu.ports.grpc), Paused: n.mu.state == paused}
	if n.mu.state != down {
		i.PID = n.mu.child.process.Pid
	}
	return i
}

// notUp is the error of a fault whose node does not run.
func (n *node) notUp() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Errorf("%s is %s", n.name, n.mu.state)
}
