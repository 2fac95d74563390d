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

// settings begin the names of bucketring's own environment.
const settings = "BUCKETRING_"

// childMark is set for children. One that starts a cluster is a program that was
// given as the binary, or is it by default, and does not understand serve: a test
// binary, say, which would start itself for ever.
const childMark = settings + "BENCH_CHILD"

var (
	errStopped   = errors.New("the cluster was stopped")
	errPortTaken = errors.New("somebody else has one of its ports")
)

// Cluster is a number of nodes, one child process each. Its methods are safe for
// concurrent use.
type Cluster struct {
	o      Options
	label  string // of this cluster only: those on one machine never mix
	http   *http.Client
	remove func() error
	logs   sync.Mutex // held to log

	abort   context.CancelCauseFunc // ends the wait of Start
	life    context.Context         // done when it is to stop
	end     context.CancelFunc
	once    sync.Once
	stopErr error // written once, by once

	taken struct {
		sync.Mutex
		ports map[int]bool // that some node got
	}

	mu struct {
		sync.Mutex
		stopping bool
		nodes    []*node // in the order of their names; none is ever removed
		crashes  []error // that nobody was told of
		run      *run    // the one under way
	}
}

// startAttempts is how often all nodes are started when somebody takes a port
// between the moment it was found free and the moment a node listens there.
const startAttempts = 5

// Start starts the nodes and waits until they are one ring. They end when ctx
// does, or by Stop, whichever is first; the caller must do one of both. An error
// shows the end of the log of the node that it is about, and leaves nothing
// running.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if os.Getenv(childMark) != "" {
		return nil, errors.New("a node of a bench cannot start a bench: the binary of the nodes must be bucketring, or do what it does when its first argument is serve")
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
			context.AfterFunc(c.life, func() { _ = c.Stop() }) // who calls Stop gets the error
			return c, nil
		}
		if attempt == startAttempts || !errors.Is(err, errPortTaken) {
			return nil, errors.Join(err, remove())
		}
		o.Log("a port was taken by somebody else, trying others")
	}
}

func start(ctx context.Context, o Options) (*Cluster, error) {
	c := &Cluster{
		o: o, label: fmt.Sprintf("bench-%016x", rand.Uint64()), remove: func() error { return nil },
		// A connection to a node that was restarted on the same port must be new.
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
	c.taken.ports = make(map[int]bool)
	c.life, c.end = context.WithCancel(ctx)
	if err := c.startAll(ctx); err != nil {
		c.end()
		for _, n := range c.all() {
			if ch := n.latest(); ch != nil {
				ch.kill()
			}
		}
		return nil, err
	}
	return c, nil
}

// startAll starts all nodes. When one of them ends, its end is the error,
// whichever node was waited for.
func (c *Cluster) startAll(ctx context.Context) error {
	began := time.Now()
	starting, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	c.abort = abort
	if err := c.startOnce(starting); err != nil {
		if ended := context.Cause(starting); ended != nil && ctx.Err() == nil {
			return ended
		}
		return err
	}
	c.log("%s one ring after %s", nodesAre(c.o.Nodes), time.Since(began).Round(10*time.Millisecond))
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
	if err := c.grow(c.o.Nodes); err != nil {
		return err
	}
	nodes := c.all()
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
	if err := c.awaitRing(ctx, numbers(len(nodes))); err != nil {
		return fmt.Errorf("the nodes are not one ring: %w", err)
	}
	return context.Cause(ctx) // one may have ended since
}

// grow adds nodes that are down, until there are so many.
func (c *Cluster) grow(total int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.growLocked(total)
}

func (c *Cluster) growLocked(total int) error {
	for len(c.mu.nodes) < total {
		p, err := c.pick()
		if err != nil {
			return err
		}
		c.mu.nodes = append(c.mu.nodes, newNode(len(c.mu.nodes)+1, p))
	}
	return nil
}

// pick returns ports that no other node got.
func (c *Cluster) pick() (p ports, err error) {
	c.taken.Lock()
	defer c.taken.Unlock()
	for range 1000 {
		if p, err = c.o.pick(); err != nil {
			return p, err
		}
		if !c.taken.ports[p.http] && !c.taken.ports[p.grpc] && !c.taken.ports[p.gossip] {
			for _, port := range []int{p.http, p.grpc, p.gossip} {
				c.taken.ports[port] = true
			}
			return p, nil
		}
	}
	return p, errors.New("all free ports are those of other nodes")
}

func (c *Cluster) all() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.mu.nodes)
}

// launch starts a process for a node that is down. It joins those of the peers
// that can be found, or will be; if there are none it starts a cluster.
func (c *Cluster) launch(n *node, peers []*node) (*child, error) {
	args := c.args(n, peers)
	cmd := exec.Command(c.o.Binary, args...)
	cmd.Env = environment(c.o.Env)
	c.mu.Lock() // Stop sees the child, or this sees that it stops
	defer c.mu.Unlock()
	if c.mu.stopping {
		return nil, errStopped
	}
	n.mu.Lock() // so that its end is noted after its start
	defer n.mu.Unlock()
	ch, err := spawn(cmd, filepath.Join(c.o.Dir, n.name+".log"), func(ch *child) { c.exited(n, ch) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.name, err)
	}
	n.launchedLocked(ch)
	return ch, nil
}

func (c *Cluster) args(n *node, peers []*node) []string {
	p := n.at()
	args := []string{
		"serve", "--name", n.name, "--cluster", c.label,
		"--http", address(p.http), "--grpc", address(p.grpc), "--gossip", address(p.gossip),
		"--log-format", "text",
	}
	var join []string
	for _, peer := range peers {
		if peer != n {
			join = append(join, address(peer.at().gossip))
		}
	}
	if len(join) > 0 {
		args = append(args, "--join", strings.Join(join, ","))
	}
	if c.o.Policy != "" {
		args = append(args, "--policy", c.o.Policy)
	}
	if c.o.Data {
		args = append(args, "--data", filepath.Join(c.o.Dir, n.name))
	}
	return append(args, c.o.ExtraArgs...)
}

// environment is that of this process without what would change the settings of
// a node, and with more.
func environment(more []string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, settings) })
	return append(append(env, more...), childMark+"=1")
}

// exited notes that a child has ended.
func (c *Cluster) exited(n *node, ch *child) {
	crash := n.exited(ch)
	c.abort(endedEarly(n, ch))
	if !crash {
		return
	}
	c.mu.Lock()
	c.mu.crashes = append(c.mu.crashes, fmt.Errorf("%s ended by itself: %s", n.name, ch.fate()))
	r := c.mu.run
	c.mu.Unlock()
	if text := fmt.Sprintf("%s ended by itself: %s", n.name, ch.how()); r != nil {
		r.begin(Crash, n.name, text)
	} else {
		c.log("%s", text)
	}
}

// endedEarly is the error of a child that ended when it was to become ready.
func endedEarly(n *node, ch *child) error {
	if ch.portTaken() {
		return fmt.Errorf("%s: %w: %s", n.name, errPortTaken, ch.fate())
	}
	return fmt.Errorf("%s ended at its start: %s", n.name, ch.fate())
}

// takeCrashes returns those that nobody was told of.
func (c *Cluster) takeCrashes() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	crashes := c.mu.crashes
	c.mu.crashes = nil
	return crashes
}

func (c *Cluster) log(format string, args ...any) {
	c.logs.Lock()
	defer c.logs.Unlock()
	c.o.Log(fmt.Sprintf(format, args...))
}

// Nodes returns all nodes in the order of their numbers, those that are down, too.
func (c *Cluster) Nodes() []Node {
	nodes := c.all()
	infos := make([]Node, len(nodes))
	for i, n := range nodes {
		infos[i] = n.info()
	}
	return infos
}

// GRPC returns the gRPC addresses of all nodes, as Nodes does.
func (c *Cluster) GRPC() []string {
	var addresses []string
	for _, n := range c.Nodes() {
		addresses = append(addresses, n.GRPC)
	}
	return addresses
}

// HTTP returns the HTTP addresses of all nodes, as Nodes does.
func (c *Cluster) HTTP() []string {
	var addresses []string
	for _, n := range c.Nodes() {
		addresses = append(addresses, n.HTTP)
	}
	return addresses
}

// Dir is where the logs are.
func (c *Cluster) Dir() string { return c.o.Dir }

// Stop ends all nodes: it asks them to, and kills those that have not ended when
// the grace is over. It waits until all are gone. Its error names those that it
// had to kill, that failed while they ended, or that had ended before and no run
// has said so. Who calls it again gets the same.
func (c *Cluster) Stop() error {
	c.once.Do(func() { c.stopErr = c.stop() })
	return c.stopErr
}

func (c *Cluster) stop() error {
	c.mu.Lock()
	c.mu.stopping = true
	nodes := slices.Clone(c.mu.nodes)
	c.mu.Unlock()
	c.end()
	problems := c.takeCrashes()
	late := time.NewTimer(c.o.Grace)
	defer late.Stop()
	asked := make(map[*node]*child)
	for _, n := range nodes {
		if ch := n.latest(); ch != nil && !ch.ended() {
			asked[n] = ch
			ch.interrupt()
			_ = thaw(ch.process) // it would not hear it otherwise
		}
	}
	kill := false
	for _, n := range nodes {
		ch := asked[n]
		if ch == nil {
			continue
		}
		if !kill {
			select {
			case <-ch.done:
			case <-late.C:
				kill = true
			}
		}
		switch {
		case !ch.ended():
			ch.kill()
			problems = append(problems, fmt.Errorf("%s did not end within %s and was killed%s", n.name, c.o.Grace, ch.tail()))
		case ch.err != nil:
			problems = append(problems, fmt.Errorf("%s failed at its end: %s", n.name, ch.fate()))
		}
	}
	c.log("all nodes have ended")
	return errors.Join(append(problems, c.remove())...)
}
