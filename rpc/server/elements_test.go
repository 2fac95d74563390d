// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/pb"
)

// empty returns n empty elements of a field.
func empty(field protowire.Number, n int) []byte {
	return bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), nil), n)
}

// inBatchOf returns a message between members with a batch.
func inBatchOf(batch []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), batch)
}

// TestDecodingTakesBoundedMemory: a message of the largest size with as many elements as
// possible takes less than 1 MiB. Before elements were counted, each took about 20 MiB.
func TestDecodingTakesBoundedMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector takes memory, too")
	}
	const most = 1 << 20
	codec := grpcCodec{encoding.GetCodecV2("proto")}
	n := maxMessage/2 - 8
	for _, tt := range []struct {
		name    string
		message proto.Message
		encoded []byte
		says    string
	}{
		{"a unary batch", &pb.BatchRequest{}, empty(1, n), "a batch has at most 1024"},
		{"a batch of a stream", &pb.Batch{}, empty(3, n), "a batch has at most 512"},
		{"a batch of a member", &pb.PeerMessage{}, inBatchOf(empty(3, n)), "a batch has at most 512"},
		{"batches of a member", &pb.PeerMessage{}, bytes.Repeat(inBatchOf(empty(3, 1000)), n/1000-1), "a batch has at most 512"},
		{"a return that keeps too many", &pb.Batch{}, protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType),
			protowire.AppendBytes(protowire.AppendTag(nil, 12, protowire.BytesType), empty(5, n-8))), "a batch has at most 512"},
		{"keys to locate", &pb.LocateRequest{}, empty(1, n), "elements"},
		{"twice the largest batch", &pb.BatchRequest{}, empty(1, maxElements), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if len(tt.encoded) > maxMessage {
				t.Fatalf("%d bytes, want at most %d", len(tt.encoded), maxMessage)
			}
			in := &incoming{message: tt.message}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(tt.encoded)}, in); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > most {
				t.Errorf("decoding %d bytes allocates %d KiB, want at most %d", len(tt.encoded), got>>10, most>>10)
			}
			if got := in.err; (got == nil) != (tt.says == "") || got != nil && !strings.Contains(got.Error(), tt.says) {
				t.Errorf("error %v, want %q", got, tt.says)
			}
		})
	}
}

// TestFarTooLargeBatches are rejected as those are that are slightly too large.
func TestFarTooLargeBatches(t *testing.T) {
	conn := serveWith(t, exchanger{newNode(t).Service}, GRPCOptions{}, func(s *grpc.Server) {
		pb.RegisterPeerServer(s, peering{})
	})
	for _, n := range []int{MaxItems + 1, maxElements + 1, 100_000} {
		err := conn.Invoke(deadline(t), pb.RateLimiter_Batch_FullMethodName, empty(1, n), &pb.BatchResponse{}, grpc.ForceCodec(raw{}))
		if st := grpcstatus.Convert(err); st.Code() != codes.InvalidArgument || violated(st) != "items" || !strings.Contains(st.Message(), "a batch has at most 1024, got") {
			t.Errorf("a batch of %d: %v, want InvalidArgument for items", n, err)
		}
		for method, body := range map[string][]byte{
			pb.RateLimiter_Exchange_FullMethodName: empty(3, n),
			pb.Peer_Exchange_FullMethodName:        inBatchOf(empty(3, n)),
		} {
			if method == pb.Peer_Exchange_FullMethodName && n <= maxElements {
				continue // this server decodes them, and has no answer
			}
			stream, err := conn.NewStream(deadline(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, grpc.ForceCodec(raw{}))
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.SendMsg(body); err != nil {
				t.Fatal(err)
			}
			err = stream.RecvMsg(&pb.Answers{})
			if st := grpcstatus.Convert(err); st.Code() != codes.InvalidArgument || violated(st) != "items" || !strings.Contains(st.Message(), "a batch has at most 512, got") {
				t.Errorf("%s: a batch of %d ends with %v, want InvalidArgument for items", method, n, err)
			}
		}
	}
}
