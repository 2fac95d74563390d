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
	"github.com/bucketring/bucketring/rpc/pb"
)

// retireAfter is how long the connection to a member that left the ring stays,
// beyond the longest call.
const retireAfter = time.Second

// A peer is the connection to one member, and the link on it.
type peer struct {
	node  *node
	own   bool // the connection is not that of one of Options.Addrs
	link  *link.Link
	ready atomic.Bool // connected

	stop    context.CancelFunc // of the goroutine that keeps ready
	watched sync.WaitGroup     // that goroutine

	// Guarded by peers.mu.
	inRing bool
	retire *time.Timer // set while it is not in the ring
}

// peers are the connections to members, by target. They outlive the rings.
type peers struct {
	given   map[string]*node // the client's own addresses
	most    int              // connections beside those
	reach   reach
	timeout time.Duration // of a call
	options []grpc.DialOption
	digest  func() uint64 // of the ring
	freed   func()        // a connection was closed, so that another one may be made

	mu struct {
		sync.Mutex
		all     map[string]*peer
		closed  bool
		closing sync.WaitGroup // peers that are being closed
	}
}

// connect gives every member of v its connection, or the reason why it has none,
// and retires those that no member has any more.
func (ps *peers) connect(v *view) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.mu.closed {
		return
	}
	for _, p := range ps.mu.all {
		p.inRing = false
	}
	var waiting []*member // for a new connection
	for _, m := range v.members {
		target, err := ps.reach.target(m.address)
		switch p := ps.mu.all[target]; {
		case err != nil:
			m.indirect = err
		case p != nil:
			p.keepLocked()
			m.peer = p
		default:
			waiting = append(waiting, m)
		}
	}
	for _, m := range waiting {
		target, _ := ps.reach.target(m.address)
		m.peer, m.indirect = ps.addLocked(target)
	}
	for target, p := range ps.mu.all {
		if !p.inRing && p.retire == nil {
			p.retire = time.AfterFunc(ps.timeout+retireAfter, func() { ps.drop(target, p) })
		}
	}
}

// keepLocked says that p is in the ring.
func (p *peer) keepLocked() {
	p.inRing = true
	if p.retire != nil {
		p.retire.Stop()
		p.retire = nil
	}
}

// addLocked returns the peer at target, a new one if there is none.
func (ps *peers) addLocked(target string) (*peer, error) {
	if p := ps.mu.all[target]; p != nil { // two members say the same address
		return p, nil
	}
	n := ps.given[target]
	own := n == nil
	if own {
		count := 0
		for _, p := range ps.mu.all {
			if p.own {
				count++
			}
		}
		if count >= ps.most {
			return nil, fmt.Errorf("there are %d connections to members: %w", count, errNotDirect)
		}
		conn, err := grpc.NewClient("dns:///"+target, ps.options...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", target, err)
		}
		n = &node{addr: target, conn: conn, api: pb.NewRateLimiterClient(conn)}
	}
	p := &peer{node: n, own: own, inRing: true}
	p.link = link.New(link.Options{
		Open:    func(ctx context.Context) (link.Stream, error) { return link.Exchange(ctx, n.api) },
		Ring:    ps.digest,
		Timeout: ps.timeout,
	})
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	p.watched.Go(func() { p.watch(ctx) })
	ps.mu.all[target] = p
	return p, nil
}

// watch keeps p.ready. A call goes directly only over a connection that is
// there: while it is being made, or cannot be made, other nodes answer.
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

// drop closes a peer that is still not in the ring.
func (ps *peers) drop(target string, p *peer) {
	ps.mu.Lock()
	if ps.mu.closed || p.inRing || ps.mu.all[target] != p {
		ps.mu.Unlock()
		return
	}
	delete(ps.mu.all, target)
	ps.mu.closing.Add(1)
	ps.mu.Unlock()
	_ = p.close() // nobody is left who could be told
	ps.mu.closing.Done()
	ps.freed()
}

// close ends all connections to members.
func (ps *peers) close() error {
	ps.mu.Lock()
	ps.mu.closed = true
	all := ps.mu.all
	ps.mu.all = nil
	for _, p := range all {
		if p.retire != nil {
			p.retire.Stop()
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

// close waits for the goroutines of p. Its calls end with link.ErrClosed.
func (p *peer) close() error {
	p.stop()
	p.watched.Wait()
	p.link.Close()
	if !p.own {
		return nil
	}
	return p.node.conn.Close()
}
