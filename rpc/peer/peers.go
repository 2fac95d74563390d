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

	"github.com/bucketring/bucketring/rpc/internal/await"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// maxAnswer bounds the bytes of one message from another member: a full batch of
	// answers with many limits.
	maxAnswer = 64 << 20
	// window is the flow control window in bytes: a few batches.
	window = 1 << 20
	// retireTimeout is how long calls to a member that left may take to end.
	retireTimeout = 2 * time.Second
	// retirePoll is the time between two looks at them.
	retirePoll = 50 * time.Millisecond
)

// peer is the connection to one boot of a member.
type peer struct {
	conn  *grpc.ClientConn
	link  *link.Link
	waits *await.Asker
}

// newPeer starts to connect. The first call opens the stream.
func (r *Router) newPeer(m Member) (*peer, error) {
	options := r.dial
	if r.secure != nil {
		options = append(slices.Clip(options), grpc.WithTransportCredentials(r.secure(m.Name, m.TLS)))
	}
	// The address is dialed as it is, and a host name is resolved at each attempt.
	conn, err := grpc.NewClient("passthrough:///"+m.GRPC, append([]grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		// Fixed windows: grpc-go would estimate them with a ping for each answer.
		grpc.WithInitialWindowSize(window), grpc.WithInitialConnWindowSize(window),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithDisableServiceConfig(),
	}, options...)...)
	if err != nil {
		return nil, fmt.Errorf("member %s: address %q: %w", m.Name, m.GRPC, err)
	}
	conn.Connect() // before the first call needs it
	client := pb.NewPeerClient(conn)
	waits := await.New(func(ctx context.Context) (await.Stream, error) { return r.openWaits(ctx, conn, m) })
	return &peer{conn: conn, waits: waits, link: link.New(link.Options{
		Open:    func(ctx context.Context) (link.Stream, error) { return r.open(ctx, client, m) },
		Ring:    func() uint64 { return r.table.Load().ring.Digest() },
		Timeout: r.timeout,
		Events: link.Events{
			Batch:   r.metrics.sent,
			Refused: r.metrics.refused.WithLabelValues(m.Name).Inc,
			Overloaded: func(o link.Overload) {
				r.log.Warn("calls are refused because a member answers too slowly", "member", m.Name, "address", m.GRPC,
					"refused", o.Refused, "queued", o.Queued, "answers_per_second", o.Rate,
					"round_trip", o.RoundTrip.Round(100*time.Microsecond), "refused_by_member", o.Throttled)
			},
			Breaker: func(open bool) {
				if open {
					r.log.Warn("member does not answer, deciding in fallback", "member", m.Name, "address", m.GRPC)
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
	p.waits.Close()
	_ = p.conn.Close() // an error means that it is closed
}

// idle reports whether no call is pending.
func (p *peer) idle() bool {
	s := p.link.Status()
	return s.Queued == 0 && s.InFlight == 0
}

// retiring is a peer that gets no new calls.
type retiring struct {
	*peer
	until time.Time
}

// retire has closeRetired close p, or closes it itself if Run has ended.
func (r *Router) retire(p *peer) {
	r.retired.Lock()
	ended := r.retired.ended
	if !ended {
		r.retired.peers = append(r.retired.peers, retiring{p, time.Now().Add(retireTimeout)})
	}
	r.retired.Unlock()
	if ended {
		p.close()
		return
	}
	r.retired.due.Set()
}

// closeRetired closes the peers of members that left, until ctx is done.
func (r *Router) closeRetired(ctx context.Context) {
	tick := time.NewTicker(retirePoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.retired.due.C():
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

// closeIdle closes the retired peers that are idle or past their timeout, and returns
// the number that are left.
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

// ended reports whether Run has ended, so that no goroutine closes retired peers.
func (r *Router) ended() bool {
	r.retired.Lock()
	defer r.retired.Unlock()
	return r.retired.ended
}

// closePeers closes the connections to all members. It may be called more than once.
func (r *Router) closePeers() {
	r.retired.Lock()
	peers := r.retired.peers
	r.retired.peers, r.retired.ended = nil, true
	r.retired.Unlock()
	for _, p := range peers {
		p.close()
	}
	for _, m := range r.table.Load().all() {
		if m.peer != nil {
			m.peer.close()
		}
	}
}
