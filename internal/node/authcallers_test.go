// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/secret"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
)

// Envoy calls with a token in its metadata, at each address, or with its certificate.
func TestAuthOfEnvoy(t *testing.T) {
	t.Parallel()
	f, id, rules := newAuthFile(t), newIdentity(t), withEnvoy(t, envoyRulesText)
	n := startWith(t, func(c *config.Config) {
		rules(c)
		c.Auth, c.EnvoyListen, c.EnvoyHTTP = f.path, "127.0.0.1:0", "127.0.0.1:0"
		c.EnvoyCertFile, c.EnvoyKeyFile, c.EnvoyCAFile = id.cert, id.key, id.ca
	}, nil)
	limit := func(conn grpc.ClientConnInterface) codes.Code {
		_, err := rls.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "shop", Descriptors: descriptors{of("user", "a")}})
		return grpcstatus.Code(err)
	}
	for token, want := range map[string]codes.Code{
		"": codes.Unauthenticated, "wrong": codes.Unauthenticated, f.token("ops"): codes.PermissionDenied,
		f.token("team"):    codes.PermissionDenied, // counters belong to no root
		f.token("gateway"): codes.OK,
	} {
		if got := limit(n.dialWith(token)); got != want {
			t.Errorf("Envoy at the address of gRPC, with a token of %d bytes = %s, want %s", len(token), got, want)
		}
		q, err := http.NewRequest(http.MethodPost, "http://"+n.EnvoyHTTPAddr()+"/json", strings.NewReader(`{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"b"}]}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			q.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if status := map[codes.Code]int{codes.Unauthenticated: 401, codes.PermissionDenied: 403, codes.OK: 200}[want]; resp.StatusCode != status {
			t.Errorf("/json with a token of %d bytes = %d, want %d", len(token), resp.StatusCode, status)
		}
	}
	conn, err := grpc.NewClient(n.EnvoyAddr(), grpc.WithTransportCredentials(credentials.NewTLS(id.tls(t))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if got := limit(conn); got != codes.Unauthenticated {
		t.Errorf("a certificate that is not listed = %s, want Unauthenticated", got)
	}
	for i, name := range []string{"spiffe://test/envoy", "envoy.example", "cn:test"} {
		replaceFile(t, f.path, fmt.Sprintf("callers:\n- {name: envoy, scopes: [call], certificates: ['%s']}\n", name)+strings.Repeat("#\n", i))
		waittest.Until(t, "the callers", func() bool { return n.Status().Auth.Reloads == int64(i)+1 })
		if got := limit(conn); got != codes.OK {
			t.Errorf("the certificate as %s = %s, want OK", name, got)
		}
	}
}

// A flood of wrong tokens is refused at once, and a valid token from the same address passes.
// JWTs are accepted by their claims.
func TestAuthUnderAFlood(t *testing.T) {
	t.Parallel()
	const key = "0123456789abcdef0123456789abcdef"
	f := newAuthFile(t)
	replaceFile(t, filepath.Join(filepath.Dir(f.path), "secret"), key)
	replaceFile(t, f.path, fmt.Sprintf("callers:\n- {name: gateway, scopes: [call], tokens: [%s]}\n- {name: ops, scopes: [read], tokens: [%s]}\n- {name: batch, scopes: [call], roots: [acme], claims: {sub: batch}}\njwt: {secret_file: secret, issuer: us}\n",
		secret.Of(f.token("gateway")), secret.Of(f.token("ops"))))
	n := start(t, func(c *config.Config) { c.Auth = f.path })
	sign := func(key, issuer string, life time.Duration) string {
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"sub": "batch", "iss": issuer, "exp": time.Now().Add(life).Unix()}).SignedString([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	check := func(token, root string) (int, http.Header, string) {
		return n.ask(http.MethodPost, "/v1/check", token, `{"key":"`+root+`/x","tier":"free"}`)
	}
	for _, test := range []struct {
		token, root, want string
		status            int
	}{
		{sign(key, "us", time.Hour), "acme", "", 200},
		{sign(key, "us", time.Hour), "globex", "its roots are acme", 403},
		{sign(key, "us", -time.Hour), "acme", "the token has expired", 401},
		{sign(key, "them", time.Hour), "acme", `its iss must be \"us\"`, 401},
		{sign(strings.Repeat("x", 32), "us", time.Hour), "acme", "must be signed by a key that is known here", 401},
	} {
		if status, _, text := check(test.token, test.root); status != test.status || !strings.Contains(text, test.want) {
			t.Errorf("a JWT for %s = %d %s, want %d with %q", test.root, status, text, test.status, test.want)
		}
	}
	var refused http.Header
	for i := range 200 {
		status, header, _ := check(fmt.Sprintf("wrong-%d", i), "flood")
		if status == http.StatusTooManyRequests {
			refused = header
			break
		}
	}
	if refused == nil || refused.Get("Retry-After") == "" {
		t.Errorf("200 failures: the headers of the refusal are %v, want Retry-After", refused)
	}
	if status, _, text := check(f.token("gateway"), "flood"); status != http.StatusOK {
		t.Errorf("a valid token from the address of the flood = %d %s, want 200", status, text)
	}
	if used := f.used(n, "flood/x"); used != 1 {
		t.Errorf("the flood and one call have charged %d requests, want 1", used)
	}
}

// The proxy in a node needs no token, and one of its own the token of a caller, at three
// members that each own a part of the keys.
func TestProxiesWithAuth(t *testing.T) {
	mock, err := mockllm.New(mockllm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(mock)
	defer upstream.Close()
	for _, trusted := range []bool{false, true} { // with --insecure, the proxy asks the owners itself
		t.Run(fmt.Sprintf("insecure=%t", trusted), func(t *testing.T) {
			f, key, withProxy := newAuthFile(t), clusterKey(t), withProxy(t, upstream.URL)
			nodes := startCluster(t, 3, func(_ int, c *config.Config) {
				withProxy(c)
				c.Auth, c.ClusterKeyFile, c.Insecure = f.path, key, trusted
				c.Proxy.Identity = "header:X-Tenant"
			})
			ask := func(address, tenant string) (int, string) {
				q, err := http.NewRequest(http.MethodPost, "http://"+address+"/v1/chat/completions", strings.NewReader(`{"model":"m","max_tokens":8,"messages":[{"role":"user","content":"hello"}]}`))
				if err != nil {
					t.Fatal(err)
				}
				q.Header.Set("X-Tenant", tenant)
				resp, err := http.DefaultClient.Do(q)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				text, err := io.ReadAll(resp.Body)
				if err != nil {
					t.Fatal(err)
				}
				return resp.StatusCode, string(text)
			}
			for i := range 12 {
				if status, text := ask(nodes[i%3].ProxyAddr(), fmt.Sprintf("root%d/a", i)); status != http.StatusOK {
					t.Fatalf("a call through the proxy of a node = %d %s", status, text)
				}
			}
			standalone := func(caller string) string {
				path := filepath.Join(t.TempDir(), "token")
				replaceFile(t, path, f.token(caller))
				c := config.DefaultStandalone().Proxy
				c.Upstream, c.Identity = upstream.URL, "header:X-Tenant"
				p, err := NewProxy(c, ProxyOptions{
					Policy: nodes[0].policies.Current, Logger: nodes[0].Node.log, Registry: prometheus.NewRegistry(),
					Nodes: client.Options{Addrs: []string{nodes[0].GRPCAddr()}, TokenFile: path, Timeout: waittest.Limit},
				})
				if err != nil {
					t.Fatal(err)
				}
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan struct{}) // closed when the proxy has ended
				go func() { defer close(ended); _ = p.Serve(l) }()
				t.Cleanup(func() {
					_ = p.Drain(waittest.Context(t, time.Second)) // the proxy with a wrong token has something to report to nobody
					<-ended
					_ = p.Close()
				})
				return l.Addr().String()
			}
			with, without := standalone("gateway"), standalone("stranger")
			for i := range 12 {
				if status, text := ask(with, fmt.Sprintf("root%d/b", i)); status != http.StatusOK {
					t.Fatalf("a call through a proxy with a token = %d %s", status, text)
				}
			}
			before := len(mock.Ledger().Entries())
			if status, text := ask(without, "root1/c"); status < 500 {
				t.Errorf("a call through a proxy with a wrong token = %d %s, want a failure", status, text)
			}
			if after := len(mock.Ledger().Entries()); after != before {
				t.Errorf("a proxy that may not ask the nodes has run %d calls, want 0", after-before)
			}
		})
	}
}
