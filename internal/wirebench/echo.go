// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// The echo is the upper bound for one call per message: gRPC with the options of a node,
// a request of the same size, and an answer of the size in its first four bytes.

const echoMethod = "/wirebench.Echo/Echo"

type echoer interface {
	echo(*wrapperspb.BytesValue) *wrapperspb.BytesValue
}

type echoServer struct{ payload []byte }

func (e *echoServer) echo(in *wrapperspb.BytesValue) *wrapperspb.BytesValue {
	return wrapperspb.Bytes(e.payload[:answerSize(in.GetValue())])
}

// newRequest returns a request of size bytes for an answer of another size.
func newRequest(size, answer int) *wrapperspb.BytesValue {
	b := make([]byte, max(size, 4))
	b[0], b[1], b[2] = byte(answer), byte(answer>>8), byte(answer>>16)
	return wrapperspb.Bytes(b)
}

func answerSize(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	return int(b[0]) | int(b[1])<<8 | int(b[2])<<16
}

var echoDesc = grpc.ServiceDesc{
	ServiceName: "wirebench.Echo",
	HandlerType: (*echoer)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(srv any, _ context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := receive(in); err != nil {
				return nil, err
			}
			return srv.(echoer).echo(in), nil
		},
	}},
}

func serveEcho() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := server.NewGRPC(pb.UnimplementedRateLimiterServer{}, server.GRPCOptions{})
	s.RegisterService(&echoDesc, &echoServer{payload: make([]byte, 1<<24)})
	if err := announce(l.Addr().String()); err != nil {
		return err
	}
	return s.Serve(l)
}
