// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

const usage40 = `{"prompt_tokens":40,"completion_tokens":7,"total_tokens":47,"prompt_tokens_details":{"cached_tokens":30}}`

func TestWholeAnswer(t *testing.T) {
	_, c := start(t)
	var held int64
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		held = used(t, c, "free", "tokens")
		call, ok := middleware.FromContext(r.Context())
		if !ok || call.Granted() != 500 || call.RequestID() == "" || call.Key() != "acme/alice" || call.Decision().Tier != "free" {
			t.Errorf("FromContext() = %+v, %v, want a grant of 500 to acme/alice", call, ok)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != ask(`,"max_tokens":500`) || r.ContentLength != int64(len(body)) {
			t.Errorf("the handler got %q, %d, %v, want what was sent", body, r.ContentLength, err)
		}
		whole(200, completion("Because.", usage40))(w, r)
	})
	a, text := s.post(t, chat, ask(`,"max_tokens":500`), "X-Request-Id", "mine")
	if text != completion("Because.", usage40) || a.StatusCode != 200 {
		t.Errorf("the caller got %d %q, want what was answered", a.StatusCode, text)
	}
	if held < 600 || held > 800 {
		t.Errorf("%d tokens were held, want 500 and about 100 for 300 bytes", held)
	}
	r := s.result(t)
	wantCharge(t, r, middleware.SourceReported, 40, 7)
	if r.Charged.CachedInputTokens != 30 || r.Outcome != client.Allowed || r.Model != "m" || r.Status != 200 || r.RequestedOutputTokens != 500 || r.Tier != "free" || r.Method != "chat_completions" {
		t.Errorf("OnDone(%+v)", r)
	}
	if id := a.Header.Get("X-Bucketring-Request-Id"); id != r.RequestID || id == "mine" {
		t.Errorf("the answer names request id %q, want %q, which is ours", id, r.RequestID)
	}
	if a.Header.Get("X-Ratelimit-Limit") == "" {
		t.Errorf("headers = %v, want those of the limits", a.Header)
	}
	wantUsed(t, c, "free", "tokens", 47)
	wantUsed(t, c, "free", "concurrent", 0)
	wantUsed(t, c, "free", "requests", 1)
}

// Each event arrives before the next one is written. The usage chunk that only the
// middleware asked for is removed.
func TestStream(t *testing.T) {
	_, c := start(t)
	step := make(chan struct{}) // the caller has read the event before
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			MaxTokens     *int64 `json:"max_completion_tokens"`
			StreamOptions struct {
				IncludeUsage bool `json:"include_usage"`
			} `json:"stream_options"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || !q.StreamOptions.IncludeUsage || q.MaxTokens != nil {
			t.Errorf("the handler got %+v, %v, want usage included and no bound", q, err)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for _, e := range []string{event("Be"), event("cause"), usageEvent(40, 2), doneEvent} {
			_, _ = io.WriteString(w, e)
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Errorf("Flush() = %v", err)
			}
			if !strings.Contains(e, "usage") {
				<-step
			}
		}
	})
	a := s.call(t.Context(), t, chat, ask(`,"stream":true`))
	b := bufio.NewReader(a.Body)
	for _, want := range []string{event("Be"), event("cause"), doneEvent} {
		if got := next(t, b); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		step <- struct{}{}
	}
	if rest, err := io.ReadAll(b); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	r := s.result(t)
	wantCharge(t, r, middleware.SourceReported, 40, 2)
	if r.RequestedOutputTokens != 0 || r.GrantedOutputTokens != 1000 {
		t.Errorf("asked %d, granted %d, want 0 and the policy's 1000", r.RequestedOutputTokens, r.GrantedOutputTokens)
	}
	wantUsed(t, c, "free", "tokens", 42)
	wantUsed(t, c, "free", "concurrent", 0)
}

func TestAnthropicStream(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c}, streaming(
		"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\"cache_read_input_tokens\":30,\"output_tokens\":1}}}\n\n",
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Because\"}}\n\n",
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":5}}\n\n",
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
	))
	a, _ := s.post(t, messages, ask(`,"max_tokens":100,"stream":true`))
	wantCharge(t, s.result(t), middleware.SourceReported, 40, 5)
	if a.StatusCode != 200 {
		t.Errorf("status %d", a.StatusCode)
	}
	wantUsed(t, c, "free", "tokens", 45)
}

func TestEmbeddings(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c}, whole(200, `{"object":"list","data":[],"usage":{"prompt_tokens":9,"total_tokens":9}}`))
	s.post(t, "/v1/embeddings", `{"model":"m","input":["why","is the sky blue"]}`)
	wantCharge(t, s.result(t), middleware.SourceReported, 9, 0)
	wantUsed(t, c, "free", "tokens", 9)
}

func TestDegraded(t *testing.T) {
	_, c := start(t)
	bodies := make(chan string, 10)
	s := serve(t, middleware.Options{Client: c, Identify: identifyAs("soft")}, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- string(body)
		whole(200, completion("Because.", `{"prompt_tokens":100,"completion_tokens":50}`))(w, r)
	})
	const tools = `,"tools":[{"type":"function","function":{"name":"f"}}]`
	for _, test := range []struct {
		name, members string
		header        []string
		status        int
	}{
		{"more than there is", `,"max_tokens":4000`, nil, 200},
		{"a floor below", `,"max_tokens":4000`, []string{"X-Bucketring-Min-Output-Tokens", "700"}, 200},
		{"a floor above", `,"max_tokens":4000`, []string{"X-Bucketring-Min-Output-Tokens", "1999"}, 429},
		{"forbidden", `,"max_tokens":4000`, []string{"X-Bucketring-Min-Output-Tokens", "forbid"}, 429},
		{"tools", `,"max_tokens":4000` + tools, nil, 429},
		{"tools, and the caller allows it", `,"max_tokens":4000` + tools, []string{"X-Bucketring-Min-Output-Tokens", "256"}, 200},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, text := s.post(t, chat, ask(test.members), test.header...)
			r := s.result(t)
			if a.StatusCode != test.status || r.Status != test.status {
				t.Fatalf("status %d, %d to OnDone, want %d: %s", a.StatusCode, r.Status, test.status, text)
			}
			wantUsed(t, c, "soft", "concurrent", 0)
			if test.status != 200 {
				if r.Outcome != client.Denied || r.Source != middleware.SourceNone {
					t.Errorf("OnDone(%+v), want a denial", r)
				}
				return
			}
			if r.Outcome != client.Degraded || r.GrantedOutputTokens <= 256 || r.GrantedOutputTokens >= 2000 || r.GrantedOutputTokens%16 != 0 {
				t.Errorf("OnDone(%+v), want a smaller grant", r)
			}
			var q struct {
				MaxTokens int64 `json:"max_tokens"`
			}
			if err := json.Unmarshal([]byte(<-bodies), &q); err != nil || q.MaxTokens != r.GrantedOutputTokens {
				t.Errorf("the handler got max_tokens %d, %v, want %d", q.MaxTokens, err, r.GrantedOutputTokens)
			}
			for name, want := range map[string]string{
				"X-Bucketring-Granted-Max-Tokens": jsonOf(r.GrantedOutputTokens), "X-Bucketring-Asked-Max-Tokens": "4000", "X-Bucketring-Binding-Limit": "tokens",
			} {
				if got := a.Header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
			wantCharge(t, r, middleware.SourceReported, 100, 50)
		})
	}
}

func jsonOf(n int64) string {
	text, _ := json.Marshal(n)
	return string(text)
}

// Structured output is not degraded, also if the policy chooses the bound.
func TestStructuredOutputIsNotDegraded(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c, Identify: identifyAs("soft")}, whole(200, completion("Because.", usage40)))
	r, err := c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", Tier: "soft", InputTokens: 1300, MaxOutputTokens: new(int64(0))})
	if err != nil || r.Denied() {
		t.Fatalf("Reserve() = %v", err)
	}
	if a, _ := s.post(t, chat, ask(``)); a.StatusCode != 200 || s.result(t).Outcome != client.Degraded {
		t.Errorf("status %d, want a degraded answer", a.StatusCode)
	}
	if a, _ := s.post(t, chat, ask(`,"response_format":{"type":"json_schema","json_schema":{"name":"s","schema":{}}}`)); a.StatusCode != 429 {
		t.Errorf("status %d, want 429", a.StatusCode)
	}
}

func TestDenied(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c}, func(http.ResponseWriter, *http.Request) {
		t.Error("a denied call reached the handler")
	})
	for path, want := range map[string]string{chat: `"rate_limit`, messages: `rate_limit`} {
		a, text := s.post(t, path, ask(`,"max_tokens":20000`))
		if a.StatusCode != 429 || !strings.Contains(text, want) {
			t.Errorf("POST %s = %d %s, want a 429", path, a.StatusCode, text)
		}
		if r := s.result(t); r.Outcome != client.Denied || r.Reason != client.ExceedsCapacity || r.Source != middleware.SourceNone {
			t.Errorf("OnDone(%+v), want denied, exceeds_capacity", r)
		}
	}
	for _, name := range []string{"tokens", "requests", "concurrent"} {
		wantUsed(t, c, "free", name, 0)
	}
}

func TestManyCallsAtOnce(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c, Identify: identifyAs("big"), ProgressInterval: time.Millisecond},
		streaming(event("Be"), event("cause"), usageEvent(40, 2), doneEvent))
	const calls = 100
	var wg sync.WaitGroup
	for range calls {
		wg.Go(func() {
			if a, text := s.post(t, chat, ask(`,"stream":true`)); a.StatusCode != 200 || text != event("Be")+event("cause")+doneEvent {
				t.Errorf("got %d %q", a.StatusCode, text)
			}
		})
	}
	wg.Wait()
	for range calls {
		wantCharge(t, s.result(t), middleware.SourceReported, 40, 2)
	}
	wantUsed(t, c, "big", "tokens", calls*42)
	wantUsed(t, c, "big", "requests", calls)
	wantUsed(t, c, "big", "concurrent", 0)
}

// A call without output keeps its slot as long as it runs.
func TestSilentCallKeepsItsSlot(t *testing.T) {
	n, c := start(t)
	end := make(chan struct{})
	s := serve(t, middleware.Options{Client: c, ProgressInterval: 5 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		<-end
		whole(200, completion("Because.", usage40))(w, r)
	})
	go func() {
		for range 20 { // of 30 seconds that a lease lasts
			before := n.progress.Load()
			waittest.Until(t, "renewed", func() bool { return n.progress.Load() > before+1 })
			if got := used(t, c, "free", "concurrent"); got != 1 {
				t.Errorf("%d slots are held, want 1", got)
			}
			n.advance(29 * time.Second)
		}
		close(end)
	}()
	s.post(t, chat, ask(""))
	wantCharge(t, s.result(t), middleware.SourceReported, 40, 7)
	wantUsed(t, c, "free", "concurrent", 0)
}

// Progress reports the output so far, which is charged if the process dies.
func TestProgressOfAStream(t *testing.T) {
	n, c := start(t)
	end := make(chan struct{})
	s := serve(t, middleware.Options{Client: c, ProgressInterval: 5 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		streaming(event("a"), event("b"), event("c"))(w, r)
		<-end
	})
	a := s.call(t.Context(), t, chat, ask(`,"stream":true`))
	b := bufio.NewReader(a.Body)
	for range 3 {
		next(t, b)
	}
	waittest.Until(t, "progress of 3 tokens", func() bool { return n.output.Load() == 3 })
	wantUsed(t, c, "free", "concurrent", 1)
	close(end)
	_, _ = io.Copy(io.Discard, b)
	if r := s.result(t); r.Source != middleware.SourceEstimated || r.Err != nil {
		t.Errorf("OnDone(%+v), want estimated", r)
	}
	wantUsed(t, c, "free", "concurrent", 0)
}

func TestOtherRequestsAreUnchanged(t *testing.T) {
	s := serve(t, middleware.Options{Client: failingLimiter{}, Identify: func(*http.Request) (middleware.Identity, error) {
		t.Error("a request that is not metered was to be identified")
		return middleware.Identity{}, nil
	}}, func(w http.ResponseWriter, r *http.Request) {
		if _, ok := middleware.FromContext(r.Context()); ok {
			t.Error("a request that is not metered has a call")
		}
		_, _ = io.Copy(w, r.Body)
	})
	for _, path := range []string{"/", "/v1/models", "/v1/responses/resp_1/cancel", "/v1/messages/count_tokens"} {
		if a, text := s.post(t, path, "anything"); text != "anything" || a.StatusCode != 200 {
			t.Errorf("POST %s = %d %q, want it back", path, a.StatusCode, text)
		}
	}
	q, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, s.URL+chat, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil || a.StatusCode != 200 {
		t.Fatalf("GET %s = %v, %v, want 200", chat, a, err)
	}
	_ = a.Body.Close()
}

// BenchmarkCall measures a call that is reserved and settled at a node over loopback.
func BenchmarkCall(b *testing.B) {
	n, c := start(b)
	m, err := middleware.New(middleware.Options{Client: c, Identify: identifyAs("big")})
	if err != nil {
		b.Fatal(err)
	}
	model := whole(200, completion("Because.", `{"prompt_tokens":1,"completion_tokens":1}`))
	for name, handler := range map[string]http.Handler{"metered": m.Handler(model), "bare": model} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				n.advance(time.Second) // no limit is reached
				r, w := httptest.NewRequest(http.MethodPost, chat, strings.NewReader(ask(`,"max_tokens":1`))), httptest.NewRecorder()
				if handler.ServeHTTP(w, r); w.Code != 200 {
					b.Fatalf("status %d", w.Code)
				}
			}
		})
	}
}
