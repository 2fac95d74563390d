// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// answerTimeout bounds the answer to a question of a member.
const answerTimeout = 10 * time.Second

// ask asks a member a question, and returns its answer. Members of versions without Ask
// answer Unimplemented.
func (r *Router) ask(ctx context.Context, m *memberConn, question *pb.PeerMessage) (*pb.PeerAnswer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := pb.NewPeerClient(m.peer.conn).Ask(ctx)
	if err != nil {
		return nil, err
	}
	if err := r.greet(stream, m.Member, cancel); err != nil {
		return nil, err
	}
	if err := stream.Send(question); err != nil && !errors.Is(err, io.EOF) { // io.EOF: Recv says why
		return nil, err
	}
	return stream.Recv()
}

// Ask implements pb.PeerServer. It is also answered while this member leaves.
func (p *peerService) Ask(stream grpc.BidiStreamingServer[pb.PeerMessage, pb.PeerAnswer]) error {
	if _, err := p.router.greeted(stream, nil); err != nil {
		return err
	}
	question, err := stream.Recv()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(stream.Context(), answerTimeout)
	defer cancel()
	answer, err := p.router.answer(ctx, question)
	if err != nil {
		return err
	}
	return stream.Send(answer)
}

func (r *Router) answer(ctx context.Context, question *pb.PeerMessage) (*pb.PeerAnswer, error) {
	switch q := question.GetMessage().(type) {
	case *pb.PeerMessage_Locate:
		located, err := r.Locate(ctx, q.Locate)
		return &pb.PeerAnswer{Answer: &pb.PeerAnswer_Locations{Locations: located}}, err
	case *pb.PeerMessage_HotKeys:
		found, err := r.HotKeys(ctx, q.HotKeys)
		return &pb.PeerAnswer{Answer: &pb.PeerAnswer_HotKeys{HotKeys: found}}, err
	case *pb.PeerMessage_Calls:
		items := q.Calls.GetItems()
		if len(items) > server.MaxItems {
			return nil, grpcstatus.Errorf(codes.InvalidArgument, "calls: must be at most %d, got %d", server.MaxItems, len(items))
		}
		calls := make([]call.Call, len(items))
		for i, item := range items {
			calls[i] = call.FromItem(item, call.API)
		}
		results := r.Do(ctx, calls)
		defer results.Release()
		return &pb.PeerAnswer{Answer: &pb.PeerAnswer_Results{Results: &pb.BatchResponse{Results: results.All()}}}, nil
	}
	return nil, grpcstatus.Error(codes.InvalidArgument, "this member does not know the question")
}
