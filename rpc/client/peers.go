// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/bucketring/bucketring/rpc/internal/link"
)

// closeDelay is how long after the longest call the connection to a member that left
// the ring is closed.
const closeDelay = time.Second

// peer is the connection to one member, and the link on it.
type peer struct {
	node  *node
	seed  bool // the connection is that of one of Options.Addrs
	link  *link.Link
	ready atomic.Bool // connected

	stop context.CancelFunc // of watch
	done sync.WaitGroup     // watch has returned

	// Guarded by peers.mu.
	inRing     bool
	closeTimer *time.Timer // set while it is not in the ring
}

// peers are the connections to members, which stay when the ring changes.
type peers struct {
	seeds      map[string]*node // by target
	max        int              // connections to members that are not seeds
	rules      dialRules
	timeout    time.Duration // of a call
	options    []grpc.DialOption
	ringDigest func() uint64
	onClose    func() // a connection was closed, so another one may be opened

	mu struct {
		sync.Mutex
		all     map[string]*peer // by target
		closed  bool
		closing sync.WaitGroup // calls of remove that close a peer
	}
}

// connect sets the peer of every member of v, or the reason why it has none. Peers
// that are not in v are closed after a delay.
func (ps *peers) connect(v *view) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.mu.closed {
		return
	}
	for _, p := range ps.mu.all {
		p.inRing = false
	}
	var unconnected []*member
	for _, m := range v.members {
		target, err := ps.rules.target(m.address)
		switch p := ps.mu.all[target]; {
		case err != nil:
			m.noPeer = err
		case p != nil:
			p.keepLocked()
			m.peer = p
		default:
			unconnected = append(unconnected, m)
		}
	}
	for _, m := range unconnected {
		target, _ := ps.rules.target(m.address)
		m.peer, m.noPeer = ps.addLocked(target)
	}
	for target, p := range ps.mu.all {
		if !p.inRing && p.closeTimer == nil {
			p.closeTimer = time.AfterFunc(ps.timeout+closeDelay, func() { ps.remove(target, p) })
		}
	}
}

// keepLocked marks p as being in the ring.
func (p *peer) keepLocked() {
	p.inRing = true
	if p.closeTimer != nil {
		p.closeTimer.Stop()
		p.closeTimer = nil
	}
}

// addLocked returns the peer at target, a new one if needed.
func (ps *peers) addLocked(target string) (*peer, error) {
	if p := ps.mu.all[target]; p != nil { // two members have the same address
		return p, nil
	}
	n := ps.seeds[target]
	seed := n != nil
	if !seed {
		count := 0
		for _, p := range ps.mu.all {
			if !p.seed {
				count++
			}
		}
		if count >= ps.max {
			return nil, fmt.Errorf("there are already %d connections to members: %w", count, errNotDirect)
		}
		conn, err := grpc.NewClient("dns:///"+target, ps.options...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", target, err)
		}
		n = newNode(target, conn)
	}
	p := &peer{node: n, seed: seed, inRing: true}
	p.link = link.New(link.Options{
		Open:    func(ctx context.Context) (link.Stream, error) { return link.Exchange(ctx, n.api) },
		Ring:    ps.ringDigest,
		Timeout: ps.timeout,
	})
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.done.Go(func() { p.watch(ctx) })
	ps.mu.all[target] = p
	return p, nil
}

// watch updates p.ready until ctx ends. A call goes to the member only while it is
// connected; otherwise other nodes answer.
func (p *peer) watch(ctx context.Context) {
	for {
		state := p.node.conn.GetState()
		p.ready.Store(state == connectivity.Ready)
		if state == connectivity.Idle {
			p.node.conn.Connect()
		}
		if !p.node.conn.WaitForStateChange(ctx, state) {
			p.ready.Store(false)
			return
		}
	}
}

// remove closes a peer that is still not in the ring.
func (ps *peers) remove(target string, p *peer) {
	ps.mu.Lock()
	if ps.mu.closed || p.inRing || ps.mu.all[target] != p {
		ps.mu.Unlock()
		return
	}
	delete(ps.mu.all, target)
	ps.mu.closing.Add(1)
	ps.mu.Unlock()
	_ = p.close()
	ps.mu.closing.Done()
	ps.onClose()
}

// close closes all connections to members that are not seeds.
func (ps *peers) close() error {
	ps.mu.Lock()
	ps.mu.closed = true
	all := ps.mu.all
	ps.mu.all = nil
	for _, p := range all {
		if p.closeTimer != nil {
			p.closeTimer.Stop()
		}
	}
	ps.mu.Unlock()
	ps.mu.closing.Wait()
	var errs []error
	for _, p := range all {
		errs = append(errs, p.close())
	}
	return errors.Join(errs...)
}

// close waits for the goroutines of p. Its calls fail with link.ErrClosed.
func (p *peer) close() error {
	p.stop()
	p.done.Wait()
	p.link.Close()
	if p.seed {
		return nil
	}
	return p.node.close()
}
