// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// node is a member of the cluster, running or not.
type node struct {
	name string
	sem  chan struct{} // cap 1: a lock, held while the node is started, stopped or paused

	mu struct {
		sync.Mutex
		ports    ports
		state    state
		child    *child        // the latest; nil before the first
		boot     string        // boot id of child, once it is ready
		wasReady bool          // some child was ready
		endedCPU time.Duration // CPU time of all children that ended
		lastCPU  time.Duration // CPU time of child at the last sample
	}
}

// state is the state of a node.
type state string

const (
	down     state = "down"
	starting state = "starting"
	running  state = "running"
	paused   state = "paused"
	leaving  state = "leaving"
)

func newNode(number int, p ports) *node {
	n := &node{name: nameOf(number), sem: make(chan struct{}, 1)}
	n.mu.ports, n.mu.state = p, down
	return n
}

// errRunEnded is the problem of a fault that was due but not applied.
var errRunEnded = errors.New("the run ended before the fault was applied")

// acquire locks the node for a fault. The caller must call release.
func (n *node) acquire(ctx context.Context) error {
	if ctx.Err() != nil {
		return errRunEnded
	}
	select {
	case n.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return errRunEnded
	}
}

func (n *node) release() { <-n.sem }

// listenPorts returns the ports of the node.
func (n *node) listenPorts() ports {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.ports
}

// changePorts gives the node other ports, unless it was ready with those it has.
func (n *node) changePorts(pick func() (ports, error)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.wasReady {
		return nil
	}
	var err error
	n.mu.ports, err = pick()
	return err
}

// runningChild returns the child and its boot id, if the node is ready and not paused.
func (n *node) runningChild() (c *child, boot string, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.child, n.mu.boot, n.mu.state == running
}

// latest returns the latest child, which may have ended, or nil.
func (n *node) latest() *child {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.child
}

// reachable reports whether other nodes can reach this one, now or soon.
func (n *node) reachable() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.state == starting || n.mu.state == running || n.mu.state == paused
}

func (n *node) isDown() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.state == down
}

// setState changes the state of a child, unless it has ended.
func (n *node) setState(c *child, s state) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.child == c && n.mu.state != down {
		n.mu.state = s
	}
}

// launchedLocked records a new child.
func (n *node) launchedLocked(c *child) {
	n.mu.child, n.mu.state, n.mu.boot, n.mu.lastCPU = c, starting, "", 0
}

// ready records that the child is ready.
func (n *node) ready(c *child, boot string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.child == c && n.mu.state == starting {
		n.mu.state, n.mu.boot, n.mu.wasReady = running, boot, true
	}
}

// exited records that the child has ended. It reports whether that is a crash: the
// child was ready and not told to end.
func (n *node) exited(c *child) (crash bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.mu.state = down
	n.mu.endedCPU += c.cpu
	n.mu.lastCPU = 0
	return !c.stopRequested.Load() && n.mu.boot != ""
}

// usage returns the usage of all processes of the node. Memory is 0 if it is down.
func (n *node) usage() (Usage, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.state == down {
		return Usage{CPU: n.mu.endedCPU}, nil
	}
	u, err := ProcessUsage(n.mu.child.process.Pid)
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return Usage{}, err
	case err != nil: // the process has just ended
		return Usage{CPU: n.mu.endedCPU + n.mu.lastCPU}, nil
	}
	n.mu.lastCPU = u.CPU
	u.CPU += n.mu.endedCPU
	return u, nil
}

// Node is a snapshot of a node of a cluster.
type Node struct {
	Name       string
	HTTP, GRPC string // addresses; they do not change when the node is restarted
	RESP       string // address for the protocol of Redis, with Options.RESP
	PID        int    // 0 if the node is down
	Paused     bool
}

func (n *node) info() Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.mu.ports
	i := Node{Name: n.name, HTTP: p.address(p.http), GRPC: p.address(p.grpc), RESP: p.address(p.resp), Paused: n.mu.state == paused}
	if n.mu.state != down {
		i.PID = n.mu.child.process.Pid
	}
	return i
}

// stateError returns the error of a fault whose node is not in the right state.
func (n *node) stateError() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return fmt.Errorf("%s is %s", n.name, n.mu.state)
}
