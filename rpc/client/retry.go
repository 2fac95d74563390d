// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// replayWindow is how long after the first attempt a call may be sent
	// again. Nodes remember the id of a check for 30 s.
	replayWindow = 25 * time.Second

	// suspicion is how long a node that failed is passed over while another
	// one is thought to work.
	suspicion = 5 * time.Second

	minPause = 10 * time.Millisecond
	maxPause = 500 * time.Millisecond
)

// A node is one address. gRPC keeps it connected.
type node struct {
	addr string
	conn *grpc.ClientConn
	api  pb.RateLimiterClient

	// suspect is when the suspicion of this node ends, in Unix nanoseconds;
	// 0 if its last answer was a good one.
	suspect atomic.Int64
}

// How likely a node is to answer, best first.
const (
	connected = iota
	connecting
	suspected
	broken
)

// rank reports how likely n is to answer. When the suspicion of a node ends,
// one call tries it, and the others wait for what becomes of that.
func (n *node) rank(now time.Time) int {
	until := n.suspect.Load()
	switch n.conn.GetState() {
	case connectivity.TransientFailure, connectivity.Shutdown:
		return broken
	case connectivity.Ready:
		if until == 0 || now.UnixNano() >= until && n.suspect.CompareAndSwap(until, now.Add(suspicion).UnixNano()) {
			return connected
		}
	default:
		if until == 0 {
			return connecting
		}
	}
	return suspected
}

// judge remembers whether n answered.
func (n *node) judge(answered bool) {
	switch {
	case !answered:
		n.suspect.Store(time.Now().Add(suspicion).UnixNano())
	case n.suspect.Load() != 0:
		n.suspect.Store(0)
	}
}

// pick returns the node that is most likely to answer, the first one from turn
// on among equals: one of nodes, or of spare if none of nodes is connected.
func pick(turn uint32, nodes, spare []*node) *node {
	var best *node
	now, bestRank := time.Now(), broken+1
	for _, tier := range [][]*node{nodes, spare} {
		for i := range tier {
			n := tier[(uint64(turn)+uint64(i))%uint64(len(tier))]
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

// A trial is a call until it has an answer.
type trial struct {
	start    time.Time
	deadline time.Time // of all attempts
	attempts int       // made so far
	addr     string    // of the last one
	err      error     // its end, a gRPC status
}

// begin starts a trial, unless ctx is done.
func (c *Client) begin(ctx context.Context) (trial, error) {
	if ctx.Err() != nil {
		return trial{}, late(ctx)
	}
	t := trial{start: time.Now()}
	var limited bool
	if t.deadline, limited = ctx.Deadline(); !limited {
		t.deadline = t.start.Add(c.timeout)
	}
	return t, nil
}

// do sends req to one node after the other until one answers, the deadline is
// over or the attempts are used up.
func do[Req, Res any](
	ctx context.Context, c *Client, t *trial,
	method method[Req, Res],
	req Req,
) (res Res, err error) {
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, t.deadline)
		defer cancel()
	}
	if t.attempts >= c.attempts {
		return res, t.unreachable()
	}
	if ctx.Err() != nil {
		return res, late(ctx)
	}
	turn, spare := c.turn.Add(1), c.spare()
	for {
		n := pick(turn, c.nodes, spare)
		turn++
		res, err = try(ctx, c.share(t), n.api, method, req)
		if err == nil {
			n.judge(true)
			return res, nil
		}
		if ctx.Err() == context.Canceled {
			return res, ctx.Err()
		}
		t.lost(n, err)
		lost := unanswered(err)
		n.judge(!lost)
		if !lost {
			return res, explain(err)
		}
		again := t.attempts < c.attempts && time.Since(t.start) < replayWindow && c.pause(ctx, t, len(c.nodes)+len(spare))
		if ctx.Err() == context.Canceled {
			return res, ctx.Err()
		}
		if !again {
			return res, t.unreachable()
		}
	}
}

// try sends req to one node.
func try[Req, Res any](
	ctx context.Context, timeout time.Duration, api pb.RateLimiterClient,
	method method[Req, Res],
	req Req,
) (Res, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return method(api, ctx, req)
}

// unanswered reports whether err leaves open what has become of the request.
func unanswered(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

// lost counts an attempt that ended with err.
func (t *trial) lost(n *node, err error) {
	t.attempts++
	t.addr, t.err = n.addr, err
}

func (t *trial) unreachable() error { return &unreachable{t.addr, t.attempts, t.err} }

// share returns the time that the next attempt may take: an even part of what
// is left.
func (c *Client) share(t *trial) time.Duration {
	return min(time.Until(t.deadline)/time.Duration(c.attempts-t.attempts), c.timeout)
}

// pause waits before the next attempt, unless an address has not been tried
// yet. It reports whether time is left for that attempt.
func (c *Client) pause(ctx context.Context, t *trial, nodes int) bool {
	round := t.attempts - nodes
	if round < 0 {
		return ctx.Err() == nil
	}
	wait := min(minPause<<min(round, 10), maxPause)
	wait = wait/2 + rand.N(wait)
	if time.Until(t.deadline) <= wait {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
