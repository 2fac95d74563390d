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
)

// Cluster is this node's part in the cluster. Its methods are safe for
// concurrent use, but Run may be called once: a node that left comes back as
// another boot.
type Cluster struct {
	options   Options
	log       *slog.Logger
	metrics   *metrics
	observer  *observer
	gossipLog *gossipLog
	keyring   *memberlist.Keyring // nil: plaintext

	view atomic.Pointer[View]
	list atomic.Pointer[memberlist.Memberlist] // nil until gossip runs

	announce chan struct{} // this node has news of itself; cap 1: one note is enough
	updating chan struct{} // cap 1: whoever put something in may call UpdateNode, Leave or Shutdown of list
	left     bool          // said so; guarded by updating
	joined   chan struct{} // closed by Run, see Joined
	stop     chan struct{} // closed by Leave: Run shall return
	done     chan struct{} // closed by Run when it returns

	keys sync.Mutex // held to change keyring
	mu   struct {
		sync.Mutex
		self        record
		ran         bool
		leaving     bool
		subscribers map[chan *View]struct{}
		contact     contact
	}
}

// New makes a member that does nothing yet.
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
		announce: make(chan struct{}, 1), updating: make(chan struct{}, 1),
		joined: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{}),
	}
	c.mu.self = record{
		state: Joining, slot: o.Slot, boot: o.Boot, grpc: o.GRPC, http: o.HTTP, ring: o.Ring, policy: o.Policy,
	}
	c.mu.subscribers = map[chan *View]struct{}{}
	c.observer = newObserver(o.Ring, c.encodeSelf)
	c.metrics = newMetrics(o.Registry, c.HealthScore, func() float64 { return float64(c.observer.heard.Load()) / 1e9 })
	c.gossipLog = newGossipLog(o.Logger, c.metrics.tcpOnly.Inc)
	c.view.Store(&View{self: o.Slot, boot: o.Boot})
	return c, nil
}

// Run takes part in the cluster until ctx is done, which looks like a crash to
// the others, or until [Cluster.Leave] is through. It fails if gossip cannot
// start. When it returns, all of its goroutines have ended or are about to, and
// subscriptions are closed.
func (c *Cluster) Run(ctx context.Context) error {
	c.mu.Lock()
	ran := c.mu.ran
	c.mu.ran = true
	c.mu.Unlock()
	if ran {
		return errors.New("run cluster: it ran before")
	}
	defer c.end()
	list, self, err := c.startGossip()
	c.gossipLog.flush()
	if err != nil {
		return err
	}
	c.list.Store(list)
	c.log.Info("gossip runs", "slot", c.options.Slot, "boot", c.options.Boot.ID.String(), "address", self.String(), "encrypted", c.keyring != nil)

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
	_ = g.Wait()             // none fails
	c.updating <- struct{}{} // and never again
	if err := list.Shutdown(); err != nil {
		return fmt.Errorf("shut down gossip: %w", err)
	}
	return nil
}

// end is the last thing that Run does.
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

// reconcile is the one place that makes views.
func (c *Cluster) reconcile(ctx context.Context) {
	state := newMembership(c.options.Slot, c.options.Boot, pace{
		quiet: quietTime, limit: limitTime, forget: c.options.Forget, remember: remember,
	})
	refused := map[string]bool{} // logged; at most maxRefusals
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		events := []event{{kind: passed}}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.observer.dirty:
			noted, refusals := c.observer.take()
			events = append(events, noted...)
			c.logRefusals(refusals, refused)
		}
		now := time.Now()
		var fx effects
		for _, e := range events {
			state, fx = step(state, e, now)
			if fx.publish != nil {
				c.publish(fx.publish)
			}
		}
		if timer.Stop(); !fx.wake.IsZero() {
			timer.Reset(max(0, fx.wake.Sub(now)))
		}
	}
}

func (c *Cluster) publish(v *View) {
	c.logChanges(c.view.Load(), v)
	c.metrics.count(v)
	c.view.Store(v)
	c.mu.Lock()
	defer c.mu.Unlock()
	for views := range c.mu.subscribers {
		offer(views, v)
	}
}

// offer replaces what nobody has received yet. Only one goroutine at a time may
// send on the channel.
func offer(views chan *View, v *View) {
	select {
	case <-views:
	default:
	}
	views <- v
}

// View returns the current view, never nil. It is one atomic load.
func (c *Cluster) View() *View { return c.view.Load() }

// Subscribe returns a channel with the current view, and then with each new one.
// Whoever is late gets the latest and misses those in between; see [Diff]. The
// channel is closed by cancel, or when Run returns.
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

// Joined is closed when this node has talked to a seed, or found that it has
// none but itself. Seeds that are all away leave it open: who starts first must
// not wait for ever.
func (c *Cluster) Joined() <-chan struct{} { return c.joined }

// HealthScore is how badly this node keeps up with gossip, 0 for well to 1.
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
			c.log.Info("member joined", "slot", m.Slot, "boot", m.Boot.ID.String(), "state", m.State.String(), "address", m.Gossip.String(), "view", to.Number)
		case MemberUpdated:
			if m.State != change.Before.State {
				c.log.Info("member changed state", "slot", m.Slot, "from", change.Before.State.String(), "to", m.State.String(), "view", to.Number)
			}
		case MemberLeft:
			c.log.Info("member left", "slot", change.Before.Slot, "boot", change.Before.Boot.ID.String(), "view", to.Number)
		case MemberCrashed:
			c.log.Warn("member crashed", "slot", change.Before.Slot, "boot", change.Before.Boot.ID.String(), "view", to.Number)
		}
	}
	if to.SelfFenced() && !from.SelfFenced() {
		m, _ := to.Member(c.options.Slot)
		c.log.Error("this node is fenced: a newer boot holds its slot", "slot", m.Slot, "boot", m.Boot.ID.String(), "address", m.Gossip.String())
	}
	switch was, is := len(from.PolicySkew()), len(to.PolicySkew()); {
	case is > 0 && was == 0:
		c.log.Warn("members have different policies", "policies", is)
	case is == 0 && was > 0:
		c.log.Info("members have the same policy again")
	}
	switch was, is := len(from.RulesSkew()), len(to.RulesSkew()); {
	case is > 0 && was == 0:
		c.log.Warn("members have different rules of Envoy's rate limit service", "rules", is)
	case is == 0 && was > 0:
		c.log.Info("members have the same rules of Envoy's rate limit service again")
	}
}

// logRefusals says once per boot why it is kept out.
func (c *Cluster) logRefusals(refusals map[string]error, known map[string]bool) {
	for name, err := range refusals {
		if known[name] {
			continue
		}
		if len(known) >= maxRefusals {
			clear(known)
		}
		known[name] = true
		c.metrics.refused.Inc()
		c.log.Warn("node kept out of the cluster", "node", name, "error", err)
	}
}
