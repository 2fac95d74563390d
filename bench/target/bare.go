// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A bare server refuses every check and reserve at once. It is grpc-go with its defaults,
// without a limiter, so that its refusals take as long as gRPC and the machine need.

// bareRefusal has the details of a node's refusal.
var bareRefusal = func() error {
	st, err := status.New(codes.ResourceExhausted, "a bare server refuses every call").
		WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(250 * time.Millisecond)})
	if err != nil {
		panic(err) // both are valid
	}
	return st.Err()
}()

type bareServer struct {
	pb.UnimplementedRateLimiterServer
}

func (bareServer) Check(context.Context, *pb.CheckRequest) (*pb.Decision, error) {
	return nil, bareRefusal
}

func (bareServer) Reserve(context.Context, *pb.ReserveRequest) (*pb.Decision, error) {
	return nil, bareRefusal
}

// Peek is what [Ready] asks.
func (bareServer) Peek(context.Context, *pb.PeekRequest) (*pb.PeekResponse, error) {
	return &pb.PeekResponse{}, nil
}

// ServeBare serves a bare server until ctx ends. It closes the listener.
func ServeBare(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer()
	pb.RegisterRateLimiterServer(s, bareServer{})
	defer context.AfterFunc(ctx, s.Stop)()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// bareTarget sends calls like targets of the kind grpc, to several servers in turns. All
// servers together have as many calls in flight as one target of that kind. No call is held
// back because others were refused: as all are, hardly any would be sent.
type bareTarget struct {
	base
	servers []*grpcTarget
	next    atomic.Uint32
}

// OpenBare returns a target of bare servers. See [ServeBare].
func OpenBare(addrs []string, o Options) (bench.Target, error) {
	o = o.withDefaults()
	o.TLS, o.Token = nil, nil
	b := &bareTarget{base: newBase(kindOf(grpcKind.Name), "bare:"+strings.Join(addrs, ","), o)}
	inFlight := newConnections(maxInFlight)
	for _, at := range addrs {
		server, err := newGRPC(b.kind, at, o)
		if err != nil {
			return nil, errors.Join(err, b.Close())
		}
		server.throttle.off, server.inFlight = true, inFlight
		b.servers = append(b.servers, server)
	}
	return b, nil
}

func (b *bareTarget) describe() string { return "" }

func (b *bareTarget) ready(ctx context.Context) error {
	for _, server := range b.servers {
		if err := server.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (b *bareTarget) server() *grpcTarget {
	return b.servers[int(b.next.Add(1)%uint32(len(b.servers)))]
}

// Check implements [bench.Target].
func (b *bareTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	return b.server().Check(ctx, c)
}

// Reserve implements [bench.Target].
func (b *bareTarget) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	return b.server().Reserve(ctx, c)
}

// Settle implements [bench.Target]. Nothing is reserved.
func (b *bareTarget) Settle(context.Context, bench.Usage) (bench.Answer, error) {
	return bench.Answer{}, bench.ErrNoReservations
}

// Close implements [bench.Target].
func (b *bareTarget) Close() error {
	var errs []error
	for _, server := range b.servers {
		errs = append(errs, server.Close())
	}
	return errors.Join(errs...)
}
