// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// envPrefix is the prefix of bucketring's environment variables.
const envPrefix = "BUCKETRING_"

// ChildEnv is set for children. A child that starts a cluster is a program that was
// given as the binary but does not implement serve, such as a test binary, and would
// start itself without end.
const ChildEnv = envPrefix + "BENCH_CHILD"

var (
	errStopped   = errors.New("the cluster is stopped")
	errPortTaken = errors.New("another process uses one of its ports")
)

// Cluster is a set of nodes, one child process each. Its methods are safe for
// concurrent use.
type Cluster struct {
	o      Options
	label  string // unique, so that clusters on one machine never join each other
	http   *http.Client
	remove func() error
	logMu  sync.Mutex // serializes calls of Options.Log

	bare       []bareServer            // written by Start
	abortStart context.CancelCauseFunc // makes Start fail
	ctx        context.Context         // done when the cluster stops
	cancel     context.CancelFunc
	stopOnce   sync.Once
	stopErr    error // written by stopOnce

	mu struct {
		sync.Mutex
		stopping bool
		nodes    []*node // by number; never removed
		crashes  []error // not reported yet
		run      *run    // nil if none is in progress
	}
}

// startAttempts is how often Start tries with other ports, when a port that was free
// is in use by the time a node listens.
const startAttempts = 5

// Start starts the nodes and waits until they agree on one ring. They end with ctx or
// by [Cluster.Stop]; the caller must do one of both. If it fails, no process is left
// running, and the error has the end of the log of the node that failed.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if os.Getenv(ChildEnv) != "" {
		return nil, errors.New("a node cannot start a cluster: the binary must be bucketring, or implement its serve command")
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	remove, err := o.prepare()
	if err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		c, err := start(ctx, o)
		if err == nil {
			c.remove = remove
			context.AfterFunc(c.ctx, func() { _ = c.Stop() }) // Stop returns the same error again
			return c, nil
		}
		if attempt == startAttempts || !errors.Is(err, errPortTaken) {
			return nil, errors.Join(err, remove())
		}
		o.Log("a port is in use by another process, trying others")
	}
}

func start(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{
		o: o, label: fmt.Sprintf("bench-%016x", rand.Uint64()), remove: func() error { return nil },
		// A connection to a node that was restarted on the same port must be new.
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
	c.ctx, c.cancel = context.WithCancel(ctx)
	if err := c.startAll(ctx); err != nil {
		c.cancel()
		c.stopBare()
		for _, n := range c.allNodes() {
			if ch := n.latest(); ch != nil {
				ch.kill()
			}
		}
		return nil, err
	}
	return c, nil
}

// startAll starts all nodes. If one of them ends, that is the error, whichever node
// was waited for.
func (c *Cluster) startAll(ctx context.Context) error {
	began := time.Now()
	starting, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	c.abortStart = abort
	if err := c.startOnce(starting); err != nil {
		if ended := context.Cause(starting); ended != nil && ctx.Err() == nil {
			return ended
		}
		return err
	}
	c.log("%s in one ring after %s", nodesAre(c.o.Nodes), time.Since(began).Round(10*time.Millisecond))
	return nil
}

func nodesAre(n int) string {
	if n == 1 {
		return "1 node is"
	}
	return fmt.Sprintf("%d nodes are", n)
}

func (c *Cluster) startOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.o.StartTimeout)
	defer cancel()
	if err := c.startBare(); err != nil {
		return err
	}
	if err := c.addNodes(c.o.Nodes); err != nil {
		return err
	}
	nodes := c.allNodes()
	children := make([]*child, len(nodes))
	for i, n := range nodes {
		var err error
		if children[i], err = c.launch(n, nodes); err != nil {
			return err
		}
	}
	for i, n := range nodes {
		if err := c.awaitReady(ctx, n, children[i]); err != nil {
			return err
		}
	}
	if err := c.awaitRing(ctx, ringSize(len(nodes))); err != nil {
		return fmt.Errorf("the nodes did not agree on one ring: %w", err)
	}
	return context.Cause(ctx) // a node may have ended meanwhile
}

// addNodes adds nodes that are down until there are total.
func (c *Cluster) addNodes(total int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addNodesLocked(total)
}

func (c *Cluster) addNodesLocked(total int) error {
	for len(c.mu.nodes) < total {
		number := len(c.mu.nodes) + 1
		p, err := c.o.portsOf(number)
		if err != nil {
			return err
		}
		c.mu.nodes = append(c.mu.nodes, newNode(number, p))
	}
	return nil
}

func (c *Cluster) allNodes() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.mu.nodes)
}

// launch starts a process for a node that is down. It joins the peers, or starts a
// cluster if there are none.
func (c *Cluster) launch(n *node, peers []*node) (*child, error) {
	args := c.args(n, peers)
	command := append([]string{c.o.Binary}, args...)
	if c.o.Network != nil {
		command = c.o.Network.inside(n.name, command)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = environment(c.o.Env)
	c.mu.Lock() // either Stop sees the child, or this sees stopping
	defer c.mu.Unlock()
	if c.mu.stopping {
		return nil, errStopped
	}
	n.mu.Lock() // held until the start is recorded, before exited records the end
	defer n.mu.Unlock()
	ch, err := spawn(cmd, filepath.Join(c.o.Dir, n.name+".log"), func(ch *child) { c.exited(n, ch) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.name, err)
	}
	n.launchedLocked(ch)
	return ch, nil
}

func (c *Cluster) args(n *node, peers []*node) []string {
	p := n.listenPorts()
	args := []string{
		"serve", "--name", n.name, "--cluster", c.label,
		"--http", p.address(p.http), "--grpc", p.address(p.grpc), "--gossip", p.address(p.gossip),
		"--log-format", "text",
	}
	if c.o.RESP {
		args = append(args, "--resp", p.address(p.resp))
	}
	var join []string
	for _, peer := range peers {
		if peer != n {
			at := peer.listenPorts()
			join = append(join, at.address(at.gossip))
		}
	}
	if len(join) > 0 {
		args = append(args, "--join", strings.Join(join, ","))
	}
	if c.o.Policy != "" {
		args = append(args, "--policy", c.o.Policy)
	}
	if c.o.Persist {
		args = append(args, "--data", filepath.Join(c.o.Dir, n.name))
	}
	return append(args, c.o.ExtraArgs...)
}

// environment returns the environment of this process without bucketring's variables,
// and with more.
func environment(more []string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, envPrefix) })
	return append(append(env, more...), ChildEnv+"=1")
}

// exited records that a child has ended.
func (c *Cluster) exited(n *node, ch *child) {
	crash := n.exited(ch)
	c.abortStart(startError(n, ch))
	if !crash {
		return
	}
	c.mu.Lock()
	c.mu.crashes = append(c.mu.crashes, fmt.Errorf("%s crashed: %s", n.name, ch.exitDetails()))
	r := c.mu.run
	c.mu.Unlock()
	if text := fmt.Sprintf("%s crashed: %s", n.name, ch.exitStatus()); r != nil {
		r.addMark(Crash, n.name, text)
	} else {
		c.log("%s", text)
	}
}

// startError is the error of a child that ended before it was ready.
func startError(n *node, ch *child) error {
	if ch.portTaken() {
		return fmt.Errorf("%s: %w: %s", n.name, errPortTaken, ch.exitDetails())
	}
	return fmt.Errorf("%s ended during its start: %s", n.name, ch.exitDetails())
}

// takeCrashes returns the crashes that were not reported yet.
func (c *Cluster) takeCrashes() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	crashes := c.mu.crashes
	c.mu.crashes = nil
	return crashes
}

func (c *Cluster) log(format string, args ...any) {
	c.logMu.Lock()
	defer c.logMu.Unlock()
	c.o.Log(fmt.Sprintf(format, args...))
}

// Nodes returns all nodes by number, including those that are down.
func (c *Cluster) Nodes() []Node {
	nodes := c.allNodes()
	infos := make([]Node, len(nodes))
	for i, n := range nodes {
		infos[i] = n.info()
	}
	return infos
}

// GRPCAddrs returns the gRPC addresses of all nodes, in the order of Nodes.
func (c *Cluster) GRPCAddrs() []string {
	var addresses []string
	for _, n := range c.Nodes() {
		addresses = append(addresses, n.GRPC)
	}
	return addresses
}

// HTTPAddrs returns the HTTP addresses of all nodes, in the order of Nodes.
func (c *Cluster) HTTPAddrs() []string {
	var addresses []string
	for _, n := range c.Nodes() {
		addresses = append(addresses, n.HTTP)
	}
	return addresses
}

// Dir returns the directory of the logs.
func (c *Cluster) Dir() string { return c.o.Dir }

// Stop ends all nodes and waits until their processes have ended. It kills those that
// take longer than Options.StopTimeout. The error names the nodes that were killed,
// that failed during shutdown, or whose crash no Run has reported. Further calls
// return the same error.
func (c *Cluster) Stop() error {
	c.stopOnce.Do(func() { c.stopErr = c.stop() })
	return c.stopErr
}

func (c *Cluster) stop() error {
	c.mu.Lock()
	c.mu.stopping = true
	nodes := slices.Clone(c.mu.nodes)
	c.mu.Unlock()
	c.cancel()
	c.stopBare()
	problems := c.takeCrashes()
	timeout := time.NewTimer(c.o.StopTimeout)
	defer timeout.Stop()
	stopping := make(map[*node]*child)
	for _, n := range nodes {
		if ch := n.latest(); ch != nil && !ch.ended() {
			stopping[n] = ch
			ch.interrupt()
			_ = resume(ch.process) // a suspended process does not handle the signal
		}
	}
	kill := false
	for _, n := range nodes {
		ch := stopping[n]
		if ch == nil {
			continue
		}
		if !kill {
			select {
			case <-ch.done:
			case <-timeout.C:
				kill = true
			}
		}
		switch {
		case !ch.ended():
			ch.kill()
			problems = append(problems, fmt.Errorf("%s did not stop within %s and was killed%s", n.name, c.o.StopTimeout, ch.tail()))
		case ch.err != nil:
			problems = append(problems, fmt.Errorf("%s failed during shutdown: %s", n.name, ch.exitDetails()))
		}
	}
	c.log("all nodes have stopped")
	return errors.Join(append(problems, c.remove())...)
}
