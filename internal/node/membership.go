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

// How long the steps of joining and leaving may take.
const (
	settleTimeout    = 5 * time.Second // for the own view to name this node
	leaveRingTimeout = 2 * time.Second // for the own view not to name it any more
	retargetTime     = time.Second     // for the others to follow, see gossip's quiet time
	flushTimeout     = 3 * time.Second // for the outbox
	goodbyeTimeout   = 3 * time.Second
)

// gossip is a run of the cluster. It outlives all else that the node does: the
// others must hear that it leaves, and not that it crashes.
type gossip struct {
	cancel context.CancelFunc
	ended  chan struct{} // closed when Run has returned err
	err    error
}

func startGossip(c *cluster.Cluster) *gossip {
	ctx, cancel := context.WithCancel(context.Background())
	g := &gossip{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(g.ended)
		g.err = c.Run(ctx)
	}()
	return g
}

// watch returns when ctx is done, or with an error when gossip ends before.
func (g *gossip) watch(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-g.ended:
		if g.err == nil {
			return errors.New("gossip ended")
		}
		return g.err
	}
}

// stop ends gossip, which looks like a crash unless the node has left.
func (g *gossip) stop() error {
	g.cancel()
	<-g.ended
	return g.err
}

// applied is the latest view that the router has been told of.
type applied struct {
	mu struct {
		sync.Mutex
		view *cluster.View
		next chan struct{} // closed when view is replaced
	}
}

func (a *applied) set(v *cluster.View) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.view = v
	if a.mu.next != nil {
		close(a.mu.next)
		a.mu.next = nil
	}
}

func (a *applied) get() (v *cluster.View, next <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.mu.next == nil {
		a.mu.next = make(chan struct{})
	}
	return a.mu.view, a.mu.next
}

// await waits until the router acts on a view that is as wanted.
func (a *applied) await(ctx context.Context, ok func(*cluster.View) bool) error {
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

// follow makes the router act on each view until ctx is done.
func (n *Node) follow(ctx context.Context) error {
	views, cancel := n.cluster.Subscribe()
	defer cancel()
	var last peer.Topology
	for {
		select {
		case <-ctx.Done():
			return nil
		case v, open := <-views:
			if !open {
				return nil // see gossip.watch
			}
			n.showHealth()
			if t := topologyOf(v); !reflect.DeepEqual(t, last) {
				if err := n.router.SetTopology(t); err != nil {
					n.log.Error("view not followed, going on with the ring before", "view", v.Number, "error", err)
					continue
				}
				last = t
			}
			n.applied.set(v)
		}
	}
}

// topologyOf is what the router needs to know of a view.
func topologyOf(v *cluster.View) peer.Topology {
	t := peer.Topology{Fenced: v.SelfFenced(), Roster: max(1, v.Roster())}
	for _, m := range v.Members {
		if !m.GRPC.IsValid() {
			continue // nobody can ask it
		}
		member := peer.Member{Name: m.Slot, Boot: uint64(m.Boot.ID), GRPC: m.GRPC.String()}
		if m.State == cluster.Serving {
			t.Serving = append(t.Serving, member)
		} else {
			t.Others = append(t.Others, member)
		}
	}
	return t
}

// serves reports whether the ring of v names this run of the node.
func (n *Node) serves(v *cluster.View) bool {
	m, ok := v.Member(n.config.Name)
	return ok && m.Boot.ID == n.boot.ID && m.State == cluster.Serving
}

// othersServe reports whether the ring of v names anybody else.
func (n *Node) othersServe(v *cluster.View) bool {
	return slices.ContainsFunc(v.Members, func(m cluster.Member) bool {
		return m.Slot != n.config.Name && m.State == cluster.Serving
	})
}

// join waits for the others and then takes a share of the ring, in bounded time:
// who starts first must not wait for ever, and a split heals by itself.
func (n *Node) join(ctx context.Context) {
	timer := time.NewTimer(n.config.JoinTimeout)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-n.cluster.Joined():
	case <-timer.C:
		if len(n.config.Join) == 0 {
			break // with no time at all
		}
		n.log.Warn("none of the members to join can be reached, going on without them; each side of a split allows what the policy does",
			"join", n.config.Join, "join_timeout", n.config.JoinTimeout, "error", n.cluster.Status().Problem)
	}
	if err := n.cluster.SetState(cluster.Serving); err != nil {
		n.log.Error("cannot take a share of the ring", "error", err) // never: it was joining
		return
	}
	bounded, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	complete := func(v *cluster.View) bool { return n.serves(v) && len(v.Serving()) >= n.expect }
	if err := n.applied.await(bounded, complete); err != nil && ctx.Err() == nil {
		v := n.cluster.View()
		n.log.Warn("the ring is not complete, going on", "waited", settleTimeout, "serving", len(v.Serving()), "fenced", v.SelfFenced())
	}
}

// leaveRing gives the share of the ring to the others, if there are any, and
// waits until they act on it. Calls are still answered.
func (n *Node) leaveRing() error {
	if v := n.cluster.View(); n.hasty || !n.serves(v) || !n.othersServe(v) {
		return nil
	}
	if err := n.cluster.SetState(cluster.Leaving); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveRingTimeout)
	defer cancel()
	err := n.applied.await(ctx, func(v *cluster.View) bool { return !n.serves(v) })
	if err != nil {
		n.log.Warn("the ring still names this node, leaving nevertheless", "waited", leaveRingTimeout)
		return nil
	}
	if n.othersServe(n.cluster.View()) {
		time.Sleep(retargetTime) // until then, what they send here is redirected
	}
	return nil
}

// leaveCluster says goodbye, if anybody stays to hear it, and ends gossip.
func (n *Node) leaveCluster(g *gossip) error {
	stay := slices.ContainsFunc(n.cluster.View().Members, func(m cluster.Member) bool {
		return m.Slot != n.config.Name && m.State != cluster.Leaving
	})
	if stay && !n.hasty {
		ctx, cancel := context.WithTimeout(context.Background(), goodbyeTimeout)
		defer cancel()
		if err := n.cluster.Leave(ctx); err != nil {
			n.log.Warn("others may take this node for crashed", "error", err)
		}
	}
	return g.stop()
}
