// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/rpc/peer"
)

// Bounds of the steps of joining and leaving.
const (
	joinRingTimeout = 5 * time.Second // until this node's view has it in the ring
	redirectTime    = time.Second     // until the other members have the same view
	flushTimeout    = 3 * time.Second // until the outbox is empty
	leaveTimeout    = 3 * time.Second // until the departure is announced
)

// separateRun is a part of the node that ends at a time of its own during the shutdown:
// gossip after everything else, so that other members see it leave and not crash;
// replication before the servers, whose streams would not end otherwise.
type separateRun struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when run has returned err
	err    error
}

func startRun(run func(context.Context) error) *separateRun {
	ctx, cancel := context.WithCancel(context.Background())
	g := &separateRun{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(g.done)
		g.err = run(ctx)
	}()
	return g
}

// watch returns nil when ctx is done, or an error if gossip ends before that.
func (g *separateRun) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-g.done:
		if g.err == nil {
			return errors.New("gossip ended")
		}
		return g.err
	}
}

// stop ends the run. It may be called again. Other members see the end of gossip as a crash
// unless the node has left.
func (g *separateRun) stop() error {
	g.cancel()
	<-g.done
	return g.err
}

// appliedView is the latest view that the router uses.
type appliedView struct {
	mu struct {
		sync.Mutex
		view *cluster.View
		next chan struct{} // closed when view is replaced
	}
}

func (a *appliedView) set(v *cluster.View) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.view = v
	if a.mu.next != nil {
		close(a.mu.next)
		a.mu.next = nil
	}
}

func (a *appliedView) get() (v *cluster.View, next <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.next == nil {
		a.mu.next = make(chan struct{})
	}
	return a.mu.view, a.mu.next
}

// wait waits until the router uses a view for which ok returns true.
func (a *appliedView) wait(ctx context.Context, ok func(*cluster.View) bool) error {
	for {
		v, next := a.get()
		if v != nil && ok(v) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-next:
		}
	}
}

// followViews applies each view to the router until ctx is done.
func (n *Node) followViews(ctx context.Context) error {
	views, cancel := n.cluster.Subscribe()
	defer cancel()
	var last peer.Topology
	for {
		select {
		case <-ctx.Done():
			return nil
		case v, open := <-views:
			if !open {
				return nil // gossip ended, which separateRun.watch reports
			}
			n.updateHealth()
			if v.SelfFenced() { // the others give its place in the ring away, also if the newer boot departs
				_ = n.cluster.SetState(cluster.Leaving) // cannot fail: there is no later state
			}
			if t := topologyOf(v); !reflect.DeepEqual(t, last) {
				if err := n.router.SetTopology(t); err != nil {
					n.log.Error("view not applied: the previous ring stays in use", "view", v.Number, "error", err)
					continue
				}
				last = t
			}
			n.appliedView.set(v)
		}
	}
}

// topologyOf returns the part of a view that the router needs.
func topologyOf(v *cluster.View) peer.Topology {
	t := peer.Topology{Fenced: v.SelfFenced(), Roster: max(1, v.Roster())}
	for _, m := range v.Members {
		if !m.GRPC.IsValid() {
			continue // peers cannot connect to it
		}
		member := peer.Member{Name: m.Name, Boot: runNumber(m.Boot), GRPC: m.GRPC.String(), TLS: m.TLS, Gossip: addressText(m.Gossip)}
		switch m.State {
		case cluster.Serving:
			t.Serving = append(t.Serving, member)
		case cluster.Leaving:
			t.Leaving = append(t.Leaving, member)
		default:
			t.Joining = append(t.Joining, member)
		}
	}
	return t
}

// inRing reports whether this boot of the node is in the ring of v.
func (n *Node) inRing(v *cluster.View) bool {
	m, ok := v.Member(n.config.Name)
	return ok && m.Boot.ID == n.boot.ID && m.State == cluster.Serving
}

// othersInRing reports whether other members are in the ring of v.
func (n *Node) othersInRing(v *cluster.View) bool {
	return slices.ContainsFunc(v.Members, func(m cluster.Member) bool {
		return m.Name != n.config.Name && m.State == cluster.Serving
	})
}

// join waits until a seed has answered and then joins the ring. Both waits are
// bounded, because the first node to start has no one to wait for, and a split
// heals later.
func (n *Node) join(ctx context.Context) {
	timer := time.NewTimer(n.config.JoinTimeout)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-n.cluster.Joined():
	case <-timer.C:
		if len(n.config.Join) == 0 {
			break // the timeout is so short that Joined had no time to close
		}
		n.log.Warn("none of the members to join can be reached, starting without them: until they are reached, both sides admit calls independently",
			"join", n.config.Join, "join_timeout", n.config.JoinTimeout, "error", n.cluster.Status().Problem)
	}
	if err := n.enterRoster(ctx); err != nil {
		return // the node shuts down
	}
	if err := n.cluster.SetState(cluster.Serving); err != nil {
		n.log.Error("node cannot join the ring", "error", err) // it is fenced
		return
	}
	bounded, cancel := context.WithTimeout(ctx, joinRingTimeout)
	defer cancel()
	complete := func(v *cluster.View) bool { return n.inRing(v) && len(v.Serving()) >= n.expectedMembers }
	err := n.appliedView.wait(bounded, complete)
	if err == nil {
		err = n.awaitOwners(bounded)
	}
	if err != nil && ctx.Err() == nil {
		v := n.cluster.View()
		attrs := []any{"timeout", joinRingTimeout, "serving", len(v.Serving()), "fenced", v.SelfFenced(), "error", err}
		if n.expectedMembers > 0 {
			attrs = append(attrs, "expected", n.expectedMembers)
		}
		n.log.Warn("ring is incomplete after the timeout, starting anyway", attrs...)
	}
}

// leaveRing leaves the ring, if other members are in it, and waits until they
// have taken over everything. The node still answers calls.
func (n *Node) leaveRing() error {
	if v := n.cluster.View(); !n.inRing(v) || !n.othersInRing(v) {
		return nil
	}
	if err := n.cluster.SetState(cluster.Leaving); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), n.config.HandoverTimeout)
	defer cancel()
	n.handOver(ctx)
	if n.othersInRing(n.cluster.View()) {
		time.Sleep(redirectTime) // calls that others still send here are redirected
	}
	return nil
}

// othersStay reports whether there are other members that do not leave.
func (n *Node) othersStay() bool {
	return slices.ContainsFunc(n.cluster.View().Members, func(m cluster.Member) bool {
		return m.Name != n.config.Name && m.State != cluster.Leaving
	})
}

// leaveCluster announces the departure, if other members stay, and ends gossip.
func (n *Node) leaveCluster(g *separateRun) error {
	if n.othersStay() && !n.skipLeave {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		defer cancel()
		if err := n.cluster.Leave(ctx); err != nil {
			n.log.Warn("departure not announced: other members may see a crash", "error", err)
		}
	}
	return g.stop()
}
