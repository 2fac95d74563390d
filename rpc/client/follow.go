// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// firstRing is how long a node may take to send a ring.
	firstRing = 3 * time.Second
	// minWatch is how long a watch must last to be a good one.
	minWatch = time.Second

	// A watch that ended is followed by one of another node after a pause that
	// doubles while none is good.
	minWatchPause = 100 * time.Millisecond
	maxWatchPause = 10 * time.Second
	// noWatchPause is the pause after a node that does not know of Watch.
	noWatchPause = time.Minute

	// A ring that calls give reason to doubt is asked for at another node once
	// it is that old; the time doubles while the ring stays the same.
	minPatience = 2 * time.Second
	maxPatience = time.Minute
)

var (
	errDoubt   = errors.New("another node may have a newer ring")
	errNoRing  = errors.New("the node has sent no ring")
	errNoWatch = errors.New("not connected yet")
)

// A follower keeps the view of a client.
type follower struct {
	view   atomic.Pointer[view] // nil until a ring is known
	given  []*node
	peers  peers
	doubts chan *node // that calls have reason to; one is enough

	changed func() // there is another ring

	ctx  context.Context // until close
	stop context.CancelFunc
	done sync.WaitGroup

	// Of the watching goroutine.
	patience time.Duration
	doubted  *node // by the call that ended the latest watch

	mu struct {
		sync.Mutex // serializes changes of view
		source     string
		err        error // why no ring is followed
	}
}

// follow starts to follow the ring that the nodes of c know.
func (c *Client) follow(o Options, options []grpc.DialOption) {
	f := &follower{given: c.nodes, doubts: make(chan *node, 1), changed: c.later.box.RetryNow, patience: minPatience}
	f.ctx, f.stop = context.WithCancel(context.Background())
	f.mu.err = errNoWatch
	f.peers.given = map[string]*node{}
	f.peers.reach.anywhere = o.TLS != nil || o.Insecure
	for _, n := range c.nodes {
		target, local := parseAddr(n.addr)
		f.peers.given[target] = n
		f.peers.reach.loopback = f.peers.reach.loopback || local
	}
	f.peers.most, f.peers.timeout, f.peers.options = o.MaxPeers, o.Timeout, options
	f.peers.digest = f.digest
	f.peers.freed = f.reconnect
	f.peers.mu.all = map[string]*peer{}
	c.ring = f
	f.done.Go(f.run)
}

// close ends everything that follow has started.
func (f *follower) close() error {
	f.stop()
	f.done.Wait()
	f.mu.Lock()
	f.view.Store(nil) // calls that still come find the connections closed
	f.mu.Unlock()
	return f.peers.close()
}

func (f *follower) digest() uint64 {
	if v := f.view.Load(); v != nil {
		return v.digest
	}
	return 0
}

// doubt says that a call to n gave reason to think that the ring has changed.
// It never blocks.
func (f *follower) doubt(n *node) {
	select {
	case f.doubts <- n:
	default: // one is waiting
	}
}

// run watches one node after the other.
func (f *follower) run() {
	var last *node
	for failed := 0; f.ctx.Err() == nil; {
		n := f.choose(last)
		last = n
		start := time.Now()
		got, err := f.watch(n)
		f.note(n, err)
		switch {
		case f.ctx.Err() != nil:
			return
		case errors.Is(err, errDoubt):
			continue // patience bounds how often
		case got && time.Since(start) >= minWatch:
			failed = 0
		default:
			failed++
		}
		pause := min(minWatchPause<<min(failed, 10), maxWatchPause)
		if status.Code(err) == codes.Unimplemented {
			pause = noWatchPause
		}
		f.sleep(pause/2 + rand.N(pause))
	}
}

// choose returns the node to watch: one that is connected and not suspected, if
// possible, and another one than last or the one that calls have doubted, which
// may be the same under another address.
func (f *follower) choose(last *node) *node {
	nodes := slices.Concat(f.given, f.spare())
	from := rand.N(len(nodes))
	best, bestScore := nodes[from], -1
	for i := range nodes {
		n := nodes[(from+i)%len(nodes)]
		score := 0
		if n.conn.GetState() == connectivity.Ready {
			score += 4
		}
		if n.suspect.Load() == 0 {
			score += 2
		}
		if n != last && n != f.doubted {
			score++
		}
		if score > bestScore {
			best, bestScore = n, score
		}
	}
	return best
}

// spare are the members that are not among the given addresses.
func (f *follower) spare() []*node {
	if v := f.view.Load(); v != nil {
		return v.spare
	}
	return nil
}

// watch takes the rings that n sends, until there is no reason to go on. It
// reports whether there was one.
func (f *follower) watch(n *node) (got bool, err error) {
	ctx, stop := context.WithCancel(f.ctx)
	rings := make(chan *pb.Ring) // to this goroutine, until it leaves
	ended := make(chan error, 1) // the end of the stream
	var reading sync.WaitGroup
	defer reading.Wait()
	defer stop()
	reading.Go(func() { ended <- receive(ctx, n, rings) })

	first := time.NewTimer(firstRing)
	defer first.Stop()
	start := time.Now()
	select {
	case <-f.doubts: // of the watch before
	default:
	}
	for {
		select {
		case <-f.ctx.Done():
			return got, f.ctx.Err()
		case err := <-ended:
			return got, err
		case <-first.C:
			return got, errNoRing
		case doubted := <-f.doubts:
			if got && f.impatient(doubted == n, time.Since(start)) {
				f.doubted = doubted
				return got, errDoubt
			}
		case r := <-rings:
			first.Stop()
			changed, err := f.take(n, r)
			if err != nil {
				return got, err
			}
			if changed {
				f.patience = minPatience
				f.changed()
			}
			got = true
			f.note(n, nil)
		}
	}
}

// impatient reports whether the ring of a watch of that age is to be asked for
// elsewhere: sooner if the watched node itself is in doubt.
func (f *follower) impatient(watched bool, age time.Duration) bool {
	due := f.patience
	if watched && due == minPatience {
		due = minWatch
	}
	if age < due {
		return false
	}
	f.patience = min(2*f.patience, maxPatience)
	return true
}

// receive sends the rings of n until ctx is done or the stream ends.
func receive(ctx context.Context, n *node, rings chan<- *pb.Ring) error {
	stream, err := n.api.Watch(ctx, &pb.WatchRequest{}, grpc.MaxCallRecvMsgSize(maxRingBytes))
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case rings <- r:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take makes r the ring that calls go by.
func (f *follower) take(n *node, r *pb.Ring) (changed bool, err error) {
	v, err := parseRing(r)
	if err != nil {
		return false, fmt.Errorf("%s: %w", n.addr, err)
	}
	v.from = n.addr
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.view.Load()
	f.setLocked(v)
	return !old.same(v), nil
}

// reconnect gives members a connection that could have none before.
func (f *follower) reconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := f.view.Load()
	if old == nil {
		return
	}
	v := *old
	v.members = make([]*member, len(old.members))
	for i, m := range old.members {
		v.members[i] = &member{name: m.name, address: m.address, boot: m.boot}
	}
	f.setLocked(&v)
}

// setLocked publishes v.
func (f *follower) setLocked(v *view) {
	f.peers.connect(v)
	v.spare = nil
	for _, m := range v.members {
		if m.peer != nil && m.peer.own && !slices.Contains(v.spare, m.peer.node) {
			v.spare = append(v.spare, m.peer.node)
		}
	}
	f.view.Store(v)
}

// note remembers how the watch of n goes.
func (f *follower) note(n *node, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mu.source, f.mu.err = n.addr, err
}

func (f *follower) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-f.ctx.Done():
	}
}
