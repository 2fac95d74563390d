// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/jwtverify"
	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/node"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/proxy"
)

// rules have a tier for each kind of limit and a caller for each tier, with the API
// key sk-TIER. The limit "day" counts all charged tokens.
const rules = `
tiers:
  std:
    limits:
      - { name: day, dimension: tokens, limit: 1_000_000_000, window: day }
      - { dimension: requests, limit: 1_000_000, window: day }
      - { dimension: concurrent, limit: 100 }
  tight:   { limits: [{ name: day, dimension: tokens, limit: 2_000, window: day, on_exceed: degrade }] }
  slow:    { limits: [{ dimension: requests, limit: 1, window: 1s }] }
  poor:    { spend: $0/day }
  single:  { concurrent: 1, limits: [{ name: day, dimension: tokens, limit: 1_000_000_000, window: day }] }
  small:   { limits: [{ name: day, dimension: tokens, limit: 1_000, window: day }] }
  books:
    limits:
      - { name: input,  dimension: input_tokens,  limit: 1_000_000_000, window: month }
      - { name: output, dimension: output_tokens, limit: 1_000_000_000, window: month }
      - { name: spend,  dimension: spend,         limit: $1_000_000,    window: month }
assign: [{ key: "books/*", tier: books }, { key: "*/*", tier: std }]
prices:
  "*": { input: 1.00, output: 3.00 }
  fees: { input: 1.00, cached_input: 0.10, cache_write: 1.25, cache_write_1h: 2.00, output: 10.00, image: 0.04, search: 0.01 }
  m:   { input: 1.00, cached_input: 0.10, cache_write: 1.25, cache_write_1h: 2.00, output: 10.00 }
`

var tiers = []string{"std", "tight", "slow", "poor", "single", "small"}

func rulesWithKeys() string {
	var b strings.Builder
	b.WriteString(rules + "api_keys:\n")
	for _, tier := range tiers {
		fmt.Fprintf(&b, "  - { hash: %q, key: org/%s, tier: %s }\n", policy.HashAPIKey("sk-"+tier), tier, tier)
	}
	return b.String()
}

// stack is a node, a mock model server, and a proxy.
type stack struct {
	t      testing.TB
	url    string // of the proxy
	mock   *mockllm.Server
	direct string // URL of the upstream
	client *client.Client
	server *proxy.Server
	log    *buffer
	served chan error // result of Serve
	ended  atomic.Bool
	denied func() // called after each denial; may be nil

	results struct {
		sync.Mutex
		list []middleware.Result
	}
}

// setup has the options of start.
type setup struct {
	identity string // empty: bearer
	jwt      jwtverify.Options
	upstream http.Handler // nil: the mock
	mock     mockllm.Options
	dead     bool // the upstream is down
	edit     func(*proxy.Options)
	frozen   bool // the node's clock stands still until a call is denied
}

func start(t testing.TB, o setup) *stack {
	t.Helper()
	s := &stack{t: t, log: &buffer{}, served: make(chan error, 1)}
	var now func() limiter.Time
	if o.frozen {
		now, s.denied = frozenClock()
	}
	grpc := startNode(t, now)
	var err error
	if s.client, err = client.Dial(client.Options{Addrs: []string{grpc}, Timeout: waittest.Limit}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.client.Close() })
	if s.mock, err = mockllm.New(o.mock); err != nil {
		t.Fatal(err)
	}
	if o.upstream == nil {
		o.upstream = s.mock
	}
	upstream := httptest.NewServer(o.upstream)
	t.Cleanup(upstream.Close)
	if o.dead {
		upstream.Close()
	}
	s.direct = upstream.URL
	target, err := proxy.ParseUpstream(upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	if o.identity == "" {
		o.identity = "bearer"
	}
	known, err := policy.Parse("rules.yaml", []byte(rulesWithKeys()), limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	who := proxy.IdentityOptions{Policy: func() *policy.Policy { return known }}
	if len(o.jwt.Keys) > 0 {
		if who.JWT, err = jwtverify.New(o.jwt); err != nil {
			t.Fatal(err)
		}
	}
	identify, err := proxy.ParseIdentity(o.identity, who)
	if err != nil {
		t.Fatal(err)
	}
	options := proxy.Options{Upstream: target, Middleware: middleware.Options{
		Client: s.client, Identify: identify, OnDone: s.done, Registerer: prometheus.NewRegistry(),
		Logger: slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}}
	if o.edit != nil {
		o.edit(&options)
	}
	p, err := proxy.New(options)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.url = "http://" + l.Addr().String()
	s.server = proxy.NewServer(p)
	go func() { s.served <- s.server.Serve(l) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Limit)
		defer cancel()
		s.shutdown(ctx)
		for _, secret := range []string{"sk-", "hello there", "sky blue"} {
			if strings.Contains(s.log.String(), secret) {
				t.Errorf("the log contains %q, want no credential and no prompt:\n%s", secret, s.log)
			}
		}
	})
	return s
}

// shutdown shuts down the proxy, once.
func (s *stack) shutdown(ctx context.Context) {
	s.t.Helper()
	if s.ended.Swap(true) {
		return
	}
	if err := s.server.Shutdown(ctx); err != nil {
		s.t.Errorf("Shutdown = %v, want nil", err)
	}
	if err := <-s.served; err != nil {
		s.t.Errorf("Serve = %v, want nil", err)
	}
}

// frozenClock returns a clock that stands still until release is called.
func frozenClock() (now func() limiter.Time, release func()) {
	var began atomic.Pointer[time.Time]
	epoch := time.Now()
	now = func() limiter.Time {
		var passed time.Duration
		if at := began.Load(); at != nil {
			passed = time.Since(*at)
		}
		return limiter.Time{Mono: int64(time.Hour + passed), Wall: epoch.Add(passed).UnixNano()}
	}
	return now, func() {
		at := time.Now()
		began.CompareAndSwap(nil, &at)
	}
}

func startNode(t testing.TB, now func() limiter.Time) (grpc string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(rulesWithKeys()), 0o600); err != nil {
		t.Fatal(err)
	}
	c := config.Default()
	c.Name, c.HTTP, c.GRPC, c.Gossip, c.Policy = "n1", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", file
	c.ForwardTimeout = waittest.Limit / 2
	up := make(chan struct{}) // closed when the node is ready
	n, err := node.New(node.Options{Config: c, SkipLeave: true, Now: now, OnReady: func(*node.Node) { close(up) }})
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

func (s *stack) done(r middleware.Result) {
	s.results.Lock()
	defer s.results.Unlock()
	s.results.list = append(s.results.list, r)
	if r.Outcome == client.Denied && s.denied != nil {
		s.denied()
	}
}

// result waits for the n-th call to be settled, from 1.
func (s *stack) result(n int) middleware.Result {
	s.t.Helper()
	var got middleware.Result
	waittest.Until(s.t, fmt.Sprintf("%d calls to end", n), func() bool {
		s.results.Lock()
		defer s.results.Unlock()
		if len(s.results.list) >= n {
			got = s.results.list[n-1]
			return true
		}
		return false
	})
	return got
}

// charged waits until a caller has been charged the tokens and holds no slot.
func (s *stack) charged(caller string, want int64) {
	s.t.Helper()
	var got int64
	defer func() {
		if s.t.Failed() {
			s.t.Logf("%s is charged %d; log:\n%s", caller, got, s.log)
		}
	}()
	waittest.Until(s.t, fmt.Sprintf("%s to be charged %d tokens", caller, want), func() bool {
		var busy bool
		got, busy = s.used(caller)
		return got == want && !busy
	})
}

func (s *stack) used(caller string) (tokens int64, busy bool) {
	s.t.Helper()
	state, err := s.client.Peek(s.t.Context(), client.Query{Key: "org/" + caller, Tier: caller})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range state.Limits {
		switch l.Name {
		case "day":
			tokens = l.Capacity - l.Remaining + l.Debt
		case "concurrent":
			busy = l.Remaining < l.Capacity
		}
	}
	return tokens, busy
}

// entry waits for the end of the n-th call at the mock, from 1.
func (s *stack) entry(n int) mockllm.Entry {
	s.t.Helper()
	var got mockllm.Entry
	waittest.Until(s.t, fmt.Sprintf("the mock to end call %d", n), func() bool {
		for _, e := range s.mock.Ledger().Entries() {
			if e.Number == int64(n) && e.Outcome != mockllm.Running {
				got = e
				return true
			}
		}
		return false
	})
	return got
}

// post sends a request with the key sk-std, unless headers override it.
func (s *stack) post(path, body string, headers ...string) *http.Response {
	s.t.Helper()
	return s.do(http.MethodPost, path, strings.NewReader(body), headers...)
}

func (s *stack) do(method, path string, body io.Reader, headers ...string) *http.Response {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer sk-std")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Del(headers[i])
		if headers[i+1] != "" {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = answer.Body.Close() })
	return answer
}

// text reads the body of a response.
func text(t testing.TB, answer *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// buffer is a log that can be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func mustURL(t testing.TB, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
