// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/internal/handshake"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	// handshakeTimeout bounds a handshake.
	handshakeTimeout = 3 * time.Second
	// minLogInterval is the least time between two lines about rejected handshakes.
	minLogInterval = time.Minute
)

// self is this member in handshakes.
func (r *Router) self() handshake.Self {
	return handshake.Self{Name: r.name, Boot: r.boot, Keys: r.keys, Certify: r.certify, Versions: handshake.Current()}
}

// open starts a stream to a member, for its link.
func (r *Router) open(ctx context.Context, client pb.PeerClient, to Member) (_ link.Stream, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	stream, err := client.Exchange(ctx, link.Raw())
	if err != nil {
		return nil, err
	}
	if err := r.greet(stream, to, cancel); err != nil {
		return nil, err
	}
	return &batchStream{stream: stream, rejected: func(err error) { r.countHandshake(handshake.Caller, to.Name, err) }}, nil
}

// greet makes the handshake with a member on a new stream, which cancel ends if it takes too
// long.
func (r *Router) greet(stream handshake.CallerStream, to Member, cancel context.CancelFunc) error {
	late := time.AfterFunc(handshakeTimeout, cancel)
	_, err := r.self().AsCaller(stream, handshake.Member{Name: to.Name, Boot: to.Boot, Address: to.GRPC})
	if !late.Stop() && err == nil {
		err = context.DeadlineExceeded
	}
	r.countHandshake(handshake.Caller, to.Name, err)
	return err
}

// batchStream is a stream to a member after the handshake.
type batchStream struct {
	stream   grpc.BidiStreamingClient[pb.PeerMessage, pb.PeerAnswer]
	rejected func(error)
	answered bool // the owner has accepted the handshake
}

var _ link.Stream = (*batchStream)(nil)

// Send implements link.Stream.
func (s *batchStream) Send(b *pb.Batch) error {
	return s.stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Batch{Batch: b}})
}

// Recv implements link.Stream.
func (s *batchStream) Recv(a *link.Answers) error {
	if err := s.stream.RecvMsg(a); err != nil {
		if c := grpcstatus.Code(err); !s.answered && (c == codes.Unauthenticated || c == codes.PermissionDenied) {
			s.rejected(err)
		}
		return err
	}
	s.answered = true
	answers, err := codec.PeerAnswers(a.Frame())
	if err != nil {
		return err
	}
	return a.Parse(answers)
}

// CloseSend implements link.Stream.
func (s *batchStream) CloseSend() error { return s.stream.CloseSend() }

// Peer returns the service for the other members.
func (r *Router) Peer() pb.PeerServer { return &peerService{router: r} }

type peerService struct {
	pb.UnimplementedPeerServer
	router *Router
}

// Exchange implements pb.PeerServer.
func (p *peerService) Exchange(stream grpc.BidiStreamingServer[pb.PeerMessage, pb.PeerAnswer]) error {
	r := p.router
	if err := r.checkDraining(); err != nil {
		return err
	}
	from, err := r.greeted(stream, r.drain)
	if err != nil {
		return err
	}
	return r.serve(answerStream{stream}, r.drain, call.MemberStream, askerName{from.Name, true}, nil)
}

// greeted makes the handshake with the member that has opened a stream. It ends when stop is
// closed, which may be nil.
func (r *Router) greeted(stream handshake.OwnerStream, stop <-chan struct{}) (from handshake.Peer, err error) {
	type result struct {
		from handshake.Peer
		err  error
	}
	done := make(chan result, 1) // cap 1: the handshake may end after this call has
	go func() {
		from, err := r.self().AsOwner(stream)
		done <- result{from, err}
	}()
	late := time.NewTimer(handshakeTimeout)
	defer late.Stop()
	select {
	case made := <-done:
		from, err = made.from, made.err
	case <-late.C:
		err = handshake.TimedOut(handshakeTimeout)
	case <-stop:
		return from, r.checkDraining()
	}
	r.countHandshake(handshake.Owner, "", err)
	return from, err
}

// answerStream is a stream from a member after the handshake.
type answerStream struct {
	grpc.BidiStreamingServer[pb.PeerMessage, pb.PeerAnswer]
}

var _ link.ServerStream = answerStream{}

// Send implements link.ServerStream.
func (s answerStream) Send(a *pb.Answers) error {
	return s.BidiStreamingServer.Send(&pb.PeerAnswer{Answer: &pb.PeerAnswer_Answers{Answers: a}})
}

// Recv implements link.ServerStream.
func (s answerStream) Recv() (*pb.Batch, error) {
	m, err := s.BidiStreamingServer.Recv()
	if err != nil {
		return nil, err
	}
	if b := m.GetBatch(); b != nil {
		return b, nil
	}
	return nil, grpcstatus.Error(codes.InvalidArgument, "after the handshake a stream between members has batches only")
}

// countHandshake counts a handshake, and logs why one was rejected, at most once in
// minLogInterval.
func (r *Router) countHandshake(side, member string, err error) {
	result := handshake.ResultOf(err)
	r.metrics.handshakes[side+" "+result].Inc()
	if result == handshake.OK || result == handshake.Broken {
		return
	}
	log := &r.rejectionLog.keys
	if result == handshake.WrongMember {
		log = &r.rejectionLog.members
	}
	if log.allow(time.Now()) {
		r.log.Warn("member rejected", "side", side, "member", member, "reason", grpcstatus.Convert(err).Message())
	}
}

// logLimiter lets a line of the log through at most once in minLogInterval.
type logLimiter struct{ next atomic.Int64 }

func (s *logLimiter) allow(now time.Time) bool {
	at, n := s.next.Load(), now.UnixNano()
	return n >= at && s.next.CompareAndSwap(at, n+int64(minLogInterval))
}
