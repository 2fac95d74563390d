// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// A site is a server with a metered handler, and the results of its calls.
type site struct {
	*httptest.Server
	done chan middleware.Result // buffers all calls of a test; never closed
}

func identify(*http.Request) (middleware.Identity, error) {
	return middleware.Identity{Key: "acme/alice", Tier: "free"}, nil
}

func identifyAs(tier string) func(*http.Request) (middleware.Identity, error) {
	return func(*http.Request) (middleware.Identity, error) {
		return middleware.Identity{Key: "acme/alice", Tier: tier}, nil
	}
}

func serve(t testing.TB, o middleware.Options, next http.HandlerFunc) *site {
	t.Helper()
	s := &site{done: make(chan middleware.Result, 1000)}
	if o.Identify == nil {
		o.Identify = identify
	}
	o.OnDone = func(r middleware.Result) { s.done <- r }
	m, err := middleware.New(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(m.Handler(next))
	t.Cleanup(s.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return s
}

// result waits for the end of a call.
func (s *site) result(t testing.TB) middleware.Result {
	t.Helper()
	select {
	case r := <-s.done:
		return r
	case <-time.After(20 * time.Second):
		t.Fatal("after 20s: the call has not ended")
		return middleware.Result{}
	}
}

// call sends a request to a path. Headers come in pairs.
func (s *site) call(ctx context.Context, t testing.TB, path, body string, headers ...string) *http.Response {
	t.Helper()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		q.Header.Set(headers[i], headers[i+1])
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Body.Close() })
	return a
}

// post sends a request and returns the whole answer.
func (s *site) post(t testing.TB, path, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	a := s.call(t.Context(), t, path, body, headers...)
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a, string(text)
}

const (
	chat     = "/v1/chat/completions"
	messages = "/v1/messages"
)

// ask is a chat request with 300 bytes of text and the members given.
func ask(members string) string {
	return fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":"%s"}]%s}`, strings.Repeat("a", 300), members)
}

// An event of a stream of chat completions.
func event(text string) string {
	return fmt.Sprintf("data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", text)
}

func usageEvent(input, output int64) string {
	return fmt.Sprintf("data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n", input, output, input+output)
}

const doneEvent = "data: [DONE]\n\n"

// completion is a complete response. usage is a JSON value or empty.
func completion(text, usage string) string {
	if usage != "" {
		usage = `,"usage":` + usage
	}
	return fmt.Sprintf(`{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":%q},"finish_reason":"stop"}]%s}`, text, usage)
}

// whole returns a handler with a fixed response.
func whole(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// streaming returns a handler that sends events and flushes each.
func streaming(events ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range events {
			_, _ = io.WriteString(w, e)
			w.(http.Flusher).Flush()
		}
	}
}

// next reads one event.
func next(t testing.TB, b *bufio.Reader) string {
	t.Helper()
	var all strings.Builder
	for {
		line, err := b.ReadString('\n')
		all.WriteString(line)
		if err != nil {
			t.Fatalf("the stream ended after %q: %v", all.String(), err)
		}
		if line == "\n" {
			return all.String()
		}
	}
}

// wantCharge checks the charge of a call.
func wantCharge(t testing.TB, r middleware.Result, source middleware.Source, input, output int64) {
	t.Helper()
	if r.Source != source || r.Charged.InputTokens != input || r.Charged.OutputTokens != output || r.Err != nil {
		t.Errorf("charged %d + %d, %s (%v), want %d + %d, %s", r.Charged.InputTokens, r.Charged.OutputTokens, r.Source, r.Err, input, output, source)
	}
}
