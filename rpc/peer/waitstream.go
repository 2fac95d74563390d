// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/await"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// maxStreamWaiting is how many calls may wait by one stream.
const maxStreamWaiting = 1 << 14

// Wait implements pb.RateLimiterServer, for clients. Any member may be asked: it has the call
// wait at the owner of its key.
func (r *Router) Wait(stream grpc.BidiStreamingServer[pb.WaitMessage, pb.WaitAnswer]) error {
	if err := r.checkDraining(); err != nil {
		return err
	}
	session := auth.SessionOf(stream.Context())
	stop, cancel := r.drainOr(session.Ended())
	defer cancel()
	return await.Serve(stream, stop, maxStreamWaiting, func(item *pb.Item, done func(*pb.Result)) (leave func()) {
		calls := []call.Call{call.FromItem(item, call.API)}
		server.Authorize(session.Grant(), calls)
		return r.beginWait(&calls[0], item, false, done)
	})
}

// Wait implements pb.PeerServer: calls of members of which this member is the owner.
func (p *peerService) Wait(stream grpc.BidiStreamingServer[pb.PeerMessage, pb.PeerAnswer]) error {
	r := p.router
	if err := r.checkDraining(); err != nil {
		return err
	}
	if _, err := r.greeted(stream, r.drain); err != nil {
		return err
	}
	return await.Serve(peerWaits{stream}, r.drain, maxStreamWaiting, func(item *pb.Item, done func(*pb.Result)) (leave func()) {
		c := call.FromItem(item, call.API) // a member replays nothing here
		return r.beginWait(&c, item, true, done)
	})
}

// beginWait has the call of an item wait.
func (r *Router) beginWait(c *call.Call, item *pb.Item, fromMember bool, done func(*pb.Result)) (leave func()) {
	if err := checkWaits(c, item); err != nil {
		done(server.Failed(r.Reject(err)))
		return func() {}
	}
	left := time.Duration(item.GetTimeoutNanos())
	if left > 0 && !fromMember { // which has seen to it
		left = beforeDeadline(left)
	}
	w := r.newWaiting(c, time.Duration(item.GetWaitedNanos()), left)
	w.fromMember, w.done = fromMember, done
	w.ask()
	return w.discard
}

// checkWaits returns what is wrong with a call that wants to wait.
func checkWaits(c *call.Call, item *pb.Item) error {
	switch {
	case c.Err != nil:
		return c.Err
	case c.Kind != call.Check && c.Kind != call.Reserve:
		return &limiter.FieldError{Field: "call", Value: c.Kind.String(), Problem: "must be check or reserve: other calls do not wait"}
	case item.GetWaitedNanos() < 0 || item.GetWaitedNanos() > int64(limiter.MaxMaxWait):
		return &limiter.FieldError{Field: "waited_nanos", Value: time.Duration(item.GetWaitedNanos()).String(), Problem: "must be from 0 to " + limiter.MaxMaxWait.String()}
	case c.Expired:
		return context.DeadlineExceeded
	}
	return nil
}

// openWaits opens a stream to a member for calls that wait there.
func (r *Router) openWaits(ctx context.Context, conn *grpc.ClientConn, to Member) (_ await.Stream, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			cancel()
		}
	}()
	stream, err := pb.NewPeerClient(conn).Wait(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.greet(stream, to, cancel); err != nil {
		return nil, err
	}
	return askedWaits{stream}, nil
}

// askedWaits is the stream to a member, after the handshake.
type askedWaits struct {
	stream grpc.BidiStreamingClient[pb.PeerMessage, pb.PeerAnswer]
}

// Send implements await.Stream.
func (s askedWaits) Send(m *pb.WaitMessage) error {
	return s.stream.Send(&pb.PeerMessage{Message: &pb.PeerMessage_Wait{Wait: m}})
}

// Recv implements await.Stream.
func (s askedWaits) Recv() (*pb.WaitAnswer, error) {
	m, err := s.stream.Recv()
	if err != nil {
		return nil, err
	}
	if a := m.GetWaited(); a != nil {
		return a, nil
	}
	return nil, grpcstatus.Error(codes.Internal, "after the handshake there are answers to calls that waited only")
}

// peerWaits is the stream from a member, after the handshake.
type peerWaits struct {
	grpc.BidiStreamingServer[pb.PeerMessage, pb.PeerAnswer]
}

// Send implements await.ServerStream.
func (s peerWaits) Send(a *pb.WaitAnswer) error {
	return s.BidiStreamingServer.Send(&pb.PeerAnswer{Answer: &pb.PeerAnswer_Waited{Waited: a}})
}

// Recv implements await.ServerStream.
func (s peerWaits) Recv() (*pb.WaitMessage, error) {
	m, err := s.BidiStreamingServer.Recv()
	if err != nil {
		return nil, err
	}
	if w := m.GetWait(); w != nil {
		return w, nil
	}
	return nil, grpcstatus.Error(codes.InvalidArgument, "after the handshake there are calls that wait only")
}
