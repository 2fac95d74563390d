// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/bucketring/bucketring/rpc/pb"
)

// exchanger answers batches like a member does.
type exchanger struct{ *Service }

func (e exchanger) Exchange(stream grpc.BidiStreamingServer[pb.Batch, pb.Answers]) error {
	for {
		b, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := e.ValidateBatch(b); err != nil {
			return err
		}
		if b.Sequence == 13 {
			panic("out of cheese")
		}
		a := &pb.Answers{Sequence: b.Sequence, Results: answers(e.Service, b.Items...)}
		if err := stream.Send(a); err != nil {
			return err
		}
	}
}

func (e exchanger) Watch(_ *pb.WatchRequest, stream grpc.ServerStreamingServer[pb.Ring]) error {
	return stream.Send(&pb.Ring{Number: 1})
}

// peering is a Peer service that says what is wrong with the first message.
type peering struct{ pb.UnimplementedPeerServer }

func (peering) Exchange(stream grpc.BidiStreamingServer[pb.PeerMessage, pb.PeerAnswer]) error {
	_, err := stream.Recv()
	return err
}

func exchange(t *testing.T, conn *grpc.ClientConn) grpc.BidiStreamingClient[pb.Batch, pb.Answers] {
	t.Helper()
	stream, err := pb.NewRateLimiterClient(conn).Exchange(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// TestExchange: batches come over a stream, each with its answers.
func TestExchange(t *testing.T) {
	stream := exchange(t, serve(t, exchanger{newNode(t).Service}, nil))
	for sequence := range uint64(3) {
		if err := stream.Send(&pb.Batch{Sequence: sequence, Items: []*pb.Item{
			item(&pb.CheckRequest{Key: "k", RequestId: "id"}),
			{},
		}}); err != nil {
			t.Fatal(err)
		}
		a, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := briefs(a.Results); a.Sequence != sequence || len(got) != 2 || got[0] != "id allowed" || got[1] != "InvalidArgument call" {
			t.Errorf("answers to batch %d = %v of %d", sequence, got, a.Sequence)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last batch: %v, want EOF", err)
	}
}

func TestBatchOfAStreamTooLarge(t *testing.T) {
	stream := exchange(t, serve(t, exchanger{newNode(t).Service}, nil))
	b := &pb.Batch{}
	for range MaxBatchItems + 1 {
		b.Items = append(b.Items, item(&pb.CheckRequest{Key: "k"}))
	}
	if err := stream.Send(b); err != nil {
		t.Fatal(err)
	}
	_, err := stream.Recv()
	if st := grpcstatus.Convert(err); st.Code() != codes.InvalidArgument || violated(st) != "items" {
		t.Errorf("a batch of 513 ends with %v, want InvalidArgument for items", err)
	}
}

// TestUndecodableStreams: bytes that are no message end a stream, and are the
// caller's fault.
func TestUndecodableStreams(t *testing.T) {
	conn := serveWith(t, exchanger{newNode(t).Service}, GRPCOptions{}, func(s *grpc.Server) {
		pb.RegisterPeerServer(s, peering{})
	})

	bytesOf := func(number protowire.Number, body []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), body)
	}
	check := bytesOf(1, bytesOf(1, []byte("acme/\xff"))) // item.check.key
	batch := append(bytesOf(3, nil), bytesOf(3, check)...)
	for _, tt := range []struct {
		method      string
		body        []byte
		field, says string
	}{
		{pb.RateLimiter_Exchange_FullMethodName, batch, "items[1].check.key", `must be valid UTF-8, got "acme/\xff"`},
		{pb.RateLimiter_Exchange_FullMethodName, []byte{0xff, 0xff}, "", "the message cannot be decoded"},
		{pb.RateLimiter_Watch_FullMethodName, []byte{0xff, 0xff}, "", "the message cannot be decoded"},
		{pb.Peer_Exchange_FullMethodName, []byte{0xff, 0xff}, "", "the message cannot be decoded"},
		{pb.Peer_Exchange_FullMethodName, bytesOf(1, bytesOf(1, []byte("\xff"))), "hello.member", "must be valid UTF-8"},
	} {
		stream, err := conn.NewStream(deadline(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, tt.method, grpc.ForceCodec(raw{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.SendMsg(tt.body); err != nil {
			t.Fatal(err)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		err = stream.RecvMsg(&pb.Answers{})
		if st := grpcstatus.Convert(err); st.Code() != codes.InvalidArgument || !strings.Contains(st.Message(), tt.says) || violated(st) != tt.field {
			t.Errorf("%s(%q) = %v, want InvalidArgument for field %q, %s", tt.method, tt.body, err, tt.field, tt.says)
		}
	}
	watch, err := pb.NewRateLimiterClient(conn).Watch(deadline(t), &pb.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if ring, err := watch.Recv(); err != nil || ring.Number != 1 {
		t.Errorf("Watch() = %v, %v, want a ring", ring, err)
	}
	if _, err := watch.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("Watch() ends with %v, want EOF", err)
	}
	if got := reflected(t, conn); len(got) != 3 {
		t.Errorf("reflection shows %v, want the three public services", got)
	}
}

// TestPanicInStream ends the stream only.
func TestPanicInStream(t *testing.T) {
	var log bytes.Buffer
	conn := serve(t, exchanger{newNode(t).Service}, slog.New(slog.NewTextHandler(&log, nil)))
	for range 2 {
		stream := exchange(t, conn)
		if err := stream.Send(&pb.Batch{Sequence: 13}); err != nil {
			t.Fatal(err)
		}
		_, err := stream.Recv()
		if st := grpcstatus.Convert(err); st.Code() != codes.Internal || st.Message() != "internal error" {
			t.Errorf("Recv() = %v, want Internal", err)
		}
	}
	if got := strings.Count(log.String(), pb.RateLimiter_Exchange_FullMethodName); got != 2 {
		t.Errorf("two panics left %d log lines, want 2:\n%s", got, log.String())
	}
}
