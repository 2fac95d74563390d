// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"

	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/proxy"
)

// The upstream is reached through the egress proxy of the environment.
func TestEgressProxy(t *testing.T) {
	var got atomic.Pointer[string]
	egress := httptest.NewServer(handler(func(w http.ResponseWriter, r *http.Request) {
		target := r.RequestURI
		got.Store(&target)
		withUsage(`{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11}`)(w, r)
	}))
	defer egress.Close()
	t.Setenv("HTTP_PROXY", egress.URL)
	for excluded, want := range map[string]int{"": http.StatusOK, "model.invalid": http.StatusBadGateway} {
		t.Setenv("NO_PROXY", excluded)
		got.Store(nil)
		s := start(t, setup{edit: func(o *proxy.Options) { o.Upstream = mustURL(t, "http://model.invalid:8000/base") }})
		answer := s.post("/v1/chat/completions", hello)
		reached := got.Load()
		if answer.StatusCode != want || (reached != nil) != (want == http.StatusOK) || reached != nil && *reached != "http://model.invalid:8000/base/v1/chat/completions" {
			t.Errorf("NO_PROXY=%q: answer = %d, and the egress proxy got %v, want %d", excluded, answer.StatusCode, reached, want)
		}
		s.result(1)
	}
}

// http2Client speaks HTTP/2 without TLS from the first byte.
func http2Client(t *testing.T) *http.Client {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Callers may speak HTTP/2 without TLS. Calls are metered and denied as those of
// HTTP/1.1, and end at shutdown.
func TestHTTP2WithoutTLS(t *testing.T) {
	s := start(t, setup{})
	c := http2Client(t)
	send := func(method, path, body string, headers ...string) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		answer, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = answer.Body.Close() })
		if answer.ProtoMajor != 2 {
			t.Errorf("%s %s was answered with %s, want HTTP/2", method, path, answer.Proto)
		}
		return answer
	}
	streaming := strings.Replace(hello, "50", `50,"stream":true`, 1)
	for _, test := range []struct {
		path, caller, body string
		want               int
	}{
		{"/v1/chat/completions", "std", hello, http.StatusOK},
		{"/v1/chat/completions", "std", streaming, http.StatusOK},
		{"/v1/chat/completions", "poor", hello, http.StatusTooManyRequests},
		{"/v1/chat/completions", "none", hello, http.StatusUnauthorized},
		{"/v1/CHAT/completions", "std", hello, http.StatusForbidden},
		{"/v1/chat/completions%3Fx", "std", hello, http.StatusForbidden},
		{"/v1/rerank", "std", "{}", http.StatusForbidden},
	} {
		answer := send(http.MethodPost, test.path, test.body, "Authorization", "Bearer sk-"+test.caller)
		if body := text(t, answer); answer.StatusCode != test.want || test.body == streaming && !strings.Contains(body, "[DONE]") {
			t.Errorf("%s by %s = %d %.200s, want %d", test.path, test.caller, answer.StatusCode, body, test.want)
		}
	}
	s.settled("std", 2)

	forever := send(http.MethodPost, "/v1/chat/completions", strings.Replace(hello, "50", `5000,"stream":true`, 1), "Authorization", "Bearer sk-single",
		"X-Mock-Output-Tokens", "5000", "X-Mock-Stall-After", "20", "X-Mock-Stall", "forever")
	if _, err := io.ReadFull(forever.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.shutdown(ctx)
	s.results.Lock()
	last := s.results.list[len(s.results.list)-1]
	s.results.Unlock()
	if last.Source != middleware.SourcePartial {
		t.Errorf("the interrupted call is charged %+v (%s), want what it used", last.Charged, last.Source)
	}
	s.charged("single", last.Charged.InputTokens+last.Charged.OutputTokens)
}

// A caller that disconnects by a reset of its HTTP/2 stream stops the model.
func TestHTTP2CallerLeaves(t *testing.T) {
	s := start(t, setup{})
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v1/chat/completions", strings.NewReader(strings.Replace(hello, "50", `5000,"stream":true`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"Authorization": "Bearer sk-single", "X-Mock-Output-Tokens": "5000", "X-Mock-Stall-After": "20", "X-Mock-Stall": "forever"} {
		r.Header.Set(name, value)
	}
	answer, err := http2Client(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.ReadFull(answer.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	leave()
	if got := s.result(1); got.Source != middleware.SourcePartial {
		t.Errorf("charged %+v (%s), want the output so far", got.Charged, got.Source)
	}
}

// One connection of HTTP/2 has a bounded number of calls.
func TestHTTP2StreamsAreBounded(t *testing.T) {
	s := start(t, setup{})
	conn := s.dial()
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	frame, err := framer.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	settings, ok := frame.(*http2.SettingsFrame)
	if !ok {
		t.Fatalf("the first frame is %v, want settings", frame)
	}
	if n, ok := settings.Value(http2.SettingMaxConcurrentStreams); !ok || n != 100 {
		t.Errorf("at most %d streams (%v), want 100", n, ok)
	}
}
