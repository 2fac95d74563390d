// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

var echoKind = Kind{
	Name: "echo", Syntax: "echo:[HOST:PORT]",
	Measures:    "gRPC itself, the most that one unary call per check can reach: requests and answers have the size of a check and of an answer with four limits, and the server has the options of a node, but decides nothing. Without an address the server runs in this process; with one it is that of \"bucketring bench echo\".",
	Limitations: "It limits nothing, and neither side encodes or decodes more than bytes. In the process of the harness it shares its memory and its garbage collection.",
}

const echoMethod = "/bucketring.bench.Echo/Echo"

// echoed is an answer with four limits.
var echoed = func() *pb.Decision {
	d := &pb.Decision{
		Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: "0123456789abcdef0123456789abcdef", Tier: "standard",
		PolicyVersion: "0123456789abcdef", Owner: "node-1", Route: pb.Route_ROUTE_LOCAL,
	}
	for _, dimension := range []string{"requests", "tokens", "concurrent", "spend"} {
		d.Limits = append(d.Limits, &pb.LimitState{
			Name: dimension, Dimension: dimension, Scope: "user-000001", Algorithm: "token_bucket", Limit: 1_000_000, Capacity: 1_000_000,
			Remaining: 999_999, ResetAt: timestamppb.Now(),
		})
	}
	return d
}()

// echoer answers with as many bytes as a request asks for in its first four.
type echoer interface {
	echo(in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error)
}

// maxEcho is the size of the largest answer.
const maxEcho = 4 << 20

type echoServer struct{ payload []byte }

func (e *echoServer) echo(request *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	in := request.GetValue()
	if len(in) < 4 {
		return nil, status.Errorf(codes.InvalidArgument, "the request has %d bytes, want 4 or more", len(in))
	}
	size := int(in[0]) | int(in[1])<<8 | int(in[2])<<16 | int(in[3])<<24
	if size > len(e.payload) {
		return nil, status.Errorf(codes.InvalidArgument, "an answer of %d bytes was asked for, at most %d are possible", size, len(e.payload))
	}
	return wrapperspb.Bytes(e.payload[:size]), nil
}

var echoService = grpc.ServiceDesc{
	ServiceName: "bucketring.bench.Echo",
	HandlerType: (*echoer)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Echo",
		Handler: func(srv any, _ context.Context, receive func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			in := new(wrapperspb.BytesValue)
			if err := receive(in); err != nil {
				return nil, err
			}
			return srv.(echoer).echo(in)
		},
	}},
}

// ServeEcho serves echoes until ctx ends. It closes the listener.
func ServeEcho(ctx context.Context, l net.Listener) error {
	s := server.NewGRPC(pb.UnimplementedRateLimiterServer{}, server.GRPCOptions{})
	s.RegisterService(&echoService, &echoServer{payload: make([]byte, maxEcho)})
	defer context.AfterFunc(ctx, s.Stop)()
	if err := s.Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// echoTarget asks for echoes of the size of checks.
type echoTarget struct {
	base
	checksOnly
	conn     *grpc.ClientConn
	inFlight *connections
	start    *throttle // for its clock
	stop     func() error
}

func openEcho(k *kind, rest string, o Options) (builtin, error) {
	o.Token = nil // it is for nodes
	e := &echoTarget{inFlight: newConnections(maxInFlight), start: newThrottle(), stop: func() error { return nil }}
	var at, name string
	var err error
	if rest == "" {
		o.TLS = nil
		at, e.stop, err = serveEchoHere()
	} else {
		at, err = parseAddress(k.Name, rest, "6471", o)
		name = at
	}
	if err != nil {
		return nil, err
	}
	if e.conn, err = dial(at, o); err != nil {
		return nil, errors.Join(err, e.stop())
	}
	e.base = newBase(k, k.Name+":"+name, o)
	return e, nil
}

// serveEchoHere starts a server in this process.
func serveEchoHere() (at string, stop func() error, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	var failure error
	serving.Go(func() { failure = ServeEcho(ctx, l) })
	return l.Addr().String(), func() error {
		cancel()
		serving.Wait()
		return failure
	}, nil
}

func (e *echoTarget) describe() string { return "" }

func (e *echoTarget) ready(ctx context.Context) error { return connected(ctx, e.timeout, e.conn) }

// request returns the check of a call.
func (e *echoTarget) request(c *bench.Call) *pb.CheckRequest {
	return &pb.CheckRequest{
		Key: c.Key, Tier: c.Tier, Model: c.Model, RequestId: e.checkID(c),
		Requests: new(requestsOf(c)), InputTokens: c.InputTokens, OutputTokens: c.OutputTokens,
	}
}

// Check implements [bench.Target].
func (e *echoTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	if err := e.ask(ctx, proto.Size(e.request(c)), proto.Size(echoed)); err != nil {
		return bench.Answer{}, err
	}
	return bench.Answer{Outcome: bench.Allowed, ID: c.ID}, nil
}

// CheckBatch implements [Batcher].
func (e *echoTarget) CheckBatch(ctx context.Context, calls []bench.Call) ([]bench.Answer, error) {
	var request pb.BatchRequest
	var response pb.BatchResponse
	answers := make([]bench.Answer, len(calls))
	for i := range calls {
		request.Items = append(request.Items, &pb.Item{Call: &pb.Item_Check{Check: e.request(&calls[i])}})
		response.Results = append(response.Results, &pb.Result{Result: &pb.Result_Decision{Decision: echoed}})
		answers[i] = bench.Answer{Outcome: bench.Allowed, ID: calls[i].ID}
	}
	return answers, e.ask(ctx, proto.Size(&request), proto.Size(&response))
}

// ask sends a request of a size for an answer of another.
func (e *echoTarget) ask(ctx context.Context, size, answer int) error {
	ctx, cancel := e.withTimeout(ctx)
	defer cancel()
	if err := e.inFlight.acquire(ctx, e.start.now(), true); err != nil { // nothing is refused
		return wrapError("check", fmt.Errorf("no free stream: %w", err), errors.Is(err, context.DeadlineExceeded))
	}
	defer e.inFlight.release()
	in := make([]byte, max(size, 4))
	in[0], in[1], in[2], in[3] = byte(answer), byte(answer>>8), byte(answer>>16), byte(answer>>24)
	out := new(wrapperspb.BytesValue)
	if err := e.conn.Invoke(ctx, echoMethod, wrapperspb.Bytes(in), out); err != nil {
		return grpcError("check", err)
	}
	if len(out.GetValue()) != answer {
		return fmt.Errorf("check: the echo has %d bytes, want %d", len(out.GetValue()), answer)
	}
	return nil
}

// Close implements [bench.Target].
func (e *echoTarget) Close() error { return errors.Join(e.conn.Close(), e.stop()) }
