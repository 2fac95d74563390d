// SPDX-License-Identifier: Apache-2.0

package waitstudy

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/node"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/proxy"
)

// stack is a node, a mock model server, and a proxy.
type stack struct {
	url   string // of the proxy
	mock  *mockllm.Server
	asked *recorder
}

// startStack starts a stack. A call may wait for maxWait, and for as long as the policy says
// if that is nil.
func startStack(t *testing.T, rules string, maxWait *time.Duration) *stack {
	t.Helper()
	c, err := client.Dial(client.Options{Addrs: []string{startNode(t, rules)}, Timeout: waittest.Limit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s := &stack{asked: &recorder{limiter: c}}
	// An answer has as many tokens as its call allows, and takes 0.2 s to 0.6 s, or up to 2 s
	// for a large call.
	s.mock, err = mockllm.New(mockllm.Options{TTFT: 50 * time.Millisecond, Speed: 600, ChunkTokens: 50, Output: mockllm.Length{Min: 100_000, Max: 100_000}})
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(s.mock)
	t.Cleanup(upstream.Close)
	target, err := proxy.ParseUpstream(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	known, err := policy.Parse("rules.yaml", []byte(rules), limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	identify, err := proxy.ParseIdentity("bearer", proxy.IdentityOptions{Policy: func() *policy.Policy { return known }})
	if err != nil {
		t.Fatal(err)
	}
	p, err := proxy.New(proxy.Options{Upstream: target, Middleware: middleware.Options{
		Client: s.asked, Identify: identify, MaxWait: maxWait, OnDone: s.asked.done, Registerer: prometheus.NewRegistry(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + l.Addr().String()
	server, served := proxy.NewServer(p), make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Shutdown(waittest.Context(t, waittest.Limit)); err != nil {
			t.Errorf("Shutdown = %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
	})
	return s
}

// startNode starts a node and returns its gRPC address.
func startNode(t *testing.T, rules string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.Name, c.HTTP, c.GRPC, c.Gossip, c.Policy = "n1", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", file
	up := make(chan struct{}) // closed when the node is ready
	n, err := node.New(node.Options{Config: c, SkipLeave: true, OnReady: func(*node.Node) { close(up) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1) // result of Run
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	select {
	case <-up:
	case <-time.After(waittest.Limit):
		t.Fatal("the node did not become ready")
	}
	return n.GRPCAddr()
}

// recorder records what the proxy asks the limiter.
type recorder struct {
	limiter middleware.Limiter

	mu       sync.Mutex
	asked    int
	errors   int
	admitted map[string]*admission // by request id
}

// admission is a call that the limiter has admitted.
type admission struct {
	key      string
	at       time.Time // of the answer of the limiter
	reserved int64     // tokens
	settled  time.Time
	charged  int64 // tokens
}

// Reserve implements [middleware.Limiter].
func (r *recorder) Reserve(ctx context.Context, e client.Estimate) (*client.Reservation, error) {
	reservation, err := r.limiter.Reserve(ctx, e)
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	switch {
	case err != nil:
		r.errors++
	case reservation.Outcome != client.Denied:
		if r.admitted == nil {
			r.admitted = map[string]*admission{}
		}
		r.admitted[reservation.RequestID] = &admission{key: e.Key, at: now, reserved: e.InputTokens + reservation.Granted()}
	}
	return reservation, err
}

func (r *recorder) done(result middleware.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.admitted[result.RequestID]; a != nil {
		a.settled, a.charged = time.Now(), result.Charged.InputTokens+result.Charged.OutputTokens
	}
}

// newHTTPClient returns a client that keeps its connections.
func newHTTPClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 1000}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}
