// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"

	"github.com/bucketring/bucketring/internal/notify"
)

// Cluster is this node's membership in the cluster. Its methods are safe for
// concurrent use. Run may be called only once: a node that has left comes back
// as a new boot, with a new Cluster.
type Cluster struct {
	options   Options
	log       *slog.Logger
	metrics   *metrics
	observer  *observer
	gossipLog *gossipLog
	keyring   *memberlist.Keyring // nil: gossip is plaintext

	view atomic.Pointer[View]
	list atomic.Pointer[memberlist.Memberlist] // nil until gossip runs

	announced atomic.Pointer[time.Time] // when others were told that this node leaves; nil: they were not

	selfChanged notify.Signal // mu.self has changed and is not published yet
	listLock    chan struct{} // cap 1: a full channel is a held lock; see withList
	left        bool          // list.Leave was called; guarded by listLock
	joined      chan struct{} // closed by Run; see Joined
	stop        chan struct{} // closed by Leave to end Run
	done        chan struct{} // closed when Run returns

	keysMu sync.Mutex // held to change keyring
	mu     struct {
		sync.Mutex
		self        record
		ran         bool
		leaving     bool
		subscribers map[chan *View]struct{} // nil after Run
		contact     contactStatus
		unvouched   []Unvouched // replaced, never modified
	}
}

// New returns a member that does not take part in gossip until Run is called.
func New(o Options) (*Cluster, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	keyring, err := newKeyring(o.Keys)
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		options: o, log: o.Logger, keyring: keyring,
		selfChanged: notify.New(), listLock: make(chan struct{}, 1),
		joined: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{}),
	}
	c.mu.self = record{
		state: Joining, name: o.Name, boot: o.Boot, grpc: o.GRPC, http: o.HTTP, ring: o.Ring, policy: o.Policy, tls: o.TLS,
	}
	c.mu.subscribers = map[chan *View]struct{}{}
	c.observer = newObserver(o.Ring, c.encodeSelf)
	c.metrics = newMetrics(o.Registry, c.HealthScore, func() float64 { return float64(c.observer.lastAlive.Load()) / 1e9 })
	c.gossipLog = newGossipLog(o.Logger, c.metrics.tcpOnly.Inc)
	c.view.Store(&View{self: o.Name, boot: o.Boot})
	return c, nil
}

// Run takes part in the cluster until ctx is done or [Cluster.Leave] has
// finished. If ctx ends first, other members see a crash. Run returns an error if
// gossip cannot start or cannot be shut down. Subscriptions are closed when it
// returns.
func (c *Cluster) Run(ctx context.Context) error {
	c.mu.Lock()
	ran := c.mu.ran
	c.mu.ran = true
	c.mu.Unlock()
	if ran {
		return errors.New("run cluster: Run was called before")
	}
	defer c.end()
	list, self, err := c.startGossip()
	c.gossipLog.flush()
	if err != nil {
		return err
	}
	c.list.Store(list)
	c.log.Info("gossip started", "name", c.options.Name, "boot", c.options.Boot.ID.String(), "address", self.String(), "encrypted", c.keyring != nil)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var g errgroup.Group
	g.Go(func() error { c.reconcile(ctx); return nil })
	g.Go(func() error { c.rejoin(ctx, list, self); return nil })
	g.Go(func() error { c.publishSelf(ctx); return nil })
	g.Go(func() error { return c.gossipLog.run(ctx) })
	select {
	case <-ctx.Done():
	case <-c.stop:
		cancel()
	}
	_ = g.Wait()             // none of them returns an error
	c.listLock <- struct{}{} // never released: list must not be used any more
	if err := list.Shutdown(); err != nil {
		return fmt.Errorf("shut down gossip: %w", err)
	}
	return nil
}

// end closes the subscriptions when Run returns.
func (c *Cluster) end() {
	c.mu.Lock()
	for views := range c.mu.subscribers {
		close(views)
	}
	c.mu.subscribers = nil
	c.mu.Unlock()
	c.gossipLog.flush()
	close(c.done)
}

// reconcile turns gossip events into views. Nothing else publishes views.
func (c *Cluster) reconcile(ctx context.Context) {
	state := newMembership(c.options.Name, c.options.Boot, timing{
		debounce: viewDebounce, maxDelay: viewMaxDelay, departedTTL: c.options.DepartedTTL, reconnectTimeout: reconnectTimeout,
	})
	vouched := newVouchers(c)
	defer vouched.stop()
	logged := map[string]bool{} // gossip names whose rejection was logged; at most maxRejections
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		events := []event{{kind: eventTick}}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.observer.changed.C():
			drained, rejections := c.observer.drain()
			events = append(events, vouched.admit(ctx, drained)...)
			c.logRejections(rejections, logged)
		case done := <-vouched.done:
			events = append(events, vouched.finish(done)...)
		}
		now := time.Now()
		var fx effects
		for _, e := range events {
			state, fx = step(state, e, now)
			if fx.publish != nil {
				c.publish(fx.publish)
			}
		}
		if timer.Stop(); !fx.nextStep.IsZero() {
			timer.Reset(max(0, fx.nextStep.Sub(now)))
		}
	}
}

func (c *Cluster) publish(v *View) {
	c.logChanges(c.view.Load(), v)
	c.metrics.set(v)
	c.view.Store(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	for views := range c.mu.subscribers {
		sendLatest(views, v)
	}
}

// sendLatest sends v and drops an older view that was not received yet. Only one
// goroutine at a time may send on the channel.
func sendLatest(views chan *View, v *View) {
	select {
	case <-views:
	default:
	}
	views <- v
}

// View returns the current view, never nil. It is one atomic load.
func (c *Cluster) View() *View { return c.view.Load() }

// Subscribe returns a channel that delivers the current view and then each new
// one. A slow receiver gets only the latest view; see [Diff]. The channel is
// closed by cancel or when Run returns.
func (c *Cluster) Subscribe() (views <-chan *View, cancel func()) {
	ch := make(chan *View, 1) // the latest view
	c.mu.Lock()
	defer c.mu.Unlock()
	ch <- c.view.Load()
	if c.mu.subscribers == nil {
		close(ch)
		return ch, func() {}
	}
	c.mu.subscribers[ch] = struct{}{}
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if _, ok := c.mu.subscribers[ch]; ok {
			delete(c.mu.subscribers, ch)
			close(ch)
		}
	}
}

// Joined returns a channel that is closed when a seed has answered, or when there
// are no seeds other than this node. It stays open while all seeds are down, so
// callers should not wait for it without a timeout.
func (c *Cluster) Joined() <-chan struct{} { return c.joined }

// HealthScore returns how far this node is behind with gossip: 0 is healthy, 1 is
// not.
func (c *Cluster) HealthScore() int {
	if list := c.list.Load(); list != nil {
		return list.GetHealthScore()
	}
	return 0
}

func (c *Cluster) logChanges(from, to *View) {
	for _, change := range Diff(from, to) {
		switch m := change.After; change.Kind {
		case MemberJoined:
			c.log.Info("member joined", "name", m.Name, "boot", m.Boot.ID.String(), "state", m.State.String(), "address", m.Gossip.String(), "view", to.Number)
		case MemberUpdated:
			if m.State != change.Before.State {
				c.log.Info("member changed state", "name", m.Name, "from", change.Before.State.String(), "to", m.State.String(), "view", to.Number)
			}
		case MemberLeft:
			c.log.Info("member left", "name", change.Before.Name, "boot", change.Before.Boot.ID.String(), "view", to.Number)
		case MemberCrashed:
			c.log.Warn("member crashed", "name", change.Before.Name, "boot", change.Before.Boot.ID.String(), "view", to.Number)
		}
	}
	if to.SelfFenced() && !from.SelfFenced() {
		m, _ := to.Member(c.options.Name)
		c.log.Error("this node is fenced: a newer boot has its name", "name", m.Name, "boot", m.Boot.ID.String(), "address", m.Gossip.String())
	}
	switch before, after := len(from.PolicySkew()), len(to.PolicySkew()); {
	case after > 0 && before == 0:
		c.log.Warn("members have different policies", "policies", after)
	case after == 0 && before > 0:
		c.log.Info("members have the same policy again")
	}
	switch before, after := len(from.RulesSkew()), len(to.RulesSkew()); {
	case after > 0 && before == 0:
		c.log.Warn("members have different rules of Envoy's rate limit service", "rules", after)
	case after == 0 && before > 0:
		c.log.Info("members have the same rules of Envoy's rate limit service again")
	}
}

// logRejections logs and counts each rejected boot once.
func (c *Cluster) logRejections(rejections map[string]error, logged map[string]bool) {
	for name, err := range rejections {
		if logged[name] {
			continue
		}
		if len(logged) >= maxRejections {
			clear(logged)
		}
		logged[name] = true
		c.metrics.rejected.Inc()
		c.log.Warn("node cannot join this cluster", "node", name, "error", err)
	}
}
