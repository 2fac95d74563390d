// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// received is a span with who made it.
type received struct {
	*tracepb.Span
	service, instance string
}

// attribute returns an attribute as text.
func (r received) attribute(name string) string {
	for _, a := range r.GetAttributes() {
		if a.GetKey() == name {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

// otlp is a collector, by both protocols.
type otlp struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []received
}

// Export implements collector.TraceServiceServer.
func (c *otlp) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, from := range r.GetResourceSpans() {
		of := received{}
		for _, a := range from.GetResource().GetAttributes() {
			switch a.GetKey() {
			case "service.name":
				of.service = a.GetValue().GetStringValue()
			case "service.instance.id":
				of.instance = a.GetValue().GetStringValue()
			}
		}
		for _, in := range from.GetScopeSpans() {
			for _, s := range in.GetSpans() {
				of.Span = s
				c.spans = append(c.spans, of)
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// ServeHTTP implements http.Handler.
func (c *otlp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	request := &collector.ExportTraceServiceRequest{}
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	if err != nil || r.URL.Path != "/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
		return
	}
	answer, _ := c.Export(r.Context(), request)
	body, _ = proto.Marshal(answer)
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(body)
}

// listen returns the address of the collector by a protocol.
func (c *otlp) listen(t *testing.T, protocol string) string {
	t.Helper()
	if protocol == "http" {
		s := httptest.NewServer(c)
		t.Cleanup(s.Close)
		return s.URL
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collector.RegisterTraceServiceServer(s, c)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return "grpc://" + l.Addr().String()
}

// trace waits for all spans of a trace with these names, and returns them by name.
func (c *otlp) trace(t *testing.T, id string, names ...string) map[string]received {
	t.Helper()
	spans := map[string]received{}
	waittest.Until(t, fmt.Sprintf("spans %v of trace %s", names, id), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, s := range c.spans {
			if hex.EncodeToString(s.GetTraceId()) == id {
				spans[s.GetName()] = s
			}
		}
		for _, name := range names {
			if spans[name].Span == nil {
				return false
			}
		}
		return true
	})
	return spans
}

// wantChild fails unless one span is the parent of another.
func wantChild(t *testing.T, spans map[string]received, child, parent string) {
	t.Helper()
	if got, want := hex.EncodeToString(spans[child].GetParentSpanId()), hex.EncodeToString(spans[parent].GetSpanId()); got != want {
		t.Errorf("parent of %s = %s, want %s, that is %s", child, got, parent, want)
	}
}

// wantNoKey fails if a span has a text anywhere.
func (c *otlp) wantNoKey(t *testing.T, key string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if strings.Contains(s.String(), key) {
			t.Errorf("a span has the key %s: %v", key, s)
		}
	}
}

const callerSpan = "00f067aa0ba902b7"

// traceparent returns the header of a caller that traces.
func traceparent(n int) (header, id string) {
	id = fmt.Sprintf("4bf92f3577b34da6a3ce929d0e0e%04x", n)
	return "00-" + id + "-" + callerSpan + "-01", id
}

// TestTraces: a call that another member decides is one trace, over both APIs and both
// protocols of OTLP, with no key in it unless that is allowed.
func TestTraces(t *testing.T) {
	for i, protocol := range []string{"grpc", "http"} {
		t.Run(protocol, func(t *testing.T) {
			c := &otlp{}
			address := c.listen(t, protocol)
			allowed := protocol == "http"
			nodes := startCluster(t, 2, func(_ int, n *config.Config) {
				n.Tracing = config.Tracing{Endpoint: address, Sample: "0", Keys: allowed}
			})
			key := nodes[0].keyOf("n2")

			// Over HTTP.
			header, id := traceparent(2 * i)
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+nodes[0].HTTPAddr()+"/v1/check", strings.NewReader(fmt.Sprintf(`{"key":%q,"tier":"free","model":"m"}`, key)))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Traceparent", header)
			response, err := http.DefaultClient.Do(r)
			if err != nil || response.StatusCode != http.StatusOK {
				t.Fatalf("check = %v, %v, want 200", response, err)
			}
			_ = response.Body.Close()
			spans := c.trace(t, id, "check", "forward", "owner", "decide")
			if got := hex.EncodeToString(spans["check"].GetParentSpanId()); got != callerSpan {
				t.Errorf("parent of check = %s, want the caller's %s", got, callerSpan)
			}
			wantChild(t, spans, "forward", "check")
			wantChild(t, spans, "owner", "forward")
			wantChild(t, spans, "decide", "owner")
			for name, member := range map[string]string{"check": "n1", "forward": "n1", "owner": "n2", "decide": "n2"} {
				if s := spans[name]; s.instance != member || s.service != "bucketring" {
					t.Errorf("%s was made by %s %s, want bucketring %s", name, s.service, s.instance, member)
				}
			}
			for name, want := range map[string]string{"outcome": "allowed", "route": "forward", "tier": "free", "model": "m", "owner": "n2", "reason": ""} {
				if got := spans["check"].attribute("bucketring." + name); got != want {
					t.Errorf("%s of the check = %q, want %q", name, got, want)
				}
			}
			if spans["check"].attribute("bucketring.policy_version") == "" {
				t.Error("the check has no policy version")
			}
			if got, want := spans["check"].attribute("bucketring.key"), map[bool]string{true: key}[allowed]; got != want {
				t.Errorf("key of the check = %q, want %q", got, want)
			}

			// Over gRPC.
			header, id = traceparent(2*i + 1)
			ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", header)
			if _, err := pb.NewRateLimiterClient(nodes[0].dial()).Check(ctx, &pb.CheckRequest{Key: key, Tier: "free"}); err != nil {
				t.Fatal(err)
			}
			spans = c.trace(t, id, "check", "forward", "owner", "decide")
			wantChild(t, spans, "owner", "forward")

			// Exemplars, where they are asked for.
			r, _ = http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+nodes[0].HTTPAddr()+"/metrics", nil)
			r.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
			response, err = http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			text, _ := io.ReadAll(response.Body)
			exemplar := false
			for line := range strings.Lines(string(text)) {
				exemplar = exemplar || strings.HasPrefix(line, `bucketring_decision_duration_seconds_bucket{route="forward"`) && strings.Contains(line, `# {trace_id="4bf92f3577b34da6a3ce929d0e0e`)
			}
			if !exemplar {
				t.Error("no bucket of bucketring_decision_duration_seconds has a trace id")
			}

			// A caller that does not trace, and none at all.
			c.mu.Lock()
			before := len(c.spans)
			c.mu.Unlock()
			unsampled := metadata.AppendToOutgoingContext(t.Context(), "traceparent", strings.TrimSuffix(header, "01")+"00")
			for _, ctx := range []context.Context{unsampled, t.Context()} {
				if _, err := pb.NewRateLimiterClient(nodes[0].dial()).Check(ctx, &pb.CheckRequest{Key: key, Tier: "free"}); err != nil {
					t.Fatal(err)
				}
			}
			for _, n := range nodes {
				if err := n.ended(); err != nil { // sends what is left
					t.Error(err)
				}
			}
			c.mu.Lock()
			after := len(c.spans)
			c.mu.Unlock()
			if after != before {
				t.Errorf("%d spans of calls that are not sampled, want 0", after-before)
			}
			if !allowed {
				c.wantNoKey(t, key)
			}
		})
	}
}

// TestProxyTraces: the request of a proxy, its reserve, the request to the model server and the
// settle are one trace, which goes on at the node and at the model server.
func TestProxyTraces(t *testing.T) {
	c := &otlp{}
	seen := make(chan string, 1)
	model, err := mockllm.New(mockllm.Options{Speed: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("Traceparent")
		model.ServeHTTP(w, r)
	}))
	t.Cleanup(upstream.Close)
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte(billedPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	address := c.listen(t, "grpc")
	n := start(t, func(n *config.Config) {
		n.Policy = policy
		n.ProxyListen, n.Proxy.Upstream, n.Proxy.Identity = "127.0.0.1:0", upstream.URL, "header:X-Tenant"
		n.Tracing = config.Tracing{Endpoint: address, Sample: "0"}
	})
	header, id := traceparent(100)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.ProxyAddr()+"/v1/chat/completions", strings.NewReader(`{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hello"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Traceparent", header)
	r.Header.Set("X-Tenant", "secret-tenant")
	r.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("call = %d %s, want 200", response.StatusCode, body)
	}
	spans := c.trace(t, id, "proxy", "reserve", "upstream", "settle", "owner")
	for _, child := range []string{"reserve", "upstream", "settle"} {
		wantChild(t, spans, child, "proxy")
	}
	if got, want := <-seen, "00-"+id+"-"+hex.EncodeToString(spans["upstream"].GetSpanId())+"-01"; got != want {
		t.Errorf("traceparent at the model server = %s, want %s", got, want)
	}
	parents := map[string]bool{}
	c.mu.Lock()
	for _, s := range c.spans {
		if s.GetName() == "owner" {
			parents[hex.EncodeToString(s.GetParentSpanId())] = true
		}
	}
	c.mu.Unlock()
	for _, name := range []string{"reserve", "settle"} {
		if !parents[hex.EncodeToString(spans[name].GetSpanId())] {
			t.Errorf("no span of the node is below %s", name)
		}
	}
	for name, want := range map[string]string{"outcome": "allowed", "tier": "t", "model": "m", "source": "reported"} {
		if got := spans["proxy"].attribute("bucketring." + name); got != want {
			t.Errorf("%s of the request = %q, want %q", name, got, want)
		}
	}
	c.wantNoKey(t, "secret-tenant")
}

// TestProxyAloneTraces: a proxy that runs alone and its node are two services, and a proxied
// call is one trace of both: what the node does is below the calls of the proxy.
func TestProxyAloneTraces(t *testing.T) {
	model, err := mockllm.New(mockllm.Options{Speed: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(model)
	t.Cleanup(upstream.Close)
	c := &otlp{}
	path := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(path, []byte(billedPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	traced := config.Tracing{Endpoint: c.listen(t, "grpc"), Sample: "0"}
	n := start(t, func(n *config.Config) { n.Policy, n.Tracing = path, traced })

	logger, registry := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	traced.Endpoint, traced.Sample = c.listen(t, "http"), "1" // the caller does not trace
	tracer, err := NewTracer(traced, "bucketring-proxy", "p1", logger, registry)
	if err != nil {
		t.Fatal(err)
	}
	defer CloseTracer(tracer, logger)
	settings := config.DefaultStandalone().Proxy
	settings.Upstream, settings.Identity = upstream.URL, "header:X-Tenant"
	p, err := NewProxy(settings, ProxyOptions{
		Policy: func() *policy.Policy { return n.policies.Current() }, Logger: logger, Registry: registry, Tracer: tracer,
		Nodes: client.Options{Addrs: []string{n.GRPCAddr()}},
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Serve(listener) }()
	defer func() {
		if err := errors.Join(p.Drain(waittest.Context(t, waittest.Limit)), <-done, p.Close()); err != nil {
			t.Error(err)
		}
	}()
	call := func() {
		t.Helper()
		r, err := http.NewRequestWithContext(waittest.Context(t, waittest.Limit), http.MethodPost, "http://"+listener.Addr().String()+"/v1/chat/completions", strings.NewReader(`{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"hello"}]}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Tenant", "acme")
		r.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK {
			t.Fatalf("call = %d %s, want 200", response.StatusCode, body)
		}
	}
	var spans map[string]received // of the proxy, in one trace
	var below []received          // of the node, in that trace
	var called time.Time
	waittest.Until(t, "spans of the proxy, and of the node for its reserve and its settle", func() bool {
		if time.Since(called) > 3*time.Second { // the proxy decides by itself while it has no node yet
			call()
			called = time.Now()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		proxies, nodes := map[string]map[string]received{}, map[string][]received{} // by trace
		for _, s := range c.spans {
			trace := string(s.GetTraceId())
			if s.service == "bucketring-proxy" {
				if proxies[trace] == nil {
					proxies[trace] = map[string]received{}
				}
				proxies[trace][s.GetName()] = s
			} else if s.GetName() == "owner" {
				nodes[trace] = append(nodes[trace], s)
			}
		}
		for trace := range proxies {
			spans, below = proxies[trace], nodes[trace]
			if spans["proxy"].Span != nil && spans["reserve"].Span != nil && spans["settle"].Span != nil && len(below) >= 2 {
				return true
			}
		}
		return false
	})
	wantChild(t, spans, "reserve", "proxy")
	wantChild(t, spans, "settle", "proxy")
	parents := map[string]bool{}
	for _, s := range below {
		if s.service != "bucketring" || s.instance != n.Name() || !bytes.Equal(s.GetTraceId(), spans["proxy"].GetTraceId()) {
			t.Errorf("owner is of %s %s and trace %x, want bucketring %s and %x", s.service, s.instance, s.GetTraceId(), n.Name(), spans["proxy"].GetTraceId())
		}
		parents[string(s.GetParentSpanId())] = true
	}
	for _, name := range []string{"reserve", "settle"} {
		if s := spans[name]; s.instance != "p1" || !parents[string(s.GetSpanId())] {
			t.Errorf("%s of proxy %s has no span of the node below it, want p1 and one", name, s.instance)
		}
	}
}

// TestCollectorIsGone: without a collector calls are answered, and the node ends in time.
func TestCollectorIsGone(t *testing.T) {
	for _, address := range []string{"grpc://127.0.0.1:1", "http://127.0.0.1:1"} {
		r := start(t, func(c *config.Config) { c.Tracing = config.Tracing{Endpoint: address, Sample: "1"} })
		if status, _ := r.check(10); status != http.StatusOK {
			t.Errorf("check = %d, want 200", status)
		}
		waittest.Until(t, "dropped spans in the metrics", func() bool {
			_, text := r.get("/metrics")
			return strings.Contains(text, `bucketring_trace_spans_dropped_total{reason="export_failed"} `) && !strings.Contains(text, `bucketring_trace_spans_dropped_total{reason="export_failed"} 0`)
		})
		if err := r.ended(); err != nil {
			t.Error(err)
		}
	}
}
