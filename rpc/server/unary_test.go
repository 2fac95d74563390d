// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/rpc/pb"
)

// TestEncodedAnswers: the answers that are encoded without messages say the same as the
// messages, which a server with an interceptor sends. So do the errors.
func TestEncodedAnswers(t *testing.T) {
	plain := func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		return next(ctx, request)
	}
	connected := func(o ...grpc.ServerOption) pb.RateLimiterClient {
		return pb.NewRateLimiterClient(serveWith(t, newNode(t), GRPCOptions{Admission: NewAdmission(nil), Server: o}, func(*grpc.Server) {}))
	}
	byBytes, byMessages := connected(), connected(grpc.ChainUnaryInterceptor(plain))
	check := &pb.CheckRequest{Key: "acme/alice", InputTokens: 9, RequestId: "check"}
	reserve := &pb.ReserveRequest{Key: "acme/bob", MaxOutputTokens: new(int64(10)), RequestId: "reserve"}
	settle := &pb.SettleRequest{Key: "acme/bob", RequestId: "reserve", OutputTokens: new(int64(3)), Costs: map[string]int64{"images": 2}}
	requests := []proto.Message{
		check, check, &pb.CheckRequest{Key: "acme/alice", Requests: new(int64(1 << 40)), RequestId: "large"}, &pb.CheckRequest{Key: "a//b"},
		reserve, settle, settle, &pb.CancelRequest{Key: "acme/bob", RequestId: "never"}, &pb.CancelRequest{},
		&pb.PeekRequest{Key: "acme/alice"}, &pb.PeekRequest{Key: "acme/alice", Tier: "gold"},
		&pb.BatchRequest{}, &pb.BatchRequest{Items: make([]*pb.Item, MaxItems+1)},
	}
	batch := &pb.BatchRequest{Items: []*pb.Item{{}, {Replay: true, Call: &pb.Item_Check{Check: check}}}}
	for i := range 200 { // more than is sent without a charge to the budget
		batch.Items = append(batch.Items, item(&pb.CheckRequest{Key: fmt.Sprint("user-", i), RequestId: "b"}), item(&pb.PeekRequest{Key: "acme/alice"}))
	}
	for _, r := range []proto.Message{reserve, settle, &pb.CancelRequest{Key: "acme/bob", RequestId: "reserve"}} {
		batch.Items = append(batch.Items, item(r))
	}
	for i, r := range append(requests, batch) {
		if b, ok := r.(*pb.BatchRequest); ok {
			for j := range b.Items {
				if b.Items[j] == nil {
					b.Items[j] = &pb.Item{}
				}
			}
		}
		got, err := answerOf(deadline(t), byBytes, r)
		want, wantErr := answerOf(deadline(t), byMessages, r)
		if d := cmp.Diff(grpcstatus.Convert(wantErr).Proto(), grpcstatus.Convert(err).Proto(), protocmp.Transform()); d != "" {
			t.Errorf("%d: %T: error (-want +got):\n%s", i, r, d)
		}
		if err == nil && proto.Size(got) == 0 && i != 11 {
			t.Errorf("%d: %T: the answer is empty", i, r)
		}
		if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
			t.Errorf("%d: %T (-want +got):\n%s", i, r, d)
		}
	}
}

// answerOf sends a request.
func answerOf(ctx context.Context, c pb.RateLimiterClient, request proto.Message) (proto.Message, error) {
	switch q := request.(type) {
	case *pb.CheckRequest:
		return c.Check(ctx, q)
	case *pb.ReserveRequest:
		return c.Reserve(ctx, q)
	case *pb.SettleRequest:
		return c.Settle(ctx, q)
	case *pb.CancelRequest:
		return c.Cancel(ctx, q)
	case *pb.PeekRequest:
		return c.Peek(ctx, q)
	}
	return c.Batch(ctx, request.(*pb.BatchRequest))
}
