// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/proxy"
)

func meter(t testing.TB, rules ...string) func(*proxy.Options) {
	t.Helper()
	m, err := proxy.ParseMeter(rules)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *proxy.Options) { o.Meter = m }
}

func TestParseMeter(t *testing.T) {
	for _, bad := range []string{"", "/v1/rerank", "GET /v1/rerank", "OPTIONS /*", "all", "safe", "POST v1", "POST /a/*/b"} {
		if _, err := proxy.ParseMeter([]string{bad}); err == nil {
			t.Errorf("ParseMeter(%q) = nil, want an error", bad)
		}
	}
}

// Calls that are metered by count take a request and a slot, and are charged what the
// usage in the answer says.
func TestMeteredByCount(t *testing.T) {
	for name, test := range map[string]struct {
		kind, answer  string
		status        int
		input, output int64
		source        middleware.Source
	}{
		"rerank":     {"application/json", `{"id":"r","results":[{"index":0,"relevance_score":0.9}],"usage":{"total_tokens":56}}`, 200, 56, 0, middleware.SourceReported},
		"score":      {"application/json", `{"data":[{"score":1}],"usage":{"prompt_tokens":9,"total_tokens":9,"completion_tokens":0}}`, 200, 9, 0, middleware.SourceReported},
		"transcript": {"application/json", `{"text":"some words","usage":{"type":"tokens","input_tokens":14,"output_tokens":45,"total_tokens":59}}`, 200, 14, 45, middleware.SourceReported},
		"stream":     {"text/event-stream", "data: {\"type\":\"transcript.text.delta\",\"delta\":\"some\"}\n\ndata: {\"type\":\"transcript.text.done\",\"text\":\"some\",\"usage\":{\"input_tokens\":14,\"output_tokens\":45,\"total_tokens\":59}}\n\n", 200, 14, 45, middleware.SourceReported},
		"speech":     {"audio/mpeg", "\xff\xfb\x90\x00 not JSON", 200, 0, 0, middleware.SourceEstimated},
		"duration":   {"application/json", `{"text":"some words","usage":{"type":"duration","seconds":9}}`, 200, 0, 0, middleware.SourceEstimated},
		"lie":        {"application/json", `{"usage":{"input_tokens":-5,"output_tokens":-7}}`, 200, 0, 0, middleware.SourceEstimated},
		"rejects":    {"application/json", `{"error":"bad file"}`, 422, 0, 0, middleware.SourceRejected},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := "--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n" + strings.Repeat("\x00", 1<<20) + "\r\n--x--\r\n"
			s := start(t, setup{
				upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if got, err := io.ReadAll(r.Body); err != nil || string(got) != body {
						t.Errorf("the upstream got %d bytes, %v, want the body as it is", len(got), err)
					}
					if got := r.Header.Get("Accept-Encoding"); got != "identity" {
						t.Errorf("the upstream is asked for the encoding %q, want identity: the usage is read", got)
					}
					w.Header().Set("Content-Type", test.kind)
					w.WriteHeader(test.status)
					_, _ = io.WriteString(w, test.answer)
				}),
				edit: func(o *proxy.Options) {
					meter(t, "POST /v1/rerank", "POST /v1/audio/*")(o)
					o.Middleware.MaxBodyBytes = 1 << 16 // the body is not read
				},
			})
			answer := s.post("/v1/audio/transcriptions", body, "Content-Type", "multipart/form-data; boundary=x", "Accept-Encoding", "gzip")
			if got := text(t, answer); answer.StatusCode != test.status || got != test.answer || answer.Header.Get("X-Bucketring-Request-Id") == "" {
				t.Errorf("answer = %d %q, want %d %q with our headers", answer.StatusCode, got, test.status, test.answer)
			}
			if r := s.result(1); r.Source != test.source || r.Charged.InputTokens != test.input || r.Charged.OutputTokens != test.output || r.Method != "/v1/audio/transcriptions" {
				t.Errorf("charged %+v (%s) for %s, want %d and %d (%s)", r.Charged, r.Source, r.Method, test.input, test.output, test.source)
			}
			s.charged("std", test.input+test.output)
		})
	}
}

// A call that is metered by count needs an identity, and counts against the limits of
// requests.
func TestMeteredByCountIsLimited(t *testing.T) {
	var reached atomic.Int64
	s := start(t, setup{
		frozen: true,
		upstream: handler(func(w http.ResponseWriter, _ *http.Request) {
			reached.Add(1)
			fmt.Fprint(w, `{}`)
		}),
		edit: func(o *proxy.Options) {
			meter(t, "POST /v1/rerank", "POST */images/generations")(o)
			pass(t, "all")(o)
		},
	})
	if answer := s.post("/v1/rerank", "{}", "Authorization", ""); answer.StatusCode != http.StatusUnauthorized || reached.Load() != 0 {
		t.Errorf("without a key = %d, want 401", answer.StatusCode)
	}
	for i, want := range []int{http.StatusOK, http.StatusTooManyRequests} {
		if answer := s.post([]string{"/v1/rerank", "/any/images/generations/"}[i], "{}", "Authorization", "Bearer sk-slow"); answer.StatusCode != want {
			t.Errorf("call %d = %d, want %d", i+1, answer.StatusCode, want)
		}
	}
	if got := reached.Load(); got != 1 {
		t.Errorf("the upstream got %d calls, want 1", got)
	}
}

// No spelling of a path that is metered by count is free, even if Pass allows everything
// else.
func TestDisguisedMeteredByCount(t *testing.T) {
	for base, rules := range map[string][]string{"": {"POST /v1/rerank", "POST /v1/audio/*"}, "/v1": {"POST /rerank", "POST /audio/*"}} {
		var reached atomic.Pointer[string]
		s := start(t, setup{
			upstream: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				got := r.Method + " " + r.RequestURI
				reached.Store(&got)
			}),
			edit: func(o *proxy.Options) {
				o.Upstream = mustURL(t, o.Upstream.String()+base)
				pass(t, "all")(o)
				meter(t, rules...)(o)
			},
		})
		prefix := "/v1"
		if base != "" {
			prefix = ""
		}
		for _, request := range []string{
			"POST @/rerank", "POST @/rerank/", "POST @/RERANK", "POST @//rerank", "POST @/rerank;x", "POST @/rerank%3Fx", "POST @/rer%2561nk", "POST @/x/../rerank", "POST @/rerank%20", "post @/rerank", "PUT @/rerank",
			"GET @/rerank", "POST @/audio/speech", "POST @/audio/x%2F..%2Fspeech", `POST @/audio\speech`, "POST @/audio;x/speech", "POST @/Audio/speech", "POST /x/..@/audio/speech", "POST @/audio/..%2Frerank", "POST @/audio%2Fspeech;x%2Fy",
		} {
			method, target, _ := strings.Cut(strings.ReplaceAll(request, "@", prefix), " ")
			reached.Store(nil)
			status := s.raw(method, target, "{}")
			if got := reached.Load(); got != nil || status != http.StatusUnauthorized && status != http.StatusForbidden {
				t.Errorf("base %q: %s = %d, and the upstream got %v, want 401 or 403", base, request, status, got)
			}
		}
		for _, request := range []string{"GET @/rerank", "POST @/rerankers", "POST @/audios", "POST @/tokenize"} {
			method, target, _ := strings.Cut(strings.ReplaceAll(request, "@", prefix), " ")
			if status := s.raw(method, target, ""); status != http.StatusOK {
				t.Errorf("base %q: %s = %d, want 200: it is not metered", base, request, status)
			}
		}
	}
}

// Safe passes nothing that a header, a parameter or a body turns into a call.
func TestSafeIsSafe(t *testing.T) {
	var reached atomic.Int64
	s := start(t, setup{upstream: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) })})
	for _, request := range []struct {
		method, path, body string
		headers            []string
	}{
		{"OPTIONS", "/generate", "", []string{"X-HTTP-Method-Override", "POST"}},
		{"GET", "/v1/models", "", []string{"X-HTTP-Method", "POST"}},
		{"GET", "/v1/models?_method=POST", "", nil},
		{"OPTIONS", "/generate", "{}", nil},
		{"GET", "/v1/models/x", "{}", nil},
		{"GET", "/v1/models", "", []string{"X-Original-URL", "/generate"}},
		{"POST", "/v1/messages/count_tokens", "{}", []string{"X-Original-URL", "/v1/messages"}},
		{"POST", "/v1/messages/count_tokens", "{}", []string{"X-Rewrite-URL", "/v1/messages"}},
		{"POST", "/v1/embeddings", "{}", []string{"X-Rewrite-URL", "/v1/chat/completions"}},
		{"GET", "/v1/realtime", "", []string{"Connection", "Upgrade", "Upgrade", "websocket"}},
		{"POST", "/v1/messages;/messages/count_tokens", "{}", nil},
		{"POST", "/v1/messages%3F/messages/count_tokens", "{}", nil},
		{"POST", "/v1/messages%2523/messages/count_tokens", "{}", nil},
		{"POST", "/v1/messages/count_tokens/..", "{}", nil},
		{"DELETE", "/v1/models/x", "", nil},
	} {
		var body io.Reader
		if request.body != "" {
			body = strings.NewReader(request.body)
		}
		answer := s.do(request.method, request.path, body, request.headers...)
		if answer.StatusCode != http.StatusForbidden || reached.Load() != 0 {
			t.Errorf("%s %s %q with %q = %d, want 403", request.method, request.path, request.body, request.headers, answer.StatusCode)
			reached.Store(0)
		}
	}
}

// The path's model is that of the call, whatever the body says.
func TestModelOfThePath(t *testing.T) {
	usage := handler(withUsage(`{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11}`))
	s := start(t, setup{upstream: usage})
	for i, test := range []struct{ path, want string }{
		{"/v1/chat/completions", "mock-small"},
		{"/openai/deployments/big/chat/completions", "big"},
		{"/v1/engines/org/big/chat/completions", "org/big"},
		{"/openai/Deployments/big/chat/completions", "big"},
		{"/openai/deployments/big/extensions/chat/completions", "big"},
		{"/v1/Engines/big/completions", "big"},
	} {
		s.post(test.path, hello)
		if r := s.result(i + 1); r.Model != test.want {
			t.Errorf("%s is charged to the model %q, want %q", test.path, r.Model, test.want)
		}
	}
	if answer := s.post("/openai/deployments/%FF/chat/completions", hello); answer.StatusCode != http.StatusBadRequest && answer.StatusCode != http.StatusForbidden {
		t.Errorf("a model that cannot be named = %d, want 400 or 403", answer.StatusCode)
	}
	s = start(t, setup{upstream: usage, edit: func(o *proxy.Options) {
		o.Upstream = mustURL(t, o.Upstream.String()+"/openai/deployments/big")
	}})
	s.post("/chat/completions", hello)
	if r := s.result(1); r.Model != "big" {
		t.Errorf("a call of a deployment is charged to the model %q, want big", r.Model)
	}
}
