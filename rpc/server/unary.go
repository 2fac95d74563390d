// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Answers of unary calls over gRPC are encoded as those of streams are: from the engine's form,
// one after the other in the same memory. Callers within the process get messages.

// encoder is a service that encodes its answers: [API], and services around one.
type encoder interface {
	// appendAnswer answers a request of unaryRequests, and appends the encoded answer to wire.
	appendAnswer(ctx context.Context, request proto.Message, wire []byte) ([]byte, error)
}

var (
	_ encoder = API{}
	_ encoder = (*traced)(nil)
	_ encoder = admittedBatches{}
)

// unaryRequests makes the requests of the methods of RateLimiter that an encoder answers.
var unaryRequests = map[string]func() proto.Message{
	"Check":   func() proto.Message { return new(pb.CheckRequest) },
	"Reserve": func() proto.Message { return new(pb.ReserveRequest) },
	"Settle":  func() proto.Message { return new(pb.SettleRequest) },
	"Cancel":  func() proto.Message { return new(pb.CancelRequest) },
	"Peek":    func() proto.Message { return new(pb.PeekRequest) },
	"Batch":   func() proto.Message { return new(pb.BatchRequest) },
}

// encoded returns a handler of a method that is answered by an encoder without a message, or
// else by handle.
func (l *StreamLimits) encoded(name string, handle grpc.MethodHandler) grpc.MethodHandler {
	newRequest := unaryRequests[name]
	return func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		svc, ok := srv.(encoder)
		if !ok || newRequest == nil || interceptor != nil {
			return handle(srv, ctx, decode, interceptor)
		}
		request := newRequest()
		if err := decode(request); err != nil {
			return nil, err
		}
		buf := answerBuffers.Get(answerSize(request))
		wire, err := svc.appendAnswer(ctx, request, (*buf)[:0])
		if err != nil {
			answerBuffers.Put(buf)
			return nil, err
		}
		*buf = wire
		return l.unaryEncoded(ctx, buf)
	}
}

// answerSize is about how large the answer to a request is; answers to batches of calls with
// more than four limits are larger.
func answerSize(request proto.Message) int {
	const one, smallest = 480, 4 << 10
	if b, ok := request.(*pb.BatchRequest); ok {
		return max(one*min(len(b.GetItems()), MaxItems), smallest)
	}
	return smallest
}

// appendAnswer implements encoder.
func (a API) appendAnswer(ctx context.Context, request proto.Message, wire []byte) ([]byte, error) {
	m := batches.Get().(*batch)
	defer m.release()
	if b, ok := request.(*pb.BatchRequest); ok {
		results, err := a.decideBatch(ctx, m, b, false)
		if err != nil {
			return nil, err
		}
		defer results.Release()
		return results.appendBatch(wire), nil
	}
	results := a.decide(ctx, m, request)
	defer results.Release()
	return results.appendOnly(wire)
}

// appendBatch appends every result, encoded as a field of pb.BatchResponse.
func (r *Results) appendBatch(wire []byte) []byte {
	for i := range r.list {
		wire = codec.AppendBatchResult(wire, r.View(i))
	}
	return wire
}

// appendOnly appends the answer of the only call, or returns its error.
func (r *Results) appendOnly(wire []byte) ([]byte, error) {
	result := r.View(0)
	switch answer := result.GetResult().(type) {
	case *pb.Result_Decision:
		return codec.AppendAnswer(wire, answer.Decision), nil
	case *pb.Result_Settlement:
		return codec.AppendAnswer(wire, answer.Settlement), nil
	case *pb.Result_Limits:
		return codec.AppendAnswer(wire, answer.Limits), nil
	}
	return wire, ErrorOf(result)
}

// appendFrom is appendAnswer of any service.
func appendFrom(ctx context.Context, svc pb.RateLimiterServer, request proto.Message, wire []byte) ([]byte, error) {
	if e, ok := svc.(encoder); ok {
		return e.appendAnswer(ctx, request, wire)
	}
	answer, err := ask(ctx, svc, request)
	if err != nil {
		return nil, err
	}
	return proto.MarshalOptions{}.MarshalAppend(wire, answer)
}

// ask returns the answer to a request of unaryRequests.
func ask(ctx context.Context, svc pb.RateLimiterServer, request proto.Message) (proto.Message, error) {
	switch q := request.(type) {
	case *pb.CheckRequest:
		return svc.Check(ctx, q)
	case *pb.ReserveRequest:
		return svc.Reserve(ctx, q)
	case *pb.SettleRequest:
		return svc.Settle(ctx, q)
	case *pb.CancelRequest:
		return svc.Cancel(ctx, q)
	case *pb.PeekRequest:
		return svc.Peek(ctx, q)
	}
	return svc.Batch(ctx, request.(*pb.BatchRequest))
}
