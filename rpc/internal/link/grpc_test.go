// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/bucketring/bucketring/rpc/pb"
)

// member is a server that answers with answer.
type member struct {
	pb.UnimplementedRateLimiterServer
	stop   chan struct{}
	answer func(*pb.Batch) *pb.Answers
}

func (m *member) Check(_ context.Context, r *pb.CheckRequest) (*pb.Decision, error) {
	return &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: r.GetKey()}, nil
}

func (m *member) Exchange(s pb.RateLimiter_ExchangeServer) error {
	return Serve(s, m.stop, m.answer)
}

// echo answers each check with its key.
func echo(b *pb.Batch) *pb.Answers {
	a := &pb.Answers{Results: make([]*pb.Result, len(b.GetItems()))}
	for i, item := range b.GetItems() {
		a.Results[i] = &pb.Result{Result: &pb.Result_Decision{Decision: &pb.Decision{
			Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: item.GetCheck().GetKey(),
		}}}
	}
	return a
}

func check(key string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: key}}}
}

// listen serves m on a loopback address, any if addr is empty, until the test ends.
func listen(t testing.TB, addr string, m *member, o ...grpc.ServerOption) (*grpc.Server, string) {
	t.Helper()
	s, addr, err := tryListen(t, addr, m, o...)
	if err != nil {
		t.Fatal(err)
	}
	return s, addr
}

func tryListen(t testing.TB, addr string, m *member, o ...grpc.ServerOption) (*grpc.Server, string, error) {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, "", err
	}
	s := grpc.NewServer(o...)
	pb.RegisterRateLimiterServer(s, m)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(ln)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return s, ln.Addr().String(), nil
}

// aging makes a server end connections at a given age.
func aging(age, grace time.Duration) keepalive.ServerParameters {
	return keepalive.ServerParameters{MaxConnectionAge: age, MaxConnectionAgeGrace: grace}
}

var insecureOption = grpc.WithTransportCredentials(insecure.NewCredentials())

func dial(t testing.TB, addr string, o ...grpc.DialOption) pb.RateLimiterClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, append(o, insecureOption)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return pb.NewRateLimiterClient(conn)
}

func linkTo(t testing.TB, c pb.RateLimiterClient, o Options) *Link {
	t.Helper()
	o.Open = func(ctx context.Context) (Stream, error) { return Exchange(ctx, c) }
	l := New(o)
	t.Cleanup(l.Close)
	return l
}
