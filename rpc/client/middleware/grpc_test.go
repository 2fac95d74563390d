// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

type text = wrapperspb.StringValue

// A model is a handwritten gRPC service.
type model struct {
	complete func(context.Context, *text) (*text, error)
	generate func(*text, grpc.ServerStream) error
	talk     func(grpc.ServerStream) error
}

var modelService = grpc.ServiceDesc{
	ServiceName: "test.Model",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Complete",
		Handler: func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			in := new(text)
			if err := decode(in); err != nil {
				return nil, err
			}
			return intercept(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/test.Model/Complete"}, func(ctx context.Context, req any) (any, error) {
				return srv.(*model).complete(ctx, req.(*text))
			})
		},
	}},
	Streams: []grpc.StreamDesc{
		{StreamName: "Generate", ServerStreams: true, Handler: func(srv any, s grpc.ServerStream) error {
			in := new(text)
			if err := s.RecvMsg(in); err != nil {
				return err
			}
			return srv.(*model).generate(in, s)
		}},
		{StreamName: "Talk", ServerStreams: true, ClientStreams: true, Handler: func(srv any, s grpc.ServerStream) error {
			return srv.(*model).talk(s)
		}},
	},
}

// A rig is a gRPC server with a metered service, its client, and the results of
// its calls.
type rig struct {
	conn *grpc.ClientConn
	done chan middleware.Result // buffers all calls of a test; never closed
}

func serveGRPC(t *testing.T, limiter middleware.Limiter, m *model) *rig {
	t.Helper()
	r := &rig{done: make(chan middleware.Result, 100)}
	g, err := middleware.NewGRPC(middleware.GRPCOptions{
		Client: limiter,
		Identify: func(ctx context.Context, method string, _ any) (middleware.Identity, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			if len(md["key"]) == 0 {
				return middleware.Identity{}, errors.New("no key was sent")
			}
			return middleware.Identity{Key: md["key"][0], Tier: "free"}, nil
		},
		Estimate: func(_ context.Context, method string, req any) (client.Estimate, bool, error) {
			e := client.Estimate{Model: "m", InputTokens: 100, MaxOutputTokens: new(int64(500))}
			if in, ok := req.(*text); ok {
				e.InputTokens = int64(len(in.GetValue()))
				if in.GetValue() == "bad" {
					return e, false, errors.New("a bad prompt")
				}
				if in.GetValue() == "ping" {
					return e, false, nil
				}
			}
			return e, true, nil
		},
		Usage: func(_ string, _, reply any) (client.Usage, bool) {
			if reply.(*text).GetValue() == "usage" {
				return client.Usage{InputTokens: new(int64(40)), OutputTokens: new(int64(7))}, true
			}
			return client.Usage{}, false
		},
		ProgressInterval: 5 * time.Millisecond,
		OnDone:           func(result middleware.Result) { r.done <- result },
	})
	if err != nil {
		t.Fatal(err)
	}
	l := bufconn.Listen(1 << 20)
	recovering := func(err *error) {
		if v := recover(); v != nil {
			*err = status.Errorf(codes.Internal, "panic: %v", v)
		}
	}
	s := grpc.NewServer(
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
			defer recovering(&err)
			return next(ctx, req)
		}, g.UnaryServerInterceptor()),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
			defer recovering(&err)
			return next(srv, ss)
		}, g.StreamServerInterceptor()),
	)
	s.RegisterService(&modelService, m)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	if r.conn, err = dialBuffer(l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
	return r
}

func dialBuffer(l *bufconn.Listener) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///model", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
}

func (r *rig) result(t *testing.T) middleware.Result {
	t.Helper()
	select {
	case result := <-r.done:
		return result
	case <-time.After(20 * time.Second):
		t.Fatal("after 20s: the call has not ended")
		return middleware.Result{}
	}
}

func asAlice(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "key", "acme/alice")
}

func (r *rig) complete(t *testing.T, prompt string) (trailer metadata.MD, err error) {
	t.Helper()
	err = r.conn.Invoke(asAlice(t.Context()), "/test.Model/Complete", &text{Value: prompt}, new(text), grpc.Trailer(&trailer))
	return trailer, err
}

func TestUnary(t *testing.T) {
	n, c := start(t)
	var reply func(ctx context.Context, call *middleware.Call) (*text, error)
	r := serveGRPC(t, c, &model{complete: func(ctx context.Context, _ *text) (*text, error) {
		call, ok := middleware.FromContext(ctx)
		if !ok || call.Granted() != 500 {
			t.Errorf("FromContext() = %v, %v, want a grant of 500", call, ok)
		}
		return reply(ctx, call)
	}})
	var total int64
	for _, test := range []struct {
		name          string
		reply         func(ctx context.Context, call *middleware.Call) (*text, error)
		code          codes.Code
		source        middleware.Source
		input, output int64
	}{
		{"usage of the reply", func(context.Context, *middleware.Call) (*text, error) {
			return &text{Value: "usage"}, nil
		}, codes.OK, middleware.SourceReported, 40, 7},
		{"usage of the handler", func(_ context.Context, call *middleware.Call) (*text, error) {
			call.SetUsage(client.Usage{OutputTokens: new(int64(9))})
			return &text{Value: "usage"}, nil
		}, codes.OK, middleware.SourceReported, 8, 9},
		{"no usage", func(context.Context, *middleware.Call) (*text, error) {
			return &text{}, nil
		}, codes.OK, middleware.SourceEstimated, 8, 500},
		{"an error", func(context.Context, *middleware.Call) (*text, error) {
			return nil, status.Error(codes.Unavailable, "busy")
		}, codes.Unavailable, middleware.SourceCancelled, 0, 0},
		{"a rejection", func(context.Context, *middleware.Call) (*text, error) {
			return nil, status.Error(codes.InvalidArgument, "too long")
		}, codes.InvalidArgument, middleware.SourceRejected, 0, 0},
		{"an error after some output", func(_ context.Context, call *middleware.Call) (*text, error) {
			call.SetUsage(client.Usage{OutputTokens: new(int64(3))})
			return nil, status.Error(codes.Internal, "broke")
		}, codes.Internal, middleware.SourceReported, 8, 3},
		{"an error after a time", func(context.Context, *middleware.Call) (*text, error) {
			before := n.progress.Load()
			waittest.Until(t, "renewed", func() bool { return n.progress.Load() > before })
			return nil, status.Error(codes.Unavailable, "busy")
		}, codes.Unavailable, middleware.SourceCancelled, 0, 0},
		{"a panic", func(context.Context, *middleware.Call) (*text, error) { panic("a bug") }, codes.Internal, middleware.SourcePartial, 8, 500},
		{"not run", func(_ context.Context, call *middleware.Call) (*text, error) {
			call.MarkNotRun()
			return &text{Value: "usage"}, nil
		}, codes.OK, middleware.SourceCancelled, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			reply = test.reply
			trailer, err := r.complete(t, "a prompt")
			if status.Code(err) != test.code {
				t.Errorf("Complete() = %v, want %v", err, test.code)
			}
			if got := trailer["x-ratelimit-limit-tokens"]; len(got) != 1 || got[0] != "10000" {
				t.Errorf("trailer = %v, want x-ratelimit-limit-tokens 10000", trailer)
			}
			result := r.result(t)
			wantCharge(t, result, test.source, test.input, test.output)
			if result.Method != "/test.Model/Complete" {
				t.Errorf("Method = %q", result.Method)
			}
			total += test.input + test.output
			wantUsed(t, c, "free", "tokens", total)
			wantUsed(t, c, "free", "concurrent", 0)
		})
	}
}

func TestUnaryNotRun(t *testing.T) {
	_, c := start(t)
	r := serveGRPC(t, c, &model{complete: func(_ context.Context, in *text) (*text, error) {
		if in.GetValue() != "ping" {
			t.Error("a call that must not run reached the handler")
		}
		return &text{}, nil
	}})
	if _, err := r.complete(t, "ping"); err != nil { // not metered
		t.Errorf("Complete(ping) = %v", err)
	}
	if _, err := r.complete(t, "bad"); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "a bad prompt") {
		t.Errorf("Complete(bad) = %v, want InvalidArgument", err)
	}
	if err := r.conn.Invoke(t.Context(), "/test.Model/Complete", &text{}, new(text)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("Complete() without a key = %v, want Unauthenticated", err)
	}
	wrong := metadata.AppendToOutgoingContext(t.Context(), "key", "acme//alice")
	if err := r.conn.Invoke(wrong, "/test.Model/Complete", &text{}, new(text)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("Complete() with a wrong key = %v, want Unauthenticated", err)
	}
	for _, test := range []struct {
		used  int64
		retry bool
	}{{9600, true}, {0, false}} {
		prompt := strings.Repeat("a", 10_001)
		if test.used > 0 {
			prompt = "a prompt"
			held, err := c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", Tier: "free", InputTokens: test.used, MaxOutputTokens: new(int64(0))})
			if err != nil {
				t.Fatal(err)
			}
			defer held.Cancel(t.Context())
		}
		trailer, err := r.complete(t, prompt)
		s := status.Convert(err)
		var quota *errdetails.QuotaFailure
		var retry *errdetails.RetryInfo
		for _, d := range s.Details() {
			switch d := d.(type) {
			case *errdetails.QuotaFailure:
				quota = d
			case *errdetails.RetryInfo:
				retry = d
			}
		}
		if s.Code() != codes.ResourceExhausted || (retry != nil) != test.retry {
			t.Errorf("Complete() = %v with %v, want ResourceExhausted, retry %v", err, s.Details(), test.retry)
		}
		if retry != nil && retry.GetRetryDelay().AsDuration() != 648*time.Millisecond {
			t.Errorf("retry after %v, want the 648ms until 108 tokens are back", retry.GetRetryDelay().AsDuration())
		}
		if v := quota.GetViolations(); len(v) != 1 || v[0].GetSubject() != "acme/alice" || v[0].GetQuotaMetric() != "tokens" || v[0].GetQuotaValue() != 10_000 {
			t.Errorf("quota failure = %v, want tokens of acme/alice", quota)
		}
		if !strings.HasPrefix(s.Message(), "Token limit exceeded: ") || !strings.Contains(s.Message(), "acme/alice") {
			t.Errorf("message = %q, want the limit that denied and whose it is", s.Message())
		}
		if len(trailer["x-ratelimit-remaining-tokens"]) != 1 {
			t.Errorf("trailer = %v, want x-ratelimit-remaining-tokens", trailer)
		}
		if result := r.result(t); result.Outcome != client.Denied {
			t.Errorf("OnDone(%+v), want denied", result)
		}
	}
}

func TestUnaryLimiterUnavailable(t *testing.T) {
	r := serveGRPC(t, failingLimiter{client.ErrUnreachable}, &model{complete: func(context.Context, *text) (*text, error) {
		t.Error("a call without a decision reached the handler")
		return &text{}, nil
	}})
	_, err := r.complete(t, "a prompt")
	s := status.Convert(err)
	if len(s.Details()) != 1 || s.Code() != codes.Unavailable {
		t.Fatalf("Complete() = %v, want Unavailable with RetryInfo", err)
	}
	if retry, ok := s.Details()[0].(*errdetails.RetryInfo); !ok || retry.GetRetryDelay().AsDuration() != time.Second {
		t.Errorf("details = %v, want a second", s.Details())
	}
}

// stream calls a method and reads its replies to the end, or at most some of them.
func (r *rig) stream(ctx context.Context, t *testing.T, i int, prompt string, most int) (got []string, err error) {
	t.Helper()
	desc := &modelService.Streams[i]
	s, err := r.conn.NewStream(asAlice(ctx), desc, "/test.Model/"+desc.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SendMsg(&text{Value: prompt}); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for most < 0 || len(got) < most {
		m := new(text)
		if err := s.RecvMsg(m); err != nil {
			return got, err
		}
		got = append(got, m.GetValue())
	}
	return got, nil
}

// send sends words, and sets the usage so far after each.
func send(t *testing.T, s grpc.ServerStream, words ...string) {
	t.Helper()
	for i, word := range words {
		if err := s.SendMsg(&text{Value: word}); err != nil {
			t.Errorf("SendMsg() = %v", err)
		}
		if call, ok := middleware.FromContext(s.Context()); ok {
			call.SetUsage(client.Usage{OutputTokens: new(int64(i) + 1)})
		} else {
			t.Error("the stream has no call")
		}
	}
}

func TestServerStream(t *testing.T) {
	n, c := start(t)
	var run func(s grpc.ServerStream) error
	r := serveGRPC(t, c, &model{generate: func(in *text, s grpc.ServerStream) error {
		if in.GetValue() != "a prompt" {
			t.Errorf("the handler got %q", in.GetValue())
		}
		return run(s)
	}})
	var total int64
	for _, test := range []struct {
		name          string
		run           func(s grpc.ServerStream) error
		most          int
		code          codes.Code
		source        middleware.Source
		input, output int64
	}{
		{"usage of the handler", func(s grpc.ServerStream) error { send(t, s, "a", "b", "c"); return nil }, -1, codes.OK, middleware.SourceReported, 8, 3},
		{"usage of a message", func(s grpc.ServerStream) error {
			send(t, s, "a")
			return s.SendMsg(&text{Value: "usage"})
		}, -1, codes.OK, middleware.SourceReported, 40, 7},
		{"no usage", func(s grpc.ServerStream) error { return s.SendMsg(&text{}) }, -1, codes.OK, middleware.SourceEstimated, 8, 500},
		{"an error", func(grpc.ServerStream) error { return status.Error(codes.Unavailable, "busy") }, -1, codes.Unavailable, middleware.SourceCancelled, 0, 0},
		{"a rejection", func(grpc.ServerStream) error { return status.Error(codes.NotFound, "no such model") }, -1, codes.NotFound, middleware.SourceRejected, 0, 0},
		{"an error in mid-stream", func(s grpc.ServerStream) error {
			send(t, s, "a", "b")
			return status.Error(codes.Internal, "broke")
		}, -1, codes.Internal, middleware.SourcePartial, 8, 2},
		{"a panic in mid-stream", func(s grpc.ServerStream) error { send(t, s, "a", "b"); panic("a bug") }, -1, codes.Internal, middleware.SourcePartial, 8, 2},
		{"the caller disconnects", func(s grpc.ServerStream) error {
			send(t, s, "a", "b", "c", "d")
			<-s.Context().Done()
			return s.Context().Err()
		}, 4, codes.OK, middleware.SourcePartial, 8, 4},
		{"progress", func(s grpc.ServerStream) error {
			send(t, s, "a", "b", "c", "d", "e")
			waittest.Until(t, "progress of 5", func() bool { return n.output.Load() == 5 })
			return nil
		}, -1, codes.OK, middleware.SourceReported, 8, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			run = test.run
			ctx, cancel := context.WithCancel(t.Context())
			_, err := r.stream(ctx, t, 0, "a prompt", test.most)
			cancel()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if status.Code(err) != test.code {
				t.Errorf("Generate() = %v, want %v", err, test.code)
			}
			wantCharge(t, r.result(t), test.source, test.input, test.output)
			total += test.input + test.output
			wantUsed(t, c, "free", "tokens", total)
			wantUsed(t, c, "free", "concurrent", 0)
		})
	}
}

func TestStreamNotRun(t *testing.T) {
	_, c := start(t)
	r := serveGRPC(t, c, &model{
		generate: func(*text, grpc.ServerStream) error {
			t.Error("a denied stream reached the handler")
			return nil
		},
		talk: func(grpc.ServerStream) error {
			t.Error("a denied stream reached the handler")
			return nil
		},
	})
	held, err := c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", Tier: "free", InputTokens: 9900, MaxOutputTokens: new(int64(0))})
	if err != nil || held.Denied() {
		t.Fatal(err)
	}
	for i := range modelService.Streams {
		if _, err := r.stream(t.Context(), t, i, "a prompt", -1); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("stream %d = %v, want ResourceExhausted", i, err)
		}
		if result := r.result(t); result.Outcome != client.Denied {
			t.Errorf("OnDone(%+v), want denied", result)
		}
	}
	wantUsed(t, c, "free", "concurrent", 1)
}

// A bidirectional call is reserved before its first message, and the handler can
// send first.
func TestBidirectionalStream(t *testing.T) {
	_, c := start(t)
	r := serveGRPC(t, c, &model{talk: func(s grpc.ServerStream) error {
		send(t, s, "hello")
		for {
			m := new(text)
			if err := s.RecvMsg(m); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			send(t, s, m.GetValue(), m.GetValue())
		}
	}})
	got, err := r.stream(t.Context(), t, 1, "a prompt", -1)
	if !errors.Is(err, io.EOF) || len(got) != 3 {
		t.Errorf("Talk() = %q, %v, want 3 messages", got, err)
	}
	wantCharge(t, r.result(t), middleware.SourceReported, 100, 2)
	wantUsed(t, c, "free", "tokens", 102)
	wantUsed(t, c, "free", "concurrent", 0)
}
