// SPDX-License-Identifier: Apache-2.0

package node

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/mockllm"
)

// Callers prove who they are by certificates over HTTP and gRPC, while TLS is required and
// while it is optional. The certificate of a member is none of a caller. The proxies of the
// nodes need no token, with a cluster key and without.
func TestAuthByCertificate(t *testing.T) {
	mock, err := mockllm.New(mockllm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(mock)
	defer upstream.Close()
	for _, mode := range []string{"optional", "required", "required without a cluster key"} {
		t.Run(mode, func(t *testing.T) {
			ca, f, proxied := newAuthority(t, "ours"), newAuthFile(t), withProxy(t, upstream.URL)
			replaceFile(t, f.path, "callers:\n- {name: alice, scopes: [call], roots: [acme], certificates: ['cn:alice']}\n")
			mode, noKey := strings.CutSuffix(mode, " without a cluster key")
			settings := ca.settings(mode, "request")
			nodes, _ := secureCluster(t, 3, ca, nil, func(i int, c *config.Config) {
				if settings(i, c); noKey {
					c.ClusterKeyFile = ""
				}
				c.Auth = f.path
				proxied(c)
				c.Proxy.Identity = "header:X-Tenant"
			})
			for _, test := range []struct {
				who, key string
				member   bool
				want     codes.Code
			}{
				{"alice", "acme/x", false, codes.OK},
				{"alice", "globex/x", false, codes.PermissionDenied},
				{"bob", "acme/x", false, codes.Unauthenticated},
				{"n1", "acme/x", true, codes.Unauthenticated},
			} {
				store := ca.store(test.who, test.member)
				for _, n := range nodes { // two of which forward the call
					if _, err := ask(t, store.ServerCredentials("localhost"), n.GRPCAddr(), test.key); grpcstatus.Code(err) != test.want {
						t.Errorf("gRPC with the certificate of %s for %s = %v, want %s", test.who, test.key, err, test.want)
					}
				}
				status := map[codes.Code]int{codes.OK: 200, codes.PermissionDenied: 403, codes.Unauthenticated: 401}[test.want]
				if got, text, err := post(store.Client("localhost"), "https", nodes[0].HTTPAddr(), test.key); err != nil || got != status {
					t.Errorf("HTTP with the certificate of %s for %s = %d %s, %v, want %d", test.who, test.key, got, text, err, status)
				}
			}
			if got, text, err := post(without(ca.store("alice", false).Client("localhost")), "https", nodes[0].HTTPAddr(), "acme/x"); err != nil || got != 401 {
				t.Errorf("HTTP without a certificate = %d %s, %v, want 401", got, text, err)
			}
			scheme, transport := "https", &http.Transport{TLSClientConfig: without(ca.store("alice", false).Client("localhost")), DisableKeepAlives: true}
			if mode == "optional" {
				scheme, transport.TLSClientConfig = "http", (*tls.Config)(nil)
			}
			for i := range 12 {
				q, err := http.NewRequest(http.MethodPost, scheme+"://"+nodes[i%3].ProxyAddr()+"/v1/chat/completions", strings.NewReader(`{"model":"m","max_tokens":8,"messages":[{"role":"user","content":"hello"}]}`))
				if err != nil {
					t.Fatal(err)
				}
				q.Header.Set("X-Tenant", fmt.Sprintf("root%d/a", i))
				resp, err := (&http.Client{Transport: transport}).Do(q)
				if err != nil {
					t.Fatal(err)
				}
				text, _ := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Fatalf("a call through the proxy of a node = %d %s", resp.StatusCode, text)
				}
			}
		})
	}
}
