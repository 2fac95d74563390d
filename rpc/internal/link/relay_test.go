// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/rpc/pb"
)

// relayEnv makes the test binary a server: "owner", or "relay" and the owner's address.
const relayEnv = "LINK_TEST_RELAY"

// bareOwner answers with a decision of the size that four limits have, and decides nothing.
type bareOwner struct {
	pb.UnimplementedRateLimiterServer
	decision *pb.Decision
}

func newBareOwner() *bareOwner {
	d := &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: strings.Repeat("0", 32)}
	for _, name := range []string{"requests", "tokens", "concurrent", "spend"} {
		d.Limits = append(d.Limits, &pb.LimitState{Name: name + strings.Repeat("-", 60)})
	}
	return &bareOwner{decision: d}
}

func (o *bareOwner) Check(context.Context, *pb.CheckRequest) (*pb.Decision, error) {
	return o.decision, nil
}

func (o *bareOwner) Exchange(s pb.RateLimiter_ExchangeServer) error {
	answers := &pb.Answers{Results: []*pb.Result{{Result: &pb.Result_Decision{Decision: o.decision}}}}
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
		if err := s.Send(answers); err != nil {
			return err
		}
	}
}

// bareRelay passes one call at a time on over a stream, and nothing else: its caller sends and
// receives, so that it could not give up.
type bareRelay struct {
	pb.UnimplementedRateLimiterServer
	mu     sync.Mutex
	stream pb.RateLimiter_ExchangeClient
}

func (r *bareRelay) Check(_ context.Context, q *pb.CheckRequest) (*pb.Decision, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.stream.Send(&pb.Batch{Items: []*pb.Item{{Call: &pb.Item_Check{Check: q}}}}); err != nil {
		return nil, err
	}
	answers, err := r.stream.Recv()
	if err != nil {
		return nil, err
	}
	return answers.Results[0].GetDecision(), nil
}

// serveRelay is a process of BenchmarkRelay: it prints its address and serves until its input
// ends.
func serveRelay(role string) error {
	var service pb.RateLimiterServer = newBareOwner()
	if _, owner, ok := strings.Cut(role, " "); ok {
		conn, err := grpc.NewClient(owner, insecureOption)
		if err != nil {
			return err
		}
		stream, err := pb.NewRateLimiterClient(conn).Exchange(context.Background(), grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		service = &bareRelay{stream: stream}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	pb.RegisterRateLimiterServer(s, service)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		s.Stop()
	}()
	if _, err := os.Stdout.WriteString(ln.Addr().String() + "\n"); err != nil {
		return err
	}
	return s.Serve(ln)
}

// startRelay starts a process, and returns a client of it and its address.
func startRelay(b *testing.B, role string) (pb.RateLimiterClient, string) {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), relayEnv+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		b.Fatal(err)
	}
	addr := strings.TrimSpace(string(line[:n]))
	return dial(b, addr), addr
}

// BenchmarkRelay measures what gRPC leaves to a node that forwards: how much longer a lone
// call takes through a process that passes it on over a stream, when nobody decides, batches
// or gives up. x/owner is the ratio of the medians.
func BenchmarkRelay(b *testing.B) {
	owner, addr := startRelay(b, "owner")
	relay, _ := startRelay(b, "relay "+addr)
	request := &pb.CheckRequest{Key: "user-000001", Tier: "four", RequestId: strings.Repeat("0", 32)}
	var byOwner, byRelay []time.Duration
	for b.Loop() {
		for _, c := range []struct {
			client pb.RateLimiterClient
			took   *[]time.Duration
		}{{owner, &byOwner}, {relay, &byRelay}} {
			began := time.Now()
			if _, err := c.client.Check(b.Context(), request, grpc.WaitForReady(true)); err != nil {
				b.Fatal(err)
			}
			*c.took = append(*c.took, time.Since(began))
		}
	}
	slices.Sort(byOwner)
	slices.Sort(byRelay)
	p50Owner, p50Relay := byOwner[len(byOwner)/2], byRelay[len(byRelay)/2]
	b.ReportMetric(float64(p50Owner.Microseconds()), "us/owner")
	b.ReportMetric(float64(p50Relay.Microseconds()), "us/relay")
	b.ReportMetric(float64(p50Relay)/float64(p50Owner), "x/owner")
}
