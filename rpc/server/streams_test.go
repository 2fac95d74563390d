// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// fixed answers as a node does, with answers of a fixed size.
type fixed struct {
	pb.UnimplementedRateLimiterServer
	answer *pb.Answers
	batch  *pb.BatchResponse
}

func (fixed) Check(context.Context, *pb.CheckRequest) (*pb.Decision, error) {
	return &pb.Decision{}, nil
}

func (f fixed) Batch(context.Context, *pb.BatchRequest) (*pb.BatchResponse, error) {
	return f.batch, nil
}

func (fixed) Watch(_ *pb.WatchRequest, s grpc.ServerStreamingServer[pb.Ring]) error {
	if err := s.Send(&pb.Ring{Number: 1}); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

func (f fixed) Exchange(s grpc.BidiStreamingServer[pb.Batch, pb.Answers]) error {
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := s.Send(f.answer); err != nil {
			return err
		}
	}
}

// bounded is a server with few streams, on a listener with limits.
type bounded struct {
	limits   *StreamLimits
	listener *listenlimit.Listener
	registry *prometheus.Registry
}

// bound starts a server. Every kind of stream has the bound.
func bound(t *testing.T, svc pb.RateLimiterServer, b StreamBound, timeout time.Duration) *bounded {
	t.Helper()
	return boundFor(t, svc, b, timeout, nil)
}

// boundFor is bound with members.
func boundFor(t *testing.T, svc pb.RateLimiterServer, b StreamBound, timeout time.Duration, member func(netip.Addr) bool) *bounded {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &bounded{registry: prometheus.NewRegistry(), listener: listenlimit.New(l, listenlimit.Options{Max: 100, MaxPerAddress: 100, Member: member})}
	s.limits = newStreamLimits(s.registry, member, [streamKinds]StreamBound{b, b, b, b})
	s.limits.sendTimeout = timeout
	server := NewGRPC(svc, GRPCOptions{Streams: s.limits})
	done := make(chan error, 1)
	go func() { done <- server.Serve(s.listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *bounded) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(s.listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(64<<10), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (s *bounded) open(k StreamKind) int { return int(s.limits.kinds[k].open.Load()) }

// TestWatchersAreBounded opens more watches than an address may have: those that are
// too many end with the reason, and other kinds of streams go on.
func TestWatchersAreBounded(t *testing.T) {
	s := bound(t, fixed{answer: &pb.Answers{}}, StreamBound{Max: 100, PerAddress: 3}, time.Minute)
	client := pb.NewRateLimiterClient(s.dial(t))
	watch := func(ctx context.Context) error {
		t.Helper()
		w, err := client.Watch(ctx, &pb.WatchRequest{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Recv()
		return err
	}
	ctx, cancel := context.WithCancel(deadline(t))
	for range 3 {
		if err := watch(ctx); err != nil {
			t.Fatalf("a watch within the bound = %v", err)
		}
	}
	if err := watch(ctx); grpcstatus.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "too many streams from this address: 3 of kind watch") {
		t.Errorf("one watch too many = %v, want ResourceExhausted", err)
	}
	if _, err := client.Check(deadline(t), &pb.CheckRequest{}); err != nil {
		t.Errorf("Check() with too many watches = %v, want nil", err)
	}
	exchange, err := client.Exchange(deadline(t))
	if err == nil {
		err = exchange.Send(&pb.Batch{})
	}
	if err == nil {
		_, err = exchange.Recv()
	}
	if err != nil {
		t.Errorf("Exchange() with too many watches = %v, want an answer", err)
	}
	cancel()
	waittest.Until(t, "watches have ended", func() bool { return s.open(WatchStream) == 0 })
	if err := watch(deadline(t)); err != nil {
		t.Errorf("a watch after others have ended = %v", err)
	}
	want := map[string]float64{"watch address": 1}
	for name, n := range valuesOf(t, s.registry, "bucketring_streams_refused_total") {
		if n != want[name] {
			t.Errorf("refused streams: %s = %v, want %v", name, n, want[name])
		}
	}
}

// valuesOf returns the values of a counter by its labels.
func valuesOf(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			if f.GetName() == name {
				values[strings.Join(labels, " ")] = m.GetCounter().GetValue()
			}
		}
	}
	return values
}

// TestUnaryCallsWithoutMessagesAreBounded opens calls and sends no message. More than
// the bound are refused once their message is there; with 8 more, the connection is
// closed.
func TestUnaryCallsWithoutMessagesAreBounded(t *testing.T) {
	s := bound(t, fixed{}, StreamBound{Max: 100, PerAddress: 8}, time.Minute)
	flooder, victim := s.dial(t), s.dial(t)
	begin := func(conn *grpc.ClientConn) {
		t.Helper()
		if _, err := conn.NewStream(deadline(t), &grpc.StreamDesc{ClientStreams: true}, pb.RateLimiter_Check_FullMethodName); err != nil {
			t.Fatal(err)
		}
	}
	for range 8 {
		begin(flooder)
	}
	waittest.Until(t, "calls have begun", func() bool { return s.open(UnaryStream) == 8 })
	_, err := pb.NewRateLimiterClient(victim).Check(deadline(t), &pb.CheckRequest{})
	if grpcstatus.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "kind unary") {
		t.Errorf("Check() of an address with 8 open calls = %v, want ResourceExhausted", err)
	}
	for range 9 {
		begin(flooder)
	}
	waittest.Until(t, "the connection with too many calls is closed", func() bool { return s.open(UnaryStream) == 0 })
	if _, err := pb.NewRateLimiterClient(victim).Check(deadline(t), &pb.CheckRequest{}); err != nil {
		t.Errorf("Check() after that = %v, want nil", err)
	}
}

// TestNodeBound counts all addresses together.
func TestNodeBound(t *testing.T) {
	s := bound(t, fixed{}, StreamBound{Max: 1, PerAddress: 5}, time.Minute)
	client := pb.NewRateLimiterClient(s.dial(t))
	var errs []error
	for range 2 {
		w, err := client.Watch(deadline(t), &pb.WatchRequest{})
		if err == nil {
			_, err = w.Recv()
		}
		errs = append(errs, err)
	}
	if errs[0] != nil || grpcstatus.Code(errs[1]) != codes.ResourceExhausted || !strings.Contains(errs[1].Error(), "to this node: 1 of kind watch") {
		t.Errorf("two watches of a node that takes one = %v, want the second to end with ResourceExhausted", errs)
	}
}

// TestMembersAreBounded: an address of a member has more streams, but not any number, for
// others may have the same address.
func TestMembersAreBounded(t *testing.T) {
	s := boundFor(t, fixed{}, StreamBound{Max: 4, PerAddress: 1}, time.Minute, func(netip.Addr) bool { return true })
	client := pb.NewRateLimiterClient(s.dial(t))
	open := 0
	var err error
	for range 10 {
		var w grpc.ServerStreamingClient[pb.Ring]
		if w, err = client.Watch(deadline(t), &pb.WatchRequest{}); err == nil {
			_, err = w.Recv()
		}
		if err != nil {
			break
		}
		open++
	}
	if open != 5 || grpcstatus.Code(err) != codes.ResourceExhausted {
		t.Errorf("a member opened %d watches and then got %v, want 5 and ResourceExhausted", open, err)
	}
}

// TestUnreadAnswersAreBounded asks on streams and does not read: what the node keeps is
// bounded, and after a while the connection is closed and nothing is kept.
func TestUnreadAnswersAreBounded(t *testing.T) {
	answer := &pb.Answers{Results: []*pb.Result{{Result: &pb.Result_Error{Error: &pb.Error{Message: strings.Repeat("x", 1<<20)}}}}}
	s := bound(t, fixed{answer: answer, batch: &pb.BatchResponse{Results: answer.Results}}, StreamBound{Max: 100, PerAddress: 100}, time.Second)
	flooder := s.dial(t)
	var streams []grpc.BidiStreamingClient[pb.Batch, pb.Answers]
	for range 20 {
		e, err := pb.NewRateLimiterClient(flooder).Exchange(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			if err := e.Send(&pb.Batch{}); err != nil {
				break
			}
		}
		streams = append(streams, e)
	}
	waittest.Until(t, "answers are refused", func() bool {
		return valuesOf(t, s.registry, "bucketring_unread_answers_refused_total")["address"] > 0
	})
	if got := s.limits.unread.Used(); got > maxUnreadPerAddress {
		t.Errorf("%d bytes wait for an address, want at most %d", got, maxUnreadPerAddress)
	}
	waittest.Until(t, "the connection is closed", func() bool { return s.open(ExchangeStream) == 0 && s.listener.Open() == 0 })
	waittest.Until(t, "nothing is kept", func() bool { return s.limits.unread.Used() == 0 })
	if n := valuesOf(t, s.registry, "bucketring_stalled_connections_total")[""]; n == 0 {
		t.Error("no stalled connection was counted")
	}
	for _, e := range streams {
		for {
			if _, err := e.Recv(); err != nil {
				break
			}
		}
	}
	// Whoever reads gets everything.
	client := pb.NewRateLimiterClient(s.dial(t))
	e, err := client.Exchange(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 30 {
		if err := e.Send(&pb.Batch{}); err != nil {
			t.Fatal(err)
		}
		if got, err := e.Recv(); err != nil || len(got.GetResults()) != 1 {
			t.Fatalf("Recv() = %d results, %v", len(got.GetResults()), err)
		}
	}
	if got, err := client.Batch(deadline(t), &pb.BatchRequest{}); err != nil || len(got.GetResults()) != 1 {
		t.Errorf("Batch() = %d results, %v", len(got.GetResults()), err)
	}
	waittest.Until(t, "nothing is kept", func() bool { return s.limits.unread.Used() == 0 })
}

// TestUnreadSmallAnswers: few small answers of a stream wait, and its handler with them.
func TestUnreadSmallAnswers(t *testing.T) {
	answer := &pb.Answers{Results: []*pb.Result{{Result: &pb.Result_Error{Error: &pb.Error{Message: strings.Repeat("x", minCharged-100)}}}}}
	s := bound(t, fixed{answer: answer}, StreamBound{Max: 100, PerAddress: 100}, 200*time.Millisecond)
	e, err := pb.NewRateLimiterClient(s.dial(t)).Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if err := e.Send(&pb.Batch{}); err != nil {
			break
		}
	}
	waittest.Until(t, "the connection is closed", func() bool { return s.open(ExchangeStream) == 0 && s.listener.Open() == 0 })
	if got := s.limits.unread.Used(); got != 0 {
		t.Errorf("%d bytes of small answers are charged, want 0", got)
	}
	answers := 0
	for ; err == nil; answers++ {
		_, err = e.Recv()
	}
	if answers > 20 {
		t.Errorf("%d answers of 16 KiB were sent to a peer that did not read, want at most its window of 64 KiB, and %d", answers, maxUnsent)
	}
}

// TestUnreadBatch: the answer of a unary call that is not read goes with its connection.
func TestUnreadBatch(t *testing.T) {
	big := &pb.BatchResponse{Results: []*pb.Result{{Result: &pb.Result_Error{Error: &pb.Error{Message: strings.Repeat("x", 1<<20)}}}}}
	s := bound(t, fixed{batch: big}, StreamBound{Max: 100, PerAddress: 100}, 200*time.Millisecond)
	conn := s.dial(t)
	for range 20 {
		call, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, pb.RateLimiter_Batch_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		if err := call.SendMsg(&pb.BatchRequest{}); err != nil {
			t.Fatal(err)
		}
		if err := call.CloseSend(); err != nil {
			t.Fatal(err)
		}
	}
	waittest.Until(t, "the connection is closed", func() bool {
		return valuesOf(t, s.registry, "bucketring_stalled_connections_total")[""] > 0 && s.limits.unread.Used() == 0
	})
	if valuesOf(t, s.registry, "bucketring_unread_answers_refused_total")["address"] == 0 {
		t.Error("20 answers of 1 MiB that nobody reads are all accepted, want 15 at most")
	}
}

// TestLargeMetadata sends more metadata than a call may have.
func TestLargeMetadata(t *testing.T) {
	s := bound(t, fixed{}, StreamBound{Max: 100, PerAddress: 100}, time.Minute)
	client := pb.NewRateLimiterClient(s.dial(t))
	check := func(n int) error {
		_, err := client.Check(metadata.AppendToOutgoingContext(deadline(t), "x-large", strings.Repeat("x", n)), &pb.CheckRequest{})
		return err
	}
	if err := check(15 << 10); err != nil {
		t.Errorf("Check() with 15 KiB of metadata = %v, want nil", err)
	}
	for _, n := range []int{17 << 10, 1 << 20} {
		if err := check(n); err == nil {
			t.Errorf("Check() with %d bytes of metadata = nil, want an error", n)
		}
	}
	if err := check(1); err != nil {
		t.Errorf("Check() after that = %v, want nil", err)
	}
}

// TestReflectionHidesMembers asks for the service between members by its name, its
// message and its file.
func TestReflectionHidesMembers(t *testing.T) {
	stream, err := reflectionpb.NewServerReflectionClient(serve(t, newNode(t), nil)).ServerReflectionInfo(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *reflectionpb.ServerReflectionRequest) *reflectionpb.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	symbol := func(name string) *reflectionpb.ServerReflectionRequest {
		return &reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: name}}
	}
	peer := pb.File_bucketring_v1_peer_proto
	for _, r := range []*reflectionpb.ServerReflectionRequest{
		symbol(string(peer.Services().Get(0).FullName())), symbol(string(peer.Messages().Get(0).FullName())),
		{MessageRequest: &reflectionpb.ServerReflectionRequest_FileByFilename{FileByFilename: peer.Path()}},
	} {
		if got := ask(r); got.GetErrorResponse() == nil {
			t.Errorf("reflection of %v = %.80s, want an error", r, got)
		}
	}
	for _, name := range []string{"bucketring.v1.RateLimiter", "bucketring.v1.CheckRequest", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} {
		if got := ask(symbol(name)); len(got.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
			t.Errorf("reflection of %s = %v, want its file", name, got)
		}
	}
}
