// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

const benchPolicy = `
tiers:
  bench: { requests: 1_000_000/min, tokens: 1_000_000_000/min, concurrent: 1_000, spend: $1_000_000/day }
default_tier: bench
prices:
  "*": { input: 1.00, output: 3.00 }
`

// benchCalls is how many calls there are, each of a key and an id of its own.
const benchCalls = 1 << 16

// benchNode is a service, and a clock that forgets all ids when it is turned.
func benchNode(tb testing.TB) (*Service, *clock) {
	tb.Helper()
	engine := limiter.New(limiter.Options{})
	p, err := policy.Parse("bench.yaml", []byte(benchPolicy), engine.Catalog())
	if err != nil {
		tb.Fatal(err)
	}
	c := &clock{}
	return New(Options{Engine: engine, Policy: func() Policy { return p }, Now: c.now, Name: "node1"}), c
}

func (c *clock) forget() { c.elapsed.Add(31e9) }

func benchItem(i int) *pb.Item {
	return &pb.Item{
		Call: &pb.Item_Check{Check: &pb.CheckRequest{
			Key:         fmt.Sprintf("org-%03d/user-%05d", i%997, i),
			Model:       "llama-3-70b",
			InputTokens: 1200,
			RequestId:   fmt.Sprintf("%032x", i),
		}},
		TimeoutNanos: 900_000_000,
		Term:         7,
	}
}

func benchItems() []*pb.Item {
	items := make([]*pb.Item, benchCalls)
	for i := range items {
		items[i] = benchItem(i)
	}
	return items
}

var benchSizes = []int{1, 16, 64, 256}

// BenchmarkAnswer is checks of 4 limits in batches: what the service and the
// engine take. An operation is a batch.
func BenchmarkAnswer(b *testing.B) {
	items := benchItems()
	for _, size := range benchSizes {
		b.Run(fmt.Sprint("checks=", size), func(b *testing.B) {
			s, clock := benchNode(b)
			calls, at := callsOf(items...), 0
			b.ReportAllocs()
			for b.Loop() {
				results := s.Do(context.Background(), calls[at:at+size])
				results.All()
				results.Release()
				if at += size; at == benchCalls {
					at = 0
					clock.forget()
				}
			}
			perCheck(b, size)
		})
	}
}

// BenchmarkAnswerWire is BenchmarkAnswer with the messages decoded and encoded,
// as a stream does it.
func BenchmarkAnswerWire(b *testing.B) {
	items := benchItems()
	for _, size := range benchSizes {
		b.Run(fmt.Sprint("checks=", size), func(b *testing.B) {
			s, clock := benchNode(b)
			var batches [][]byte
			for at := 0; at < benchCalls; at += size {
				data, err := proto.Marshal(&pb.Batch{Sequence: uint64(at), Ring: 1, Items: items[at : at+size]})
				if err != nil {
					b.Fatal(err)
				}
				batches = append(batches, data)
			}
			at := 0
			var out, wire []byte
			calls := make([]call.Call, size)
			answers := &pb.Answers{Ring: 1}
			b.ReportAllocs()
			for b.Loop() {
				batch := &pb.Batch{}
				if err := proto.Unmarshal(batches[at], batch); err != nil {
					b.Fatal(err)
				}
				for i, item := range batch.Items {
					calls[i] = call.FromItem(item, call.ClientStream)
				}
				results := s.Do(context.Background(), calls)
				wire = results.Append(wire[:0])
				results.Release()
				answers.Sequence = batch.Sequence
				answers.ProtoReflect().SetUnknown(wire)
				proto.Size(answers)
				var err error
				if out, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(out[:0], answers); err != nil {
					b.Fatal(err)
				}
				if at++; at == len(batches) {
					at = 0
					clock.forget()
				}
			}
			b.ReportMetric(float64(len(out))/float64(size), "B-sent/check")
			perCheck(b, size)
		})
	}
}

// benchUnary returns a function that handles an encoded request of a method as grpc-go does,
// but for the connection, and returns the size of the answer.
func benchUnary(tb testing.TB, svc pb.RateLimiterServer, method string) func(request []byte) int {
	tb.Helper()
	desc := handling(UnaryService{Desc: pb.RateLimiter_ServiceDesc}, guard{streams: NewStreamLimits(nil, nil)})
	at := slices.IndexFunc(desc.Methods, func(m grpc.MethodDesc) bool { return m.MethodName == method })
	codec, server := grpcCodec{encoding.GetCodecV2("proto")}, admittedBatches{svc, nil}
	return func(request []byte) int {
		answer, err := desc.Methods[at].Handler(server, context.Background(), func(v any) error {
			return codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(request)}, v)
		}, nil)
		if err != nil {
			tb.Fatal(err)
		}
		encoded, err := codec.Marshal(answer)
		if err != nil {
			tb.Fatal(err)
		}
		defer encoded.Free()
		return encoded.Len()
	}
}

// BenchmarkUnaryWire is unary calls of 4 limits, from an encoded request to the encoded answer,
// without the connection, and the same for an echo of as many bytes.
func BenchmarkUnaryWire(b *testing.B) {
	items := benchItems()
	for _, size := range []int{1, 256} {
		var requests [][]byte
		method := "Check"
		for at := 0; at < benchCalls; at += size {
			var request proto.Message = items[at].GetCheck()
			if size > 1 {
				method, request = "Batch", &pb.BatchRequest{Items: items[at : at+size]}
			}
			data, err := proto.Marshal(request)
			if err != nil {
				b.Fatal(err)
			}
			requests = append(requests, data)
		}
		answered := 0
		b.Run(fmt.Sprint("checks=", size), func(b *testing.B) {
			s, clock := benchNode(b)
			call, at := benchUnary(b, s, method), 0
			b.ReportAllocs()
			for b.Loop() {
				answered = call(requests[at])
				if at++; at == len(requests) {
					at = 0
					clock.forget()
				}
			}
			b.ReportMetric(float64(answered)/float64(size), "B-sent/check")
			perCheck(b, size)
		})
		b.Run(fmt.Sprint("echo of checks=", size), func(b *testing.B) {
			codec := grpcCodec{encoding.GetCodecV2("proto")}
			request, err := proto.Marshal(wrapperspb.Bytes(requests[0]))
			if err != nil {
				b.Fatal(err)
			}
			payload := make([]byte, answered)
			b.ReportAllocs()
			for b.Loop() {
				in := new(wrapperspb.BytesValue)
				if err := codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(request)}, in); err != nil {
					b.Fatal(err)
				}
				encoded, err := codec.Marshal(wrapperspb.Bytes(payload))
				if err != nil {
					b.Fatal(err)
				}
				encoded.Free()
			}
			perCheck(b, size)
		})
	}
}

func perCheck(b *testing.B, size int) {
	b.Helper()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/check")
}
