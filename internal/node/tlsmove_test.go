// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
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
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/client"
)

// TestMoveToTLS moves a cluster of three from plaintext to TLS and back by rolling
// restarts, under load. No call fails.
func TestMoveToTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("twelve restarts of members with all partitions take too long under the race detector")
	}
	t.Parallel()
	ca := newAuthority(t, "ours")
	key := filepath.Join(t.TempDir(), "cluster.key")
	if err := os.WriteFile(key, []byte("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="), 0o600); err != nil {
		t.Fatal(err)
	}
	var addresses, seeds []string // of gRPC and gossip
	for range 3 {
		addresses, seeds = append(addresses, freeport.Test(t)), append(seeds, freeport.Test(t))
	}
	run := func(i int, mode string) *running {
		return startWith(t, func(c *config.Config) {
			c.Name, c.GRPC, c.Gossip, c.Join, c.ClusterKeyFile = fmt.Sprintf("n%d", i+1), addresses[i], seeds[i], seeds, key
			if i == 0 && mode == "" {
				c.Join = nil
			}
			if mode != "" && mode != config.TLSOff {
				ca.settings(mode, "none")(i, c)
			}
		}, func(o *Options) { o.SkipLeave = false })
	}
	var nodes []*running
	for i := range 3 {
		nodes = append(nodes, run(i, ""))
	}
	agree(t, nodes...)

	caller := ca.store("caller", false)
	for _, move := range []struct {
		to     string
		secure bool // callers use TLS
	}{{config.TLSOptional, false}, {config.TLSRequired, true}, {config.TLSOptional, true}, {config.TLSOff, false}} {
		o := client.Options{Addrs: addresses, Timeout: waittest.Limit / 2}
		if move.secure {
			o.Credentials = caller.ServerCredentials("localhost")
		}
		c, err := client.Dial(o)
		if err != nil {
			t.Fatal(err)
		}
		var calls, fallbacks atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		var load sync.WaitGroup
		for worker := range 4 {
			load.Go(func() {
				pace := time.NewTicker(time.Millisecond) // leaves the restarts a processor
				defer pace.Stop()
				for i := 0; ctx.Err() == nil; i++ {
					<-pace.C
					d, err := c.Check(context.Background(), client.Call{Key: fmt.Sprintf("w%d-%d", worker, i%200)})
					if err != nil {
						t.Errorf("to %s: a call failed: %v", move.to, err)
						return
					}
					calls.Add(1)
					if d.Route == client.Fallback {
						fallbacks.Add(1)
					}
				}
			})
		}
		for i := range nodes {
			if err := nodes[i].ended(); err != nil {
				t.Errorf("to %s: end of n%d: %v", move.to, i+1, err)
			}
			nodes[i] = run(i, move.to)
			agree(t, nodes...)
		}
		cancel()
		load.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		t.Logf("to %s: %d calls, %d decided in fallback", move.to, calls.Load(), fallbacks.Load())
		if calls.Load() < 1000 {
			t.Errorf("to %s: only %d calls", move.to, calls.Load())
		}
		for _, n := range nodes {
			mode := config.TLSOff
			if s := n.Status().TLS; s != nil {
				mode = s.Mode
			}
			if mode != move.to {
				t.Errorf("%s has TLS %s, want %s", n.Name(), mode, move.to)
			}
		}
	}
}

// TestProxyWithTLS runs a proxy with TLS in front of a model, with TLS to a node that needs
// its certificate. Neither the key nor the API key is readable on a wire.
func TestProxyWithTLS(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "ours")
	var inbound, toNode wire
	n := startWith(t, func(c *config.Config) { ca.settings("required", "require")(0, c) }, func(o *Options) { o.wrapListener = toNode.wrap })
	mock, err := mockllm.New(mockllm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(mock)
	defer upstream.Close()
	p, err := policy.Parse("policy.yaml", fmt.Appendf(nil, proxyRules, policy.HashAPIKey("sk-alice-secret")), limiter.NewCatalog())
	if err != nil {
		t.Fatal(err)
	}
	inside, outside := ca.files("proxy", true), ca.files("edge", false)
	c := config.DefaultStandalone()
	c.Servers, c.Proxy.Upstream, c.Proxy.Identity, c.Policy = []string{n.GRPCAddr()}, upstream.URL, "bearer", "policy.yaml"
	c.TLS = config.TLS{Mode: "required", CertFile: inside.Cert, KeyFile: inside.Key, ClientAuth: "none"}
	c.ServersTLS = config.ServersTLS{On: true, CertFile: outside.Cert, KeyFile: outside.Key, CAFile: outside.CA, Name: "n1"}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	registry, log := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	secure, err := OpenProxyTLS(c, registry, log)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := NewProxy(c.Proxy, ProxyOptions{
		Policy: func() *policy.Policy { return p }, Logger: log, Registry: registry,
		Nodes: secure.Nodes(client.Options{Addrs: c.Servers, Timeout: waittest.Limit}),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	callers, _ := secure.Listeners(inbound.wrap(l), admin)
	served := make(chan error, 1)
	go func() { served <- proxy.Serve(callers) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), waittest.Limit)
		defer cancel()
		if err := proxy.Drain(ctx); err != nil {
			t.Error(err)
		}
		_ = proxy.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})

	ask := func(scheme string, c *http.Client) (int, string, error) {
		const body = `{"model":"m","max_tokens":20,"messages":[{"role":"user","content":"a secret prompt"}]}`
		r, err := http.NewRequest(http.MethodPost, scheme+"://"+l.Addr().String()+"/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer sk-alice-secret")
		resp, err := c.Do(r)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text), err
	}
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		transport := &http.Transport{TLSClientConfig: without(ca.store("proxy", true).Client("localhost")), ForceAttemptHTTP2: protocol == "HTTP/2.0"}
		status, text, err := ask("https", &http.Client{Transport: transport})
		transport.CloseIdleConnections()
		if err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d %s, %v, want an answer", protocol, status, text, err)
		}
	}
	for what, w := range map[string]*wire{"callers": &inbound, "the node": &toNode} {
		for _, secret := range []string{"sk-alice-secret", "a secret prompt", "acme/alice"} {
			if w.carried(secret) {
				t.Errorf("%q is readable on the wire of %s", secret, what)
			}
		}
		if w.opened.Load() == 0 {
			t.Errorf("nothing came over the wire of %s", what)
		}
	}
	entries := len(mock.Ledger().Entries())
	if status, text, _ := ask("http", &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}); status != http.StatusBadRequest || !strings.Contains(text, "needs TLS") {
		t.Errorf("plaintext = %d %s, want that it needs TLS", status, text)
	}
	if got := len(mock.Ledger().Entries()); got != entries {
		t.Errorf("the refused call ran: %d calls, want %d", got, entries)
	}
}
