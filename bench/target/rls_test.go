// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/internal/freeport"
)

// envoyLimiter is a small server of Envoy's protocol: 1,000 hits per value of its
// descriptor key.
type envoyLimiter struct {
	rls.UnimplementedRateLimitServiceServer

	mu   sync.Mutex
	hits map[string]uint64
	last *rls.RateLimitRequest
}

func (l *envoyLimiter) ShouldRateLimit(_ context.Context, q *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = q
	entry := q.GetDescriptors()[0].GetEntries()[0]
	switch entry.GetValue() {
	case "broken":
		return nil, status.Error(codes.Internal, "no store")
	case "unsure":
		return &rls.RateLimitResponse{}, nil
	}
	id := q.GetDomain() + "/" + entry.GetKey() + "/" + entry.GetValue()
	l.hits[id] += uint64(q.GetHitsAddend())
	code := rls.RateLimitResponse_OK
	if l.hits[id] > 1000 {
		code = rls.RateLimitResponse_OVER_LIMIT
	}
	return &rls.RateLimitResponse{OverallCode: code}, nil
}

func startEnvoy(t testing.TB) (spec string, limiter *envoyLimiter) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limiter = &envoyLimiter{hits: map[string]uint64{}}
	s := grpc.NewServer()
	rls.RegisterRateLimitServiceServer(s, limiter)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return "rls:" + l.Addr().String(), limiter
}

func TestRLSIsExact(t *testing.T) {
	spec, _ := startEnvoy(t)
	wantExactly(t, open(t, spec, Options{}), bench.Call{Key: "acme/alice", Tier: "free", InputTokens: 7})
}

// A cluster answers Envoy's protocol with the counters of its rules and with the keys
// of its policy.
func TestRLSAtACluster(t *testing.T) {
	nodes := startNodes(t, 3)
	for i, o := range []Options{{}, {DescriptorKey: "bucketring.key"}} {
		target := open(t, "rls:"+nodes[i].GRPCAddr(), o)
		wantExactly(t, target, bench.Call{Key: "acme/envoy", Tier: "thousand"})
	}
}

func TestRLSRequests(t *testing.T) {
	spec, limiter := startEnvoy(t)
	target := open(t, spec, Options{Domain: "shop", DescriptorKey: "user"})
	if len(limiter.hits) != 0 {
		t.Errorf("Ready has used %v, want nothing", limiter.hits)
	}
	if got := Describe(target); !strings.HasSuffix(got, ` Domain "shop", descriptor key "user".`) {
		t.Errorf("Describe = %q, want domain and descriptor key", got)
	}
	check(t, target, bench.Call{Key: "acme/alice", Requests: 3})
	if got := limiter.hits["shop/user/acme/alice"]; got != 3 || len(limiter.last.GetDescriptors()) != 1 {
		t.Errorf("hits = %v by %v, want 3 of shop/user/acme/alice", limiter.hits, limiter.last)
	}
	a := check(t, target, bench.Call{Key: "acme/alice", Requests: 998})
	if want := (bench.Answer{Outcome: bench.Denied, Reason: "limit_exceeded"}); a != want {
		t.Errorf("Check = %+v, want %+v", a, want)
	}
	for key, want := range map[string]string{"broken": "no store", "unsure": "UNKNOWN is not a decision"} {
		if a, err := target.Check(t.Context(), &bench.Call{Key: key}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check(%s) = %+v, %v, want an error with %q", key, a, err, want)
		}
	}
	if _, err := target.Check(t.Context(), &bench.Call{Key: "acme", Requests: 1 << 40}); err == nil {
		t.Error("Check with more hits than the protocol has = nil, want an error")
	}
	wantNoReservations(t, target)
}

// Ready returns the error of the connection.
func TestRLSReadyReportsTheConnectionError(t *testing.T) {
	target, err := Open("rls:"+freeport.Test(t), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := Ready(ctx, target); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("Ready = %v, want an error with connection refused", err)
	}
}
