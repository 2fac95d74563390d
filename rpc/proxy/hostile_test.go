// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/proxy"
)

const hello = `{"model":"mock-small","messages":[{"role":"user","content":"hello there"}],"max_tokens":50}`

func TestBadRequests(t *testing.T) {
	s := start(t, setup{edit: func(o *proxy.Options) { o.Middleware.MaxBodyBytes = 1 << 16 }})
	for name, test := range map[string]struct {
		body   string
		status int
		param  string
	}{
		"empty":             {"", 400, ""},
		"broken":            {`{"model":"m","messages":[`, 400, ""},
		"no object":         {`[1,2]`, 400, ""},
		"two documents":     {hello + hello, 400, ""},
		"max_tokens text":   {strings.Replace(hello, "50", `"50"`, 1), 400, "max_tokens"},
		"max_tokens real":   {strings.Replace(hello, "50", `1.5`, 1), 400, "max_tokens"},
		"max_tokens huge":   {strings.Replace(hello, "50", `99999999999999999999`, 1), 400, "max_tokens"},
		"max_tokens beyond": {strings.Replace(hello, "50", `9007199254740993`, 1), 400, "max_tokens"},
		"negative n":        {strings.Replace(hello, "50", `50,"n":-1`, 1), 400, "n"},
		"n zero":            {strings.Replace(hello, "50", `50,"n":0`, 1), 400, "n"},
		"product overflows": {strings.Replace(hello, "50", `9007199254740990,"n":1000`, 1), 400, ""},
		"twice":             {strings.Replace(hello, "50", `50,"max_tokens":1`, 1), 400, "max_tokens"},
		"not UTF-8":         {strings.Replace(hello, "hello", "\xff", 1), 400, ""},
		"deep":              {strings.Replace(hello, `"hello there"`, strings.Repeat("[", 9000)+strings.Repeat("]", 9000), 1), 400, ""},
		"too large":         {strings.Replace(hello, "hello", strings.Repeat("x", 1<<16), 1), 413, ""},
	} {
		answer := s.post("/v1/chat/completions", test.body)
		var got struct {
			Error struct{ Message, Type, Param string }
		}
		body := text(t, answer)
		if err := json.Unmarshal([]byte(body), &got); err != nil || answer.StatusCode != test.status || got.Error.Message == "" || test.param != "" && got.Error.Param != test.param {
			t.Errorf("%s: answer = %d %s, want %d with param %q", name, answer.StatusCode, body, test.status, test.param)
		}
	}
	if answer := s.post("/v1/chat/completions", hello, "Content-Encoding", "br"); answer.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("a body in brotli = %d, want 415", answer.StatusCode)
	}
	if answer := s.post("/v1/chat/completions", hello, "Connection", "Upgrade", "Upgrade", "websocket"); answer.StatusCode != http.StatusBadRequest {
		t.Errorf("an upgrade = %d, want 400", answer.StatusCode)
	}
	if n := len(s.mock.Ledger().Entries()); n != 0 {
		t.Errorf("the upstream got %d calls, want none", n)
	}
	s.charged("std", 0)
}

// An endless body takes bounded memory and no slot.
func TestEndlessBody(t *testing.T) {
	s := start(t, setup{edit: func(o *proxy.Options) { o.Middleware.MaxBodyBytes = 1 << 16 }})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(waittest.Limit)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-std\r\nTransfer-Encoding: chunked\r\n\r\n")
	chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<14, strings.Repeat("x", 1<<14))
	written := make(chan int, 1) // bytes that were taken
	go func() {
		n := 0
		for {
			k, err := io.WriteString(conn, chunk)
			if n += k; err != nil || n > 256<<20 {
				written <- n
				return
			}
		}
	}()
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		if answer.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("answer = %d, want 413", answer.StatusCode)
		}
		_ = answer.Body.Close()
	}
	_ = conn.Close()
	if n := <-written; n > 64<<20 {
		t.Errorf("%d bytes were taken, want a bound", n)
	}
	s.charged("std", 0)
}

func TestUpstreamDown(t *testing.T) {
	s := start(t, setup{dead: true})
	for range 3 {
		answer := s.post("/v1/chat/completions", hello)
		if body := text(t, answer); answer.StatusCode != http.StatusBadGateway || !strings.Contains(body, "upstream_unreachable") {
			t.Fatalf("answer = %d %s, want 502 upstream_unreachable", answer.StatusCode, body)
		}
	}
	if r := s.result(3); r.Source != middleware.SourceCancelled {
		t.Errorf("source = %q, want cancelled: it never ran", r.Source)
	}
	s.charged("std", 0)
	if got := strings.Count(s.log.String(), "upstream is down"); got != 1 {
		t.Errorf("logged %d times that the upstream is down, want once", got)
	}
}

// handler reads the body and calls f.
func handler(f func(w http.ResponseWriter, r *http.Request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		f(w, r)
	})
}

func TestUpstreamFailures(t *testing.T) {
	const event = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word \"}}]}\n\n"
	for name, test := range map[string]struct {
		f      func(w http.ResponseWriter, r *http.Request)
		status int // of the response; 0: it is interrupted
		source middleware.Source
		least  int64 // output tokens charged
		most   int64
	}{
		"closes the connection": {
			func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 502, middleware.SourcePartial, 0, 0,
		},
		"is too slow": {
			func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, 504, middleware.SourcePartial, 0, 0,
		},
		"rejects": {
			func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, `{"error":"busy"}`, http.StatusServiceUnavailable)
			}, 503, middleware.SourceCancelled, 0, 0,
		},
		"closes early": {
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for range 5 {
					_, _ = io.WriteString(w, event)
				}
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}, 0, middleware.SourcePartial, 5, 50,
		},
		"answers without usage": {
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for range 7 {
					_, _ = io.WriteString(w, event)
				}
				_, _ = io.WriteString(w, "data: [DONE]\n\n")
			}, 200, middleware.SourceEstimated, 7, 50,
		},
		"never ends a line": {
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, `data: {"choices":[{"delta":{"content":"`)
				for range 64 {
					_, _ = io.WriteString(w, strings.Repeat("x", 64<<10))
				}
			}, 200, middleware.SourceEstimated, 1, 50,
		},
		"usage: negative": {withUsage(`{"prompt_tokens":5,"completion_tokens":-100,"total_tokens":-95}`), 200, middleware.SourceEstimated, 1, 50},
		"usage: overflow": {withUsage(`{"prompt_tokens":5,"completion_tokens":99999999999999999999999}`), 200, middleware.SourceEstimated, 1, 50},
		"usage: beyond":   {withUsage(`{"prompt_tokens":9007199254740993,"completion_tokens":1}`), 200, middleware.SourceEstimated, 1, 50},
		"usage: parts":    {withUsage(`{"prompt_tokens":5,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":50}}`), 200, middleware.SourceEstimated, 1, 50},
		"usage: text":     {withUsage(`{"prompt_tokens":"many","completion_tokens":"10"}`), 200, middleware.SourceEstimated, 10, 50},
		"usage: quoted":   {withUsage(`{"prompt_tokens":"5","completion_tokens":"10"}`), 200, middleware.SourceReported, 10, 10},
		"is compressed": {
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "br")
				_, _ = io.WriteString(w, strings.Repeat("x", 1000))
			}, 200, middleware.SourceEstimated, 50, 50,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t, setup{upstream: handler(test.f), edit: func(o *proxy.Options) {
				if test.status == 504 {
					o.ResponseHeaderTimeout = 50 * time.Millisecond
				}
			}})
			body := strings.Replace(hello, "50", `50,"stream":true`, 1)
			if strings.HasPrefix(name, "usage") {
				body = hello
			}
			answer := s.post("/v1/chat/completions", body)
			_, err := io.Copy(io.Discard, answer.Body)
			if test.status == 0 != (err != nil) || test.status != 0 && answer.StatusCode != test.status {
				t.Errorf("answer = %d, %v, want %d", answer.StatusCode, err, test.status)
			}
			r := s.result(1)
			if r.Source != test.source || r.Charged.OutputTokens < test.least || r.Charged.OutputTokens > test.most {
				t.Errorf("charged %+v (%s), want %s with output from %d to %d", r.Charged, r.Source, test.source, test.least, test.most)
			}
			if test.source != middleware.SourceCancelled && r.Charged.InputTokens < 1 {
				t.Errorf("charged %+v, want input: it is never free", r.Charged)
			}
			s.charged("std", r.Charged.InputTokens+r.Charged.OutputTokens)
		})
	}
}

// withUsage responds with a usage block.
func withUsage(usage string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"choices":[{"index":0,"message":{"role":"assistant","content":"some words of an answer"},"finish_reason":"stop"}],"usage":%s}`, usage)
	}
}

// A disconnect stops the model, and the output so far is charged.
func TestCallerLeaves(t *testing.T) {
	s := start(t, setup{})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v1/chat/completions", strings.NewReader(strings.Replace(hello, "50", `5000,"stream":true`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer sk-single")
	r.Header.Set("X-Mock-Output-Tokens", "5000")
	r.Header.Set("X-Mock-Stall-After", "20")
	r.Header.Set("X-Mock-Stall", "forever")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for n := 0; n < 20 && lines.Scan(); {
		if strings.Contains(lines.Text(), `"content"`) {
			n++
		}
	}
	leave()
	e, got := s.entry(1), s.result(1)
	if e.Outcome != mockllm.Disconnected || got.Source != middleware.SourcePartial || got.Charged.OutputTokens < e.Generated || got.Charged.OutputTokens > 2*e.Generated+50 {
		t.Errorf("upstream %s after %d tokens, charged %+v (%s), want a disconnect and about that charge", e.Outcome, e.Generated, got.Charged, got.Source)
	}
	s.charged("single", got.Charged.InputTokens+got.Charged.OutputTokens) // also waits for the slot
}

// A caller that does not read counts as disconnected.
func TestStalledCallerIsDisconnected(t *testing.T) {
	s := start(t, setup{
		edit: func(o *proxy.Options) { o.StallTimeout = 200 * time.Millisecond },
		upstream: handler(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			line := "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" + strings.Repeat("x", 16<<10) + "\"}}]}\n\n"
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, line); err != nil {
					return
				}
			}
		}),
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := strings.Replace(hello, "50", `5000,"stream":true`, 1)
	fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-single\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	if r := s.result(1); r.Source != middleware.SourcePartial || r.Charged.OutputTokens == 0 {
		t.Errorf("charged %+v (%s), want what came until then", r.Charged, r.Source)
	}
}

func TestDrainChargesAll(t *testing.T) {
	s := start(t, setup{edit: func(o *proxy.Options) { o.Middleware.OnDisconnect = middleware.Drain }})
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v1/chat/completions", strings.NewReader(strings.Replace(hello, "50", `500,"stream":true`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer sk-std")
	r.Header.Set("X-Mock-Output-Tokens", "200")
	r.Header.Set("X-Mock-Stall-After", "100")
	r.Header.Set("X-Mock-Stall", "300ms")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(answer.Body, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	leave()
	_ = answer.Body.Close()
	if e := s.entry(1); e.Outcome != "finished" || e.Generated != 200 {
		t.Errorf("upstream %s with %d tokens, want finished with 200", e.Outcome, e.Generated)
	}
	s.settled("std", 1)
}

func TestShutdownFinishesAndBreaksOff(t *testing.T) {
	for _, mode := range []middleware.DisconnectMode{middleware.ChargeStreamed, middleware.Drain} {
		s := start(t, setup{edit: func(o *proxy.Options) { o.Middleware.OnDisconnect = mode }})
		body := strings.Replace(hello, "50", `5000,"stream":true`, 1)
		forever := s.post("/v1/chat/completions", body, "X-Mock-Output-Tokens", "5000", "X-Mock-Stall-After", "20", "X-Mock-Stall", "forever")
		short := s.post("/v1/chat/completions", body, "X-Mock-Output-Tokens", "40", "X-Mock-Stall-After", "20", "X-Mock-Stall", "200ms")
		for _, a := range []*http.Response{forever, short} {
			if _, err := io.ReadFull(a.Body, make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, enough := context.WithTimeout(context.Background(), waittest.Limit) // until the short call has ended
		done := make(chan error, 1)                                              // result of reading the short response
		go func() {
			defer enough()
			rest, err := io.ReadAll(short.Body)
			if err == nil && !strings.Contains(string(rest), "[DONE]") {
				err = fmt.Errorf("the answer ends with %q", rest[max(0, len(rest)-40):])
			}
			done <- err
		}()
		s.shutdown(ctx)
		if err := <-done; err != nil {
			t.Errorf("%v: the short call: %v", mode, err)
		}
		if _, err := io.Copy(io.Discard, forever.Body); err == nil {
			t.Errorf("%v: the interrupted call ended without an error", mode)
		}
		s.results.Lock()
		sources := map[middleware.Source]int{}
		var sum int64
		for _, r := range s.results.list {
			sources[r.Source]++
			sum += r.Charged.InputTokens + r.Charged.OutputTokens
		}
		s.results.Unlock()
		if sources[middleware.SourceReported] != 1 || sources[middleware.SourcePartial] != 1 {
			t.Errorf("%v: sources = %v when Shutdown returned, want one reported and one partial", mode, sources)
		}
		s.charged("std", sum)
	}
}

// An upstream with an invalid certificate gets no request.
func TestUpstreamTLSFails(t *testing.T) {
	secure := httptest.NewUnstartedServer(handler(func(http.ResponseWriter, *http.Request) { t.Error("the upstream got a request") }))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	s := start(t, setup{edit: func(o *proxy.Options) { o.Upstream = mustURL(t, secure.URL) }})
	answer := s.post("/v1/messages", hello)
	if body := text(t, answer); answer.StatusCode != http.StatusBadGateway || !strings.Contains(body, `"type":"error"`) {
		t.Errorf("answer = %d %s, want a 502 in Anthropic's form", answer.StatusCode, body)
	}
	if r := s.result(1); r.Source != middleware.SourceCancelled {
		t.Errorf("source = %q, want cancelled: it never ran", r.Source)
	}
	s.charged("std", 0)
}

// Informational responses are not metered.
func TestInformationalStatus(t *testing.T) {
	s := start(t, setup{upstream: handler(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		withUsage(`{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11}`)(w, r)
	})})
	if answer := s.post("/v1/chat/completions", hello); answer.StatusCode != http.StatusOK || !strings.Contains(text(t, answer), "some words") {
		t.Errorf("answer = %d, want 200 and the text", answer.StatusCode)
	}
	if r := s.result(1); r.Source != middleware.SourceReported || r.Charged.InputTokens != 5 || r.Charged.OutputTokens != 6 {
		t.Errorf("charged %+v (%s), want 5 and 6, reported", r.Charged, r.Source)
	}
}

// While no node answers, nothing runs.
func TestNoNodeNothingRuns(t *testing.T) {
	unreachable, err := client.Dial(client.Options{Addrs: []string{"127.0.0.1:1"}, Timeout: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unreachable.Close() })
	s := start(t, setup{edit: func(o *proxy.Options) { o.Middleware.Client = unreachable }})
	answer := s.post("/v1/chat/completions", hello)
	if body := text(t, answer); answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" {
		t.Errorf("answer = %d %s, want 503 with Retry-After", answer.StatusCode, body)
	}
	if n := len(s.mock.Ledger().Entries()); n != 0 {
		t.Errorf("the upstream got %d calls, want none", n)
	}
}
