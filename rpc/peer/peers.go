// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// maxAnswer is the largest answer that another member may send: a full batch
	// of answers with many limits.
	maxAnswer = 64 << 20
	// window is how many bytes of answers may be under way: a few batches.
	window = 1 << 20
	// retireAfter is how long calls to a member that went may take to end.
	retireAfter = 2 * time.Second
	// retireEvery is how often is looked whether they have.
	retireEvery = 50 * time.Millisecond
)

// peer is the way to one run of a member.
type peer struct {
	conn *grpc.ClientConn
	link *link.Link
}

// newPeer begins to connect. The stream is opened by the first call.
func (r *Router) newPeer(m Member) (*peer, error) {
	// The address is dialed as it stands, a host name looked up each time.
	conn, err := grpc.NewClient("passthrough:///"+m.GRPC, append([]grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		// Fixed: grpc-go would find them out with a ping for each answer.
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithDisableServiceConfig(),
	}, r.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("member %s: address %q: %w", m.Name, m.GRPC, err)
	}
	conn.Connect() // so that the first call need not wait for it
	client := pb.NewPeerClient(conn)
	return &peer{conn: conn, link: link.New(link.Options{
		Open:    func(ctx context.Context) (link.Stream, error) { return r.open(ctx, client, m) },
		Ring:    func() uint64 { return r.view.Load().roles.Table().Digest() },
		Timeout: r.timeout,
		Events: link.Events{
			Batch: r.metrics.sent,
			Breaker: func(open bool) {
				if open {
					r.log.Warn("member does not answer, deciding without it", "member", m.Name, "address", m.GRPC)
				} else {
					r.log.Info("member answers again", "member", m.Name, "address", m.GRPC)
					r.outbox.RetryNow()
				}
			},
		},
	})}, nil
}

func (p *peer) close() {
	p.link.Close()
	_ = p.conn.Close() // an error means that it is closed
}

// idle reports whether no call is under way.
func (p *peer) idle() bool {
	s := p.link.Status()
	return s.Queued == 0 && s.InFlight == 0
}

// retiring is a peer that new calls don't go to.
type retiring struct {
	*peer
	until time.Time
}

// retire leaves p to be closed by closeRetired, or closes it if nobody runs
// that any more.
func (r *Router) retire(p *peer) {
	r.retired.Lock()
	ended := r.retired.ended
	if !ended {
		r.retired.peers = append(r.retired.peers, retiring{p, time.Now().Add(retireAfter)})
	}
	r.retired.Unlock()
	if ended {
		p.close()
		return
	}
	select {
	case r.retired.due <- struct{}{}:
	default:
	}
}

// closeRetired closes peers of members that went, until ctx is done.
func (r *Router) closeRetired(ctx context.Context) {
	tick := time.NewTicker(retireEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.retired.due:
		}
		for r.closeIdle() > 0 {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

// closeIdle closes the retired peers that are idle or out of time, and returns
// how many are left.
func (r *Router) closeIdle() int {
	var idle []*peer
	r.retired.Lock()
	r.retired.peers = slices.DeleteFunc(r.retired.peers, func(p retiring) bool {
		done := time.Now().After(p.until) || p.idle()
		if done {
			idle = append(idle, p.peer)
		}
		return done
	})
	left := len(r.retired.peers)
	r.retired.Unlock()
	for _, p := range idle {
		p.close()
	}
	return left
}

// ended reports whether nobody closes what is retired any more.
func (r *Router) ended() bool {
	r.retired.Lock()
	defer r.retired.Unlock()
	return r.retired.ended
}

// closePeers closes the ways to all members. It may be called more than once.
func (r *Router) closePeers() {
	r.retired.Lock()
	gone := r.retired.peers
	r.retired.peers, r.retired.ended = nil, true
	r.retired.Unlock()
	for _, p := range gone {
		p.close()
	}
	for _, m := range r.view.Load().all() {
		if m.peer != nil {
			m.peer.close()
		}
	}
}
