// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/overload"
	"github.com/bucketring/bucketring/rpc/internal/await"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// retryWindow is how long after the first attempt a call may be sent again.
	// Nodes remember the id of a check for 30 s.
	retryWindow = 25 * time.Second

	// suspectFor is how long a node that failed is avoided.
	suspectFor = 5 * time.Second

	minRetryBackoff = 10 * time.Millisecond
	maxRetryBackoff = 500 * time.Millisecond
)

// node is one address with its connection, which gRPC re-establishes.
type node struct {
	addr string
	conn *grpc.ClientConn
	api  pb.RateLimiterClient

	budget overload.RetryBudget // of calls that go elsewhere because n failed
	load   unaryLoad
	waits  *await.Asker // of calls that wait

	// suspectUntil is in Unix nanoseconds; 0 if the node answered last time.
	suspectUntil atomic.Int64
}

func newNode(addr string, conn *grpc.ClientConn) *node {
	n := &node{addr: addr, conn: conn, api: pb.NewRateLimiterClient(conn)}
	n.load.urgent = make(chan struct{}, slowUnaryInFlight)
	n.waits = await.New(n.openWaits)
	return n
}

// close ends the calls that wait at n, and then its connection.
func (n *node) close() error {
	n.waits.Close()
	return n.conn.Close()
}

// How likely a node is to answer, best first.
const (
	connected = iota
	connecting
	suspected
	broken
)

// rank returns how likely n is to answer. When the suspicion ends, only the first
// caller gets connected, and for the others n stays suspected until that call ends.
func (n *node) rank(now time.Time) int {
	until := n.suspectUntil.Load()
	switch n.conn.GetState() {
	case connectivity.TransientFailure, connectivity.Shutdown:
		return broken
	case connectivity.Ready:
		if until == 0 || now.UnixNano() >= until && n.suspectUntil.CompareAndSwap(until, now.Add(suspectFor).UnixNano()) {
			return connected
		}
	default:
		if until == 0 {
			return connecting
		}
	}
	return suspected
}

// setHealthy records whether n answered a call.
func (n *node) setHealthy(answered bool) {
	switch {
	case !answered:
		n.suspectUntil.Store(time.Now().Add(suspectFor).UnixNano())
	case n.suspectUntil.Load() != 0:
		n.suspectUntil.Store(0)
	}
}

// pick returns the node that is most likely to answer: one of seeds, or of extra if
// no seed is connected. Among equals it starts at index first.
func pick(first uint32, seeds, extra []*node) *node {
	var best *node
	now, bestRank := time.Now(), broken+1
	for _, nodes := range [][]*node{seeds, extra} {
		for i := range nodes {
			n := nodes[(uint64(first)+uint64(i))%uint64(len(nodes))]
			rank := n.rank(now)
			if rank == connected {
				return n
			}
			if rank < bestRank {
				best, bestRank = n, rank
			}
		}
	}
	return best
}

// attempts is the retry state of one call.
type attempts struct {
	start      time.Time
	deadline   time.Time // of all attempts
	made       int       // including those in batches
	redirected int       // attempts that ended with a redirect that could not be followed
	node       *node     // of the last attempt
	err        error     // its gRPC status
}

// newAttempts returns the retry state of a call that starts now. It fails if ctx has
// ended.
func (c *Client) newAttempts(ctx context.Context) (attempts, error) {
	if ctx.Err() != nil {
		return attempts{}, contextError(ctx)
	}
	a := attempts{start: time.Now()}
	var limited bool
	if a.deadline, limited = ctx.Deadline(); !limited {
		a.deadline = a.start.Add(c.timeout)
	}
	return a, nil
}

// askAny sends req to one node after the other until one answers or refuses it, the
// deadline has passed or the attempts are used up. Ordinary calls may be refused.
func askAny[Req, Res any](
	ctx context.Context, c *Client, a *attempts,
	method method[Req, Res],
	req Req,
	ordinary bool,
) (res Res, err error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, a.deadline)
		defer cancel()
	}
	if a.made > 0 && !c.mayRetry(a) {
		return res, a.unreachable()
	}
	if ctx.Err() != nil {
		return res, contextError(ctx)
	}
	first := c.next.Add(1)
	var extra []*node
	if c.ring != nil {
		extra = c.ring.extraNodes()
	}
	for {
		n := pick(first, c.seeds, extra)
		first++
		if err = n.load.begin(ctx, ordinary); err != nil {
			switch {
			case errors.Is(err, ErrOverloaded):
				return res, err
			case ctx.Err() == context.Canceled:
				return res, ctx.Err()
			}
			a.failed(n, err)
			return res, a.unreachable()
		}
		n.budget.Deposit()
		began := time.Now()
		var slow bool
		res, slow, err = askNode(ctx, n, c.attemptTimeout(a), method, req)
		n.load.end(ordinary, began, err)
		if err == nil {
			n.setHealthy(true)
			return res, nil
		}
		if ctx.Err() == context.Canceled {
			return res, ctx.Err()
		}
		a.failed(n, err)
		retry := retryable(err)
		if !slow {
			n.setHealthy(!retry)
		}
		if !retry {
			return res, callError(err)
		}
		retry = c.mayRetry(a) && a.backOff(ctx, len(c.seeds)+len(extra))
		if ctx.Err() == context.Canceled {
			return res, ctx.Err()
		}
		if !retry {
			return res, a.unreachable()
		}
	}
}

// retryable reports whether err means that no node answered.
func retryable(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

// failed counts an attempt that ended with err.
func (a *attempts) failed(n *node, err error) {
	a.made++
	a.node, a.err = n, err
}

// used returns how many attempts were sent and may have been decided. An owner remembers
// no more of them than a call may make.
func (a *attempts) used() int { return a.made + a.redirected }

func (a *attempts) unreachable() error { return &unreachableError{a.node.addr, a.made, a.err} }

// minRetryTime is the least time that an attempt needs.
const minRetryTime = time.Millisecond

// mayRetry reports whether a call that was sent before may be sent again, and takes the
// retry from the budgets of the client and of the node that failed.
func (c *Client) mayRetry(a *attempts) bool {
	return a.used() < c.maxAttempts && time.Since(a.start) < retryWindow && time.Until(a.deadline) > minRetryTime &&
		a.node.budget.Withdraw() && c.budget.Withdraw()
}

// attemptTimeout returns how long the next attempt waits for a node that does not answer
// anything: an even share of the time left.
func (c *Client) attemptTimeout(a *attempts) time.Duration {
	return min(time.Until(a.deadline)/time.Duration(max(1, c.maxAttempts-a.used())), c.timeout)
}

// backOff waits before the next attempt, if each of the nodes was tried. It reports
// whether there is time for that attempt.
func (a *attempts) backOff(ctx context.Context, nodes int) bool {
	round := a.made - nodes
	if round < 0 {
		return ctx.Err() == nil
	}
	wait := min(minRetryBackoff<<min(round, 10), maxRetryBackoff)
	wait = wait/2 + rand.N(wait)
	return time.Until(a.deadline) > wait && sleep(ctx, wait)
}

// sleep reports whether it slept for d before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
