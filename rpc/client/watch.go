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
	// firstRingTimeout is how long a node may take to send its first ring.
	firstRingTimeout = 3 * time.Second
	// minGoodWatch is how long a watch must last to reset the backoff.
	minGoodWatch = time.Second

	// After a watch has ended, another node is watched after a backoff.
	minWatchBackoff = 100 * time.Millisecond
	maxWatchBackoff = 10 * time.Second
	// noWatchBackoff follows a node that does not implement Watch.
	noWatchBackoff = time.Minute

	// A ring that calls report to be stale is read from another node, but not before
	// it has this age, which doubles while the ring stays the same.
	minRefreshAge = 2 * time.Second
	maxRefreshAge = time.Minute
)

var (
	errStale        = errors.New("another node may have a newer ring")
	errNoRing       = errors.New("the node has sent no ring")
	errNotConnected = errors.New("not connected yet")
)

// ringWatcher keeps the view of a client up to date, by watching one node at a time.
type ringWatcher struct {
	view  atomic.Pointer[view] // nil until a ring is known
	seeds []*node
	peers peers
	stale chan *node // reports of calls; one pending report is enough

	away     awayCalls
	onChange func() // the ring has changed

	ctx  context.Context // ends with close
	stop context.CancelFunc
	done sync.WaitGroup

	// Used by the watching goroutine only.
	refreshAge time.Duration
	staleNode  *node // whose call ended the last watch

	mu struct {
		sync.Mutex // serializes changes of view
		source     string
		err        error // why no node is watched
	}
}

// watchRing starts c.ring.
func (c *Client) watchRing(o Options, options []grpc.DialOption) {
	w := &ringWatcher{seeds: c.seeds, stale: make(chan *node, 1), onChange: c.settler.outbox.RetryNow, refreshAge: minRefreshAge}
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.mu.err = errNotConnected
	w.peers.seeds = map[string]*node{}
	w.peers.rules.anyAddress = o.secure() || o.Insecure
	for _, n := range c.seeds {
		target, local := parseAddr(n.addr)
		w.peers.seeds[target] = n
		w.peers.rules.loopback = w.peers.rules.loopback || local
	}
	w.peers.max, w.peers.timeout, w.peers.options = o.MaxPeers, o.Timeout, options
	w.peers.ringDigest = w.digest
	w.peers.onClose = w.reconnect
	w.peers.mu.all = map[string]*peer{}
	c.ring = w
	w.done.Go(w.run)
}

// close stops watching and closes the connections to members.
func (w *ringWatcher) close() error {
	w.stop()
	w.done.Wait()
	w.mu.Lock()
	w.view.Store(nil) // later calls go to the seeds, whose connections are closed
	w.mu.Unlock()
	return w.peers.close()
}

func (w *ringWatcher) digest() uint64 {
	if v := w.view.Load(); v != nil {
		return v.digest
	}
	return 0
}

// reportStale reports that a call to n failed or was redirected, so that the ring may
// have changed. It never blocks.
func (w *ringWatcher) reportStale(n *node) {
	select {
	case w.stale <- n:
	default:
	}
}

// run watches one node after the other.
func (w *ringWatcher) run() {
	var last *node
	for failures := 0; w.ctx.Err() == nil; {
		n := w.pickNode(last)
		last = n
		start := time.Now()
		got, err := w.watch(n)
		w.setStatus(n, err)
		switch {
		case w.ctx.Err() != nil:
			return
		case errors.Is(err, errStale):
			continue // refreshAge bounds how often
		case got && time.Since(start) >= minGoodWatch:
			failures = 0
		default:
			failures++
		}
		backoff := min(minWatchBackoff<<min(failures, 10), maxWatchBackoff)
		if status.Code(err) == codes.Unimplemented {
			backoff = noWatchBackoff
		}
		sleep(w.ctx, backoff/2+rand.N(backoff))
	}
}

// pickNode returns the node to watch: preferably one that is connected, then one that
// is not suspected, then neither last nor the node that was reported stale.
func (w *ringWatcher) pickNode(last *node) *node {
	nodes := slices.Concat(w.seeds, w.extraNodes())
	from := rand.N(len(nodes))
	best, bestScore := nodes[from], -1
	for i := range nodes {
		n := nodes[(from+i)%len(nodes)]
		score := 0
		if n.conn.GetState() == connectivity.Ready {
			score += 4
		}
		if n.suspectUntil.Load() == 0 {
			score += 2
		}
		if n != last && n != w.staleNode {
			score++
		}
		if score > bestScore {
			best, bestScore = n, score
		}
	}
	return best
}

// extraNodes returns the connected members that are not seeds.
func (w *ringWatcher) extraNodes() []*node {
	if v := w.view.Load(); v != nil {
		return v.extra
	}
	return nil
}

// watch applies the rings that n sends, until the stream fails or the ring may be
// stale. It reports whether n sent a ring.
func (w *ringWatcher) watch(n *node) (got bool, err error) {
	ctx, stop := context.WithCancel(w.ctx)
	rings := make(chan *pb.Ring)
	ended := make(chan error, 1) // the result of receiveRings
	var receiver sync.WaitGroup
	defer receiver.Wait()
	defer stop()
	receiver.Go(func() { ended <- receiveRings(ctx, n, rings) })

	timeout := time.NewTimer(firstRingTimeout)
	defer timeout.Stop()
	start := time.Now()
	select {
	case <-w.stale: // a report from before this watch
	default:
	}
	for {
		select {
		case <-w.ctx.Done():
			return got, w.ctx.Err()
		case err := <-ended:
			return got, err
		case <-timeout.C:
			return got, errNoRing
		case reported := <-w.stale:
			if got && w.refreshDue(reported == n, time.Since(start)) {
				w.staleNode = reported
				return got, errStale
			}
		case r := <-rings:
			timeout.Stop()
			changed, err := w.apply(n, r)
			if err != nil {
				return got, err
			}
			if changed {
				w.refreshAge = minRefreshAge
				w.onChange()
			}
			got = true
			w.setStatus(n, nil)
		}
	}
}

// refreshDue reports whether to read the ring from another node, after a watch of the
// given age. It is due sooner if the watched node itself was reported.
func (w *ringWatcher) refreshDue(watched bool, age time.Duration) bool {
	due := w.refreshAge
	if watched && due == minRefreshAge {
		due = minGoodWatch
	}
	if age < due {
		return false
	}
	w.refreshAge = min(2*w.refreshAge, maxRefreshAge)
	return true
}

// receiveRings sends the rings of n to rings until ctx or the stream ends.
func receiveRings(ctx context.Context, n *node, rings chan<- *pb.Ring) error {
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

// apply makes r the ring that calls are routed by.
func (w *ringWatcher) apply(n *node, r *pb.Ring) (changed bool, err error) {
	v, err := parseRing(r)
	if err != nil {
		return false, fmt.Errorf("%s: %w", n.addr, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.view.Load()
	w.publishLocked(v)
	return !old.equal(v), nil
}

// reconnect connects members that were over the limit, after a connection was closed.
func (w *ringWatcher) reconnect() {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.view.Load()
	if old == nil {
		return
	}
	v := *old
	v.members = make([]*member, len(old.members))
	for i, m := range old.members {
		v.members[i] = &member{name: m.name, address: m.address, boot: m.boot}
	}
	w.publishLocked(&v)
}

// publishLocked connects the members of v and makes it the current view.
func (w *ringWatcher) publishLocked(v *view) {
	w.peers.connect(v)
	v.extra = nil
	for _, m := range v.members {
		if m.peer != nil && !m.peer.seed && !slices.Contains(v.extra, m.peer.node) {
			v.extra = append(v.extra, m.peer.node)
		}
	}
	w.view.Store(v)
	w.moveWaiting(v)
}

// setStatus records the state of the watch, for [Client.Status].
func (w *ringWatcher) setStatus(n *node, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.source, w.mu.err = n.addr, err
}
