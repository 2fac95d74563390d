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
// on among equals.
func (c *Client) pick(turn uint32) *node {
	var best *node
	now, bestRank := time.Now(), broken+1
	for i := range c.nodes {
		n := c.nodes[(uint64(turn)+uint64(i))%uint64(len(c.nodes))]
		rank := n.rank(now)
		if rank == connected {
			return n
		}
		if rank < bestRank {
			best, bestRank = n, rank
		}
	}
	return best
}

// do sends req until a node answers, the deadline is over or the attempts are
// used up. It is the only place that retries.
func do[Req, Res any](
	ctx context.Context, c *Client,
	method func(pb.RateLimiterClient, context.Context, Req, ...grpc.CallOption) (Res, error),
	req Req,
) (res Res, err error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	if ctx.Err() != nil {
		return res, late(ctx)
	}
	start, turn := time.Now(), c.turn.Add(1)
	for attempt := 1; ; attempt++ {
		n := c.pick(turn)
		turn++
		res, err = try(ctx, c.share(ctx, attempt), n.api, method, req)
		if err == nil {
			n.judge(true)
			return res, nil
		}
		if ctx.Err() == context.Canceled {
			return res, ctx.Err()
		}
		lost := unanswered(err)
		n.judge(!lost)
		if !lost {
			return res, explain(err)
		}
		again := attempt < c.attempts && time.Since(start) < replayWindow && c.pause(ctx, attempt)
		if ctx.Err() == context.Canceled {
			return res, ctx.Err()
		}
		if !again {
			return res, &unreachable{n.addr, attempt, err}
		}
	}
}

// try sends req to one node.
func try[Req, Res any](
	ctx context.Context, timeout time.Duration, api pb.RateLimiterClient,
	method func(pb.RateLimiterClient, context.Context, Req, ...grpc.CallOption) (Res, error),
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

// share returns the time that an attempt may take: an even part of what is left.
func (c *Client) share(ctx context.Context, attempt int) time.Duration {
	deadline, _ := ctx.Deadline()
	return min(time.Until(deadline)/time.Duration(c.attempts-attempt+1), c.timeout)
}

// pause waits before the next attempt, unless an address has not been tried
// yet. It reports whether time is left for that attempt.
func (c *Client) pause(ctx context.Context, attempt int) bool {
	round := attempt - len(c.nodes)
	if round < 0 {
		return ctx.Err() == nil
	}
	wait := min(minPause<<min(round, 10), maxPause)
	wait = wait/2 + rand.N(wait)
	if deadline, _ := ctx.Deadline(); time.Until(deadline) <= wait {
		return false
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
