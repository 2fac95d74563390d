// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/proxy"
)

// dial opens a connection to the proxy.
func (s *stack) dial() net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(waittest.Limit)); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// The requests have no credential, so metered ones get a 401. None may reach the
// upstream.
func TestAmbiguousRequestsAreRejected(t *testing.T) {
	everywhere := []string{
		"POST /v1/chat/completions",
		"POST http://elsewhere/v1/chat/completions",
		"POST a:http://elsewhere/v1/chat/completions", // opaque: the rest would become the request target
		"POST a:v1/chat/completions",
		"POST /v1/chat/completions;x=1", "POST /v1;a/chat;b/completions;c",
		"POST /v1/chat%252Fcompletions", "POST /v1/%2563hat/completions", "POST /v1/%252563hat/completions",
		"POST /v1/chat/completions%3Fx", "POST /v1/chat/completions%23x", "POST /v1/chat/completions%20", "POST /v1/chat/completions%09",
		"POST /v1/chat/completions%00", "POST /v1/chat/completions%253Fx", "POST /v1/chat%5Ccompletions", "POST /v1/chat%255Ccompletions",
		"POST /chat/completions", "POST /completions", "POST /embeddings/", "POST /responses", "POST /messages", // llama.cpp
		"POST /v1/CHAT/completions", "POST /v1/chat%20/completions", // not completions
		"POST /v1/chat%2Fcompletions;x%2Fy", "POST /v1/chat%2Fcompletions%3Bx%2Fy", "POST /v1/chat;x%2Fy/completions", "POST /v1/chat/completions%3B%2F..%2Fx",
		"POST /api/v3/chat/completions", "POST /openai/deployments/d/chat/completions",
		"POST /%25zz/%252e%252e/v1/chat%252Fcompletions",
		"POST /v1/messages%3B", "POST /v1/x/%252e%252e/messages", "POST /v1/chat/completions;/",
		"PUT /v1/chat/completions", "PATCH /v1/messages", "QUERY /v1/responses", "post /v1/chat/completions", "Post /v1/embeddings", "GET /v1/chat/completions", // with a body
		"POST /v1/embeddings/%2e%2e/chat/completions", "POST /v1/chat/completions/../../embeddings", "POST /v1/chat/completions%3F/../../../embeddings",
	}
	for base, own := range map[string][]string{
		"":         {"POST /v1//messages/"},
		"/v1":      {"POST /chat/completions", "POST /completions/", "POST //messages", "POST /x/../chat%2Fcompletions"},
		"/v1/chat": {"POST /completions", "POST /../messages", "POST /COMPLETIONS", "POST /../rerank", "POST /x%2F..%2F../rerank", `POST /..\rerank`, "GET /../models"},
		"/base":    {"POST /v1//messages/"},
	} {
		var reached atomic.Pointer[string]
		s := start(t, setup{
			upstream: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				got := r.Method + " " + r.RequestURI
				reached.Store(&got)
			}),
			edit: func(o *proxy.Options) {
				o.Upstream = mustURL(t, o.Upstream.String()+base)
				pass(t, "all")(o)
			},
		})
		for _, request := range append(own, everywhere...) {
			method, target, _ := strings.Cut(request, " ")
			reached.Store(nil)
			status := s.raw(method, target, hello)
			if got := reached.Load(); got != nil {
				t.Errorf("base %q: %s = %d, and the upstream got %s, want it to be rejected", base, request, status, *got)
			}
		}
		for request, body := range map[string]string{
			"GET /v1/chat/completions": "", "POST /v1/rerank": "{}", "POST /files/a%20b;v=1": "{}", "DELETE /v1/responses/resp_1": "", "POST /v1/messages/count_tokens": "{}", "GET /v1/threads/t/messages": "",
		} {
			method, target, _ := strings.Cut(request, " ")
			if got := s.raw(method, target, body); got != http.StatusOK {
				t.Errorf("base %q: %s = %d, want 200: it is not metered", base, request, got)
			}
		}
	}
}

// Some servers run a GET as a POST if a header overrides the method.
func TestMethodOverrideIsRejected(t *testing.T) {
	var reached atomic.Int64
	s := start(t, setup{upstream: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }), edit: pass(t, "all")})
	for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"} {
		for _, method := range []string{http.MethodGet, http.MethodOptions, http.MethodDelete} {
			answer := s.do(method, "/v1/chat/completions", strings.NewReader(hello), name, "POST")
			if answer.StatusCode != http.StatusForbidden || reached.Load() != 0 {
				t.Errorf("%s with %s: POST = %d, want 403", method, name, answer.StatusCode)
			}
		}
	}
}

// Calls on a connection upgraded to HTTP/2 could not be metered.
func TestOnlyWebSocketUpgrades(t *testing.T) {
	var tunnels atomic.Int64
	s := start(t, setup{edit: pass(t, "all"), upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprint(w, "plain")
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		tunnels.Add(1)
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	})})
	for upgrade, want := range map[string]int{
		"h2c": http.StatusBadRequest, "H2C": http.StatusBadRequest, "h2c, websocket": http.StatusBadRequest, "websocket, h2c": http.StatusBadRequest, "TLS/1.3": http.StatusBadRequest,
		"": http.StatusOK, "websocket": http.StatusSwitchingProtocols,
	} {
		before := tunnels.Load()
		conn := s.dial()
		fmt.Fprintf(conn, "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nUpgrade: %s\r\n\r\n", upgrade)
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if answer.StatusCode != want || tunnels.Load() != before && want != http.StatusSwitchingProtocols {
			t.Errorf("upgrade to %q = %d with %d tunnels, want %d", upgrade, answer.StatusCode, tunnels.Load()-before, want)
		}
		_ = conn.Close()
	}
	// OpenAI serves /v1/responses on WebSockets.
	if answer := s.do(http.MethodGet, "/v1/responses", nil, "Connection", "Upgrade", "Upgrade", "websocket"); answer.StatusCode != http.StatusBadRequest {
		t.Errorf("a WebSocket of a metered endpoint = %d, want 400", answer.StatusCode)
	}
}

// A server that closes the connection may have run the call. An idempotency header
// must not make the transport send it again.
func TestIdempotencyKeyCausesNoRetry(t *testing.T) {
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		var calls atomic.Int64
		var key atomic.Pointer[string]
		s := start(t, setup{upstream: handler(func(w http.ResponseWriter, r *http.Request) {
			got := r.Header.Get(name)
			key.Store(&got)
			if calls.Add(1) > 1 {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}`)
		})})
		for range 2 { // the second request reuses the connection
			text(t, s.post("/v1/chat/completions", hello, name, "k1"))
		}
		if got := calls.Load(); got != 2 {
			t.Errorf("%s: the upstream ran %d calls for 2, want 2", name, got)
		}
		if got := *key.Load(); got != "k1" {
			t.Errorf("%s: the upstream got %q, want k1", name, got)
		}
		if r := s.result(2); r.Source != middleware.SourcePartial || r.Charged.InputTokens == 0 {
			t.Errorf("%s: charged %+v (%s), want the input: it may have run", name, r.Charged, r.Source)
		}
	}
}

// A call is charged if the upstream switches protocols without being asked.
func TestUnsolicitedUpgradeIsCharged(t *testing.T) {
	s := start(t, setup{upstream: handler(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\nsome words")
		_ = rw.Flush()
	})})
	if answer := s.post("/v1/chat/completions", hello); answer.StatusCode != http.StatusBadGateway {
		t.Errorf("answer = %d, want 502", answer.StatusCode)
	}
	if r := s.result(1); r.Charged.InputTokens == 0 {
		t.Errorf("charged %+v (%s), want the input", r.Charged, r.Source)
	}
}

// The rate-limit headers of the upstream concern the proxy, not the caller, and are
// removed.
func TestLimitHeadersAreReplaced(t *testing.T) {
	status := http.StatusOK
	s := start(t, setup{upstream: handler(func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "application/json")
		for _, name := range []string{
			"x-ratelimit-limit-requests", "x-ratelimit-remaining-tokens", "x-ratelimit-limit-tokens", "x-ratelimit-limit-project-tokens", "x-ratelimit-limit", "ratelimit", "ratelimit-policy",
			"anthropic-ratelimit-requests-limit", "anthropic-ratelimit-input-tokens-limit", "anthropic-ratelimit-unified-status", "x-bucketring-granted-max-tokens", "x-bucketring-request-id",
		} {
			h.Add(name, "theirs")
			h.Add(name, "theirs, too")
		}
		h.Set("Retry-After", "7")
		h.Set("X-Should-Retry", "true")
		w.WriteHeader(status)
		fmt.Fprint(w, `{"choices":[],"content":[],"usage":{"prompt_tokens":5,"completion_tokens":1,"input_tokens":5,"output_tokens":1}}`)
	})})
	for _, path := range []string{"/v1/chat/completions", "/v1/messages"} {
		for _, status = range []int{http.StatusOK, http.StatusTooManyRequests} {
			answer := s.post(path, hello)
			for name, values := range answer.Header {
				if strings.Contains(strings.Join(values, " "), "theirs") || len(values) != 1 {
					t.Errorf("%s %d: %s = %q, want ours, once, or none", path, status, name, values)
				}
			}
			if answer.Header.Get("Retry-After") != "7" || answer.Header.Get("X-Should-Retry") != "true" || answer.Header.Get("X-Bucketring-Request-Id") == "" || answer.Header.Get("X-Ratelimit-Limit") == "" {
				t.Errorf("%s %d: headers = %v, want the upstream's time to wait, and our limits", path, status, answer.Header)
			}
		}
	}
}

// Whatever the framing of a body is, the upstream gets the metered body once.
func TestFraming(t *testing.T) {
	type call struct {
		body     string
		length   int64
		encoding []string
	}
	got := make(chan call, 100)
	s := start(t, setup{upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- call{string(body), r.ContentLength, r.TransferEncoding}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}`)
	})})
	n := len(hello)
	chunked := fmt.Sprintf("%x;ext=1\r\n%s\r\n0\r\nX-Late: 1\r\nContent-Length: 3\r\n\r\n", n, hello)
	const head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer sk-std\r\n"
	for name, test := range map[string]struct {
		request string
		status  int
	}{
		"plain":            {head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", n, hello), 200},
		"the same twice":   {head + fmt.Sprintf("Content-Length: %d\r\nContent-Length: %d\r\n\r\n%s", n, n, hello), 200},
		"two that differ":  {head + fmt.Sprintf("Content-Length: %d\r\nContent-Length: 2\r\n\r\n%s", n, hello), 400},
		"signed":           {head + fmt.Sprintf("Content-Length: +%d\r\n\r\n%s", n, hello), 400},
		"chunked":          {head + "Transfer-Encoding: chunked\r\nTrailer: X-Late\r\n\r\n" + chunked, 200},
		"chunked, longer":  {head + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n" + chunked, 200},
		"chunked twice":    {head + "Transfer-Encoding: chunked, chunked\r\n\r\n" + chunked, 501},
		"compressed":       {head + "Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked, 501},
		"shorter length":   {head + "Content-Length: 3\r\n\r\n" + hello, 400},
		"HTTP/1.0":         {strings.Replace(head, "HTTP/1.1", "HTTP/1.0", 1) + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", n, hello), 200},
		"HTTP/1.0 chunked": {strings.Replace(head, "HTTP/1.1", "HTTP/1.0", 1) + "Transfer-Encoding: chunked\r\n\r\n" + chunked, 400},
		"asks first":       {head + fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%s", n, hello), 200},
		"HTTP/2":           {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0},
	} {
		conn := s.dial()
		if _, err := io.WriteString(conn, test.request); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		answer, err := http.ReadResponse(r, nil)
		for err == nil && answer.StatusCode == http.StatusContinue {
			answer, err = http.ReadResponse(r, nil)
		}
		switch {
		case test.status == 0 && err == nil && answer.StatusCode < 400, test.status != 0 && err != nil:
			t.Errorf("%s: answer = %v, %v, want %d", name, answer, err, test.status)
		case test.status != 0 && answer.StatusCode != test.status:
			t.Errorf("%s = %d, want %d", name, answer.StatusCode, test.status)
		}
		_ = conn.Close()
		if test.status == http.StatusOK {
			if c := <-got; c.body != hello || c.length != int64(n) || len(c.encoding) > 0 {
				t.Errorf("%s: the upstream got %+v, want %d bytes as they are", name, c, n)
			}
		}
	}
	if len(got) > 0 {
		t.Errorf("the upstream got %d more calls, want none", len(got))
	}
}
