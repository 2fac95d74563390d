// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/proxy"
)

func pass(t testing.TB, rules ...string) func(*proxy.Options) {
	t.Helper()
	p, err := proxy.ParsePass(rules)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *proxy.Options) { o.Pass = p }
}

// echo responds with the request that it got.
func echo(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	for name, values := range r.Header {
		w.Header()["Got-"+name] = values
	}
	w.Header().Set("Got-Host", r.Host)
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body)
}

func TestWhatPasses(t *testing.T) {
	s := start(t, setup{upstream: http.HandlerFunc(echo)}) // safe is the default
	for request, want := range map[string]int{
		"GET /v1/models":                        200,
		"HEAD /v1/models":                       200,
		"GET /v1/models/org/name":               200,
		"GET /health":                           200,
		"OPTIONS /v1/chat/completions":          200,
		"GET /models":                           200,
		"GET /v1beta/openai/models":             200,
		"GET /v1/models/":                       200,
		"POST /v1/responses/input_tokens":       200,
		"POST /messages/count_tokens":           200,
		"POST /v1/chat/completions":             401,
		"GET /v1/chat/completions":              403,
		"GET /metrics":                          403,
		"POST /v1/models":                       403,
		"POST /v1/rerank":                       403,
		"POST /v1/audio/transcriptions":         403,
		"POST /v1/messages/count_tokens":        200,
		"PUT /v1/messages/count_tokens":         403,
		"POST /v1/messages/batches":             403,
		"POST /v1/responses/r/cancel":           403,
		"POST /v4/images/generations":           403,
		"POST /model/m/invoke":                  403,
		"POST /v1beta/models/m:generateContent": 403,
		"POST /generate":                        403,
		"GET /v1/responses/resp_1":              403,
		"GET /v1/models/../../metrics":          403,
		"GET /v1/models/%2e%2e/%2e%2e/reset":    403,
		"GET /v1/models/..;/..;/reset":          403,
		"GET /v1/models/%252e%252e/reset":       403,
		"GET /v1/models/x%5C..%5Creset":         403,
		"GET /v1/realtime":                      403,
		"POST /V1/CHAT/completions":             403,
		"POST /":                                403,
		"GET /v1/MODELS":                        403,
		"GET /models/x":                         200,
	} {
		method, path, _ := strings.Cut(request, " ")
		answer := s.raw(method, path, "")
		if answer != want {
			t.Errorf("%s = %d, want %d", request, answer, want)
		}
	}
	answer := s.post("/v1/rerank", "{}")
	if got := text(t, answer); !strings.Contains(got, "endpoint_not_allowed") || !strings.Contains(got, "POST /v1/rerank") {
		t.Errorf("answer = %s, want the reason", got)
	}
	for path, want := range map[string]string{
		"/v1/messages/count_tokens":                "This proxy forwards POST /v1/messages/count_tokens, but not with a form: send Content-Type: application/json.",
		"/v1/messages/count_tokens?_method=DELETE": "This proxy does not forward POST /v1/messages/count_tokens.",
		"/v1/rerank": "This proxy does not forward POST /v1/rerank.",
	} {
		r, err := http.Post(s.url+path, "application/x-www-form-urlencoded", strings.NewReader("{}")) // as curl -d sends it
		if err != nil {
			t.Fatal(err)
		}
		if got := text(t, r); r.StatusCode != http.StatusForbidden || !strings.Contains(got, want) {
			t.Errorf("POST %s as a form = %d %s, want 403 and %q", path, r.StatusCode, got, want)
		}
	}
}

// raw sends a path without normalizing it, and returns the status.
func (s *stack) raw(method, path, body string) int {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(waittest.Limit)); err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
	answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		s.t.Fatal(err)
	}
	return answer.StatusCode
}

// No spelling of a metered path is forwarded unmetered, even if Pass allows everything
// else.
func TestDisguisedPaths(t *testing.T) {
	s := start(t, setup{upstream: http.HandlerFunc(echo), edit: pass(t, "all")})
	for _, path := range []string{
		"/v1/chat/completions", "/v1/chat/completions/", "/v1//chat/completions", "//v1/chat/completions", "/v1/./chat/completions",
		"/v1/x/../chat/completions", "/v1/chat%2Fcompletions", "/v1/%63hat/completions", "/any/prefix/v1/messages", "/v1/messages?beta=true",
		"/V1/chat/Completions", `/v1\chat\completions`, "/v1/chat/completions/.", "/v1/embeddings//",
		"/chat/completions", "/completions", "/openai/deployments/gpt/chat/completions?api-version=1", "/v1beta/openai/chat/completions", "/v1/engines/m/completions",
		"/v4/embeddings", "/v1/responses/compact", "/responses/compact/", "/v1/CHAT/completions", "/v1/chat%20/completions", "/v1/chat;x%2Fcompletions", "/v1/chat%2Fcompletions;x%2Fy",
	} {
		// Without a credential, a metered call is a 401.
		if got := s.raw(http.MethodPost, path, hello); got != http.StatusUnauthorized && got != http.StatusForbidden {
			t.Errorf("POST %s = %d, want 401 or 403", path, got)
		}
	}
	if got := s.raw("post", "/v1/chat/completions", hello); got != http.StatusForbidden {
		t.Errorf("lower-case post = %d, want 403", got)
	}
	for _, path := range []string{"/v1/rerank", "/v1/chat/completions/id/cancel", "/v1/messages/count_tokens", "/generate"} {
		if got := s.raw(http.MethodPost, path, "{}"); got != http.StatusOK {
			t.Errorf("POST %s = %d, want 200", path, got)
		}
	}
}

func TestParsePass(t *testing.T) {
	for _, bad := range []string{"", "v1/models", "get /v1", "GET v1", "/v1/*/x*", "/v1/mod*", "GET  ", "/a/../b", "POST", "/a//b", "PO ST /x", "*", "*x", "/a/*/b", "*/a/*", "/a%2Fb", "/a;b", "SAFE"} {
		if _, err := proxy.ParsePass([]string{bad}); err == nil {
			t.Errorf("ParsePass(%q) = nil, want an error", bad)
		}
	}
	if p, err := proxy.ParsePass(nil); err != nil || p == nil {
		t.Errorf("ParsePass() = %v, %v, want rules that pass nothing", p, err)
	}
	if p, err := proxy.ParsePass([]string{"/*", " POST /v1/rerank ", "all", "GET /files/*"}); err != nil || !p.All() {
		t.Errorf("ParsePass = %v, %v, want everything", p, err)
	}
	if p, err := proxy.ParsePass([]string{"POST /tokenize", "safe"}); err != nil || p.All() || len(p) != 1+len(strings.Split(proxy.Safe, ",")) {
		t.Errorf("ParsePass(POST /tokenize, safe) = %v, %v, want one rule and those of safe", p, err)
	}
}

// Unmetered requests and their responses are not changed, and flow in both
// directions at once.
func TestUnmeteredRequestsAreUnchanged(t *testing.T) {
	edit := pass(t, "/up/*")
	s := start(t, setup{edit: edit, upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/up/stream" {
			echo(w, r)
			return
		}
		c := http.NewResponseController(w)
		if err := c.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		_ = c.Flush()
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, line)
			_ = c.Flush()
		}
	})})
	answer := s.post("/up/x%2Fy?a=1;b=%zz&c", "body", "Accept-Encoding", "zstd, br", "X-Bucketring-Min-Output-Tokens", "forbid", "X-Forwarded-For", "1.2.3.4", "Authorization", "Basic abc")
	if got := text(t, answer); got != "POST /up/x%2Fy?a=1;b=%zz&c body" {
		t.Errorf("upstream got %q", got)
	}
	h := answer.Header
	for name, want := range map[string]string{
		"Got-Accept-Encoding": "zstd, br", "Got-Authorization": "Basic abc", "Got-X-Forwarded-For": "127.0.0.1",
		"Got-X-Forwarded-Host": strings.TrimPrefix(s.url, "http://"), "Got-X-Forwarded-Proto": "http",
		"Got-X-Bucketring-Min-Output-Tokens": "forbid", "Got-Host": strings.TrimPrefix(s.direct, "http://"),
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	in, out := io.Pipe()
	defer out.Close()
	stream := s.do(http.MethodPost, "/up/stream", struct{ io.Reader }{in})
	back := bufio.NewReader(stream.Body)
	for i := range 3 {
		if _, err := fmt.Fprintf(out, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
		if got, err := back.ReadString('\n'); err != nil || got != fmt.Sprintf("line %d\n", i) {
			t.Fatalf("line %d came back as %q, %v", i, got, err)
		}
	}
}

// Metered calls have the headers they need, and the upstream key if there is one.
func TestUpstreamHeaders(t *testing.T) {
	s := start(t, setup{upstream: http.HandlerFunc(echo), edit: func(o *proxy.Options) {
		o.UpstreamKey = "sk-upstream"
		o.Upstream = mustURL(t, o.Upstream.String()+"/base/")
		pass(t, "GET /v1/models", "/health")(o)
	}})
	for name, test := range map[string]struct {
		method, path string
		headers      []string
		want         map[string]string
	}{
		"openai":    {"POST", "/v1/chat/completions", nil, map[string]string{"Authorization": "Bearer sk-upstream", "X-Api-Key": "", "Accept-Encoding": "identity"}},
		"anthropic": {"POST", "/v1/messages", []string{"Authorization", "", "X-Api-Key", "sk-std"}, map[string]string{"Authorization": "", "X-Api-Key": "sk-upstream"}},
		"passes":    {"GET", "/v1/models", nil, map[string]string{"Authorization": "Bearer sk-upstream"}},
		"unknown":   {"GET", "/v1/models", []string{"Authorization", "Bearer sk-none"}, map[string]string{"Authorization": "Bearer sk-none"}},
		"anonymous": {"GET", "/health", []string{"Authorization", ""}, map[string]string{"Authorization": ""}},
	} {
		var body io.Reader
		if test.method == "POST" {
			body = strings.NewReader(hello)
		}
		answer := s.do(test.method, test.path, body, append(test.headers, "Accept-Encoding", "gzip")...)
		got := text(t, answer)
		if answer.StatusCode != 200 || !strings.HasPrefix(got, test.method+" /base"+test.path) {
			t.Errorf("%s: upstream got %q (%d), want the path below /base", name, got, answer.StatusCode)
		}
		for h, want := range test.want {
			if got := answer.Header.Get("Got-" + h); got != want {
				t.Errorf("%s: upstream got %s %q, want %q", name, h, got, want)
			}
		}
	}
}

func TestParseUpstream(t *testing.T) {
	for _, bad := range []string{"", "127.0.0.1:8000", "ftp://x", "http://", "http://u:secret@x", "http://x?key=secret", "http://x\x7f"} {
		_, err := proxy.ParseUpstream(bad)
		if err == nil || strings.Contains(err.Error(), "secret@") {
			t.Errorf("ParseUpstream(%q) = %v, want an error without the secret", bad, err)
		}
	}
}
