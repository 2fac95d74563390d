// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter/policy"
)

const proxyRules = `
tiers: { free: { concurrent: 2, limits: [{ name: day, dimension: tokens, limit: 100_000, window: day }] } }
default_tier: free
api_keys: [{ hash: %q, key: acme/alice }]
`

// withProxy configures a proxy in front of a model server.
func withProxy(t *testing.T, upstream string) func(*config.Config) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, proxyRules, policy.HashAPIKey("sk-alice")), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(c *config.Config) {
		c.Policy, c.ProxyListen, c.Proxy.Upstream, c.Proxy.Identity = file, "127.0.0.1:0", upstream, "bearer"
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *running) askModel(headers ...string) *http.Response {
	r.t.Helper()
	const body = `{"model":"m","max_tokens":200,"stream":true,"messages":[{"role":"user","content":"hello"}]}`
	q, err := http.NewRequest(http.MethodPost, "http://"+r.ProxyAddr()+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	q.Header.Set("Authorization", "Bearer sk-alice")
	for i := 0; i < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = answer.Body.Close() })
	return answer
}

func TestProxyOfANode(t *testing.T) {
	mock, err := mockllm.New(mockllm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(mock)
	defer upstream.Close()
	r := start(t, withProxy(t, upstream.URL))
	answer := r.askModel("X-Mock-Output-Tokens", "30")
	if text, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(text), "[DONE]") {
		t.Fatalf("answer = %d %s, %v, want a stream", answer.StatusCode, text, err)
	}
	e := mock.Ledger().Entries()[0]
	want := fmt.Sprintf(`"remaining":%d`, 100_000-e.Input-e.Generated)
	deadline := time.Now().Add(waittest.Limit)
	for {
		_, limits := r.get("/v1/limits?key=acme/alice")
		if strings.Contains(limits, want) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("limits = %s, want %s", limits, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if _, metrics := r.get("/metrics"); !strings.Contains(metrics, "bucketring_proxy_unmetered_total") {
		t.Error("the node's metrics have none of the proxy's")
	}
}

// A node that shuts down drains the calls of its proxy and accounts for them before
// it saves its state.
func TestProxiedCallFinishesAtShutdown(t *testing.T) {
	mock, err := mockllm.New(mockllm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(mock)
	defer upstream.Close()
	data := t.TempDir()
	configure := withProxy(t, upstream.URL)
	edit := func(c *config.Config) {
		configure(c)
		c.Data = data
	}
	r := start(t, edit)
	answer := r.askModel("X-Mock-Output-Tokens", "30", "X-Mock-Stall-After", "10", "X-Mock-Stall", "500ms")
	if _, err := io.ReadFull(answer.Body, make([]byte, 50)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1) // of reading the answer
	go func() {
		_, err := io.ReadAll(answer.Body)
		ended <- err
	}()
	if err := r.ended(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the answer ends with %v, want all of it", err)
	}
	e := mock.Ledger().Entries()[0]
	if e.Generated != 30 {
		t.Errorf("the model generated %d tokens, want 30", e.Generated)
	}
	again := start(t, edit)
	_, limits := again.get("/v1/limits?key=acme/alice")
	if want := fmt.Sprintf(`"remaining":%d`, 100_000-e.Input-e.Generated); !strings.Contains(limits, want) {
		t.Errorf("limits after a restart = %s, want %s", limits, want)
	}
}

func TestBadProxySettings(t *testing.T) {
	for name, edit := range map[string]func(*config.Config){
		"proxy_upstream":          func(c *config.Config) { c.Proxy.Upstream = "ftp://x" },
		"proxy_identity":          func(c *config.Config) { c.Proxy.Identity = "headr:x" },
		"proxy_pass":              func(c *config.Config) { c.Proxy.Pass = []string{"x"} },
		"proxy_meter":             func(c *config.Config) { c.Proxy.Meter = []string{"GET /x"} },
		"proxy_cors_origins":      func(c *config.Config) { c.Proxy.CORSOrigins = []string{"chat.example.org"} },
		"proxy_identity_form":     func(c *config.Config) { c.Proxy.IdentityForm = "x" },
		"proxy_upstream_key_file": func(c *config.Config) { c.Proxy.UpstreamKeyFile = filepath.Join(t.TempDir(), "none") },
		"proxy_jwt_keys":          func(c *config.Config) { c.Proxy.JWTKeys = filepath.Join(t.TempDir(), "none") },
	} {
		c := testConfig(withProxy(t, "http://127.0.0.1:1"))
		edit(c)
		_, err := New(Options{Config: c})
		if err == nil || !strings.Contains(err.Error(), name+": ") {
			t.Errorf("New with a bad %s = %v, want it to be named", name, err)
		}
	}
}

// TestProxyWithoutAPIKeys: a proxy that refuses every call says so when it starts.
func TestProxyWithoutAPIKeys(t *testing.T) {
	t.Parallel()
	const warning = "the policy has no API keys"
	for _, keys := range []string{"", "api_keys: [{ hash: " + policy.HashAPIKey("sk-alice") + ", key: acme/alice }]\n"} {
		file := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(file, []byte("tiers: { free: { requests: 10/min } }\ndefault_tier: free\n"+keys), 0o600); err != nil {
			t.Fatal(err)
		}
		n := start(t, func(c *config.Config) {
			c.Policy, c.ProxyListen, c.Proxy.Upstream, c.Proxy.Identity = file, "127.0.0.1:0", "http://127.0.0.1:9", "bearer"
		})
		if got := strings.Contains(n.log.String(), warning); got != (keys == "") {
			t.Errorf("with api_keys %q: the log warns: %t in\n%s", keys, got, n.log)
		}
	}
}
