// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/handshake"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/replication/internal/wire"
)

// inbound is a frame from another member. It goes back to the pool after the loop has
// handled it.
type inbound struct {
	frame wire.Frame
}

var inbounds = sync.Pool{New: func() any { return new(inbound) }}

// keptEntries bounds what an inbound keeps in the pool.
const keptEntries = 8192

func (f *inbound) release() {
	if cap(f.frame.Message.Entries) <= keptEntries {
		f.frame.Records = nil
		inbounds.Put(f)
	}
}

// fullCopy is all records of a partition from another member.
type fullCopy struct {
	transfer continuity.StateTransfer
	apply    func(now limiter.Time) error
}

// Peer returns the service for the other members: Control and Copy are served by the
// host, and the rest by next, which may be nil.
func (h *Host) Peer(next pb.PeerServer) pb.PeerServer {
	if next == nil {
		next = pb.UnimplementedPeerServer{}
	}
	return &peerService{PeerServer: next, host: h}
}

type peerService struct {
	pb.PeerServer
	host *Host
}

// ownerStream is a stream from another member.
type ownerStream = grpc.BidiStreamingServer[pb.PeerMessage, pb.PeerAnswer]

// Control implements pb.PeerServer.
func (s *peerService) Control(stream ownerStream) error { return s.host.serve(stream, s.host.control) }

// Copy implements pb.PeerServer.
func (s *peerService) Copy(stream ownerStream) error { return s.host.serve(stream, s.host.copy) }

// serve makes the handshake and calls receive until the stream or Run has ended.
func (h *Host) serve(stream ownerStream, receive func(ownerStream, continuity.ID) error) error {
	// Recv ends when this handler has returned.
	greeted := make(chan struct{})
	done := make(chan error, 1) // cap 1: the handler may have returned
	go func() {
		peer, err := h.handshake.AsOwner(stream)
		if err == nil {
			close(greeted)
			err = receive(stream, continuity.ID{Name: peer.Name, Boot: peer.Boot})
		}
		done <- err
	}()
	late := time.NewTimer(handshakeTimeout)
	defer late.Stop()
	for {
		select {
		case err := <-done:
			if result := handshake.ResultOf(err); err != nil && result != handshake.Broken {
				h.rejected(result, err)
			}
			return err
		case <-h.done:
			return grpcstatus.Error(codes.Unavailable, "this member is shutting down")
		case <-greeted:
			greeted = nil
			late.Stop()
		case <-late.C:
			return handshake.TimedOut(handshakeTimeout)
		}
	}
}

// rejected counts a handshake that this member has refused, and logs why, not often.
func (h *Host) rejected(result string, err error) {
	h.metrics.rejected.Inc()
	if result == handshake.Malformed {
		return
	}
	h.command(func(l *loop) {
		l.moves.problem(l.log, "member rejected", "result", result, "reason", grpcstatus.Convert(err).Message())
	})
}

// control receives frames.
func (h *Host) control(stream ownerStream, from continuity.ID) error {
	var parts []byte
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		b := m.GetControl()
		if part := m.GetControlPart(); part != nil || parts != nil {
			if len(parts)+len(part)+len(b) > maxFrame {
				return grpcstatus.Errorf(codes.InvalidArgument, "a frame has at most %d bytes", maxFrame)
			}
			parts = append(append(parts, part...), b...)
		}
		if b == nil {
			continue
		}
		if parts != nil {
			b, parts = parts, nil
		}
		f := inbounds.Get().(*inbound)
		if err := wire.DecodeFrame(b, &f.frame); err != nil {
			return grpcstatus.Error(codes.InvalidArgument, fmt.Sprintf("frame of %s: %v", from.Name, err))
		}
		if f.frame.Message.From != from {
			return grpcstatus.Error(codes.PermissionDenied, fmt.Sprintf("%s sends a message in the name of %s", from, f.frame.Message.From))
		}
		h.metrics.framesReceived.Inc()
		if err := give(stream.Context(), h, h.frames, f); err != nil {
			return err
		}
	}
}

// copy receives full copies.
func (h *Host) copy(stream ownerStream, from continuity.ID) error {
	var records []byte
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		chunk := m.GetCopy()
		if chunk == nil || len(records)+len(chunk.GetRecords()) > maxCopy {
			return grpcstatus.Error(codes.InvalidArgument, "a copy is in chunks, and has at most 1 GiB")
		}
		records = append(records, chunk.GetRecords()...)
		if len(chunk.GetHeader()) == 0 {
			continue
		}
		t, err := wire.DecodeCopyHeader(chunk.GetHeader())
		switch {
		case err != nil:
			return grpcstatus.Error(codes.InvalidArgument, fmt.Sprintf("copy of %s: %v", from.Name, err))
		case t.From != from || !t.Full:
			return grpcstatus.Error(codes.PermissionDenied, fmt.Sprintf("%s sends a copy in the name of %s, or not a full one", from, t.From))
		}
		apply, err := h.readCopy(stream.Context(), t.Partition, records)
		records = nil
		switch {
		case stream.Context().Err() != nil:
			return stream.Context().Err()
		case err != nil: // not acknowledged: the sender repeats it
			h.command(func(l *loop) { l.applyFailed(&t, err) })
		default:
			if err := give(stream.Context(), h, h.copies, &fullCopy{t, apply}); err != nil {
				return err
			}
		}
	}
}

// readCopy reads all records of a partition. That takes seconds for a million, so it
// is done here and not in the loop, and leaves processors to calls.
func (h *Host) readCopy(ctx context.Context, partition int, records []byte) (apply func(limiter.Time) error, err error) {
	if partition < 0 || partition >= len(h.parts) {
		return nil, fmt.Errorf("there is no partition %d", partition)
	}
	select {
	case h.reading <- struct{}{}:
		defer func() { <-h.reading }()
		return h.engine.ReadFull(h.now(), partition, records)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// give hands something to the loop.
func give[T any](ctx context.Context, h *Host, to chan<- T, value T) error {
	select {
	case to <- value:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.done:
		return grpcstatus.Error(codes.Unavailable, "this member is shutting down")
	}
}
