// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// The input is estimated from its 300 bytes, and about 20 more for names.
const leastInput, mostInput = 100, 130

// wantEstimate compares what a call was settled with, whose input was estimated.
func wantEstimate(t testing.TB, c *client.Client, r middleware.Result, source middleware.Source, output int64) {
	t.Helper()
	in, out := r.Charged.InputTokens, r.Charged.OutputTokens
	if r.Source != source || in < leastInput || in > mostInput || out != output || r.Err != nil {
		t.Errorf("charged %d + %d, %s (%v), want %d to %d + %d, %s", in, out, r.Source, r.Err, leastInput, mostInput, output, source)
	}
	wantUsed(t, c, "free", "tokens", in+out)
	wantUsed(t, c, "free", "concurrent", 0)
}

// leave reads some events of a stream that has no end, and leaves.
func leave(t testing.TB, s *site, events int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a := s.call(ctx, t, chat, ask(`,"stream":true`))
	b := bufio.NewReader(a.Body)
	for range events {
		next(t, b)
	}
}

func TestCallerLeavesAndTheModelIsStopped(t *testing.T) {
	_, c := start(t)
	stopped := make(chan error, 1)
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		streaming(event("a"), event("b"), event("c"))(w, r)
		<-r.Context().Done()
		stopped <- context.Cause(r.Context())
	})
	leave(t, s, 3)
	if err := <-stopped; !errors.Is(err, context.Canceled) {
		t.Errorf("the handler's context ended by %v, want context.Canceled", err)
	}
	wantEstimate(t, c, s.result(t), middleware.Partial, 3)
}

// Nobody listens, the model goes on, and all of it is charged.
func TestCallerLeavesAndTheModelFinishes(t *testing.T) {
	_, c := start(t)
	left := make(chan struct{})
	failed := make(chan error, 1)
	s := serve(t, middleware.Options{Client: c, Gone: middleware.Drain}, func(w http.ResponseWriter, r *http.Request) {
		streaming(event("a"))(w, r)
		<-left
		w = &strict{w, failed}
		for range 100 { // more than buffers take
			streaming(event(strings.Repeat("b", 64<<10)))(w, r)
		}
		streaming(usageEvent(40, 900), doneEvent)(w, r)
		if err := r.Context().Err(); err != nil {
			t.Errorf("the handler's context ended by %v, want it to go on", err)
		}
	})
	leave(t, s, 1)
	close(left)
	r := s.result(t)
	wantCharge(t, r, middleware.Reported, 40, 900)
	select {
	case err := <-failed:
		t.Errorf("Write() = %v, want nil", err)
	default:
	}
	wantUsed(t, c, "free", "tokens", 940)
	wantUsed(t, c, "free", "concurrent", 0)
}

// strict reports writes that fail.
type strict struct {
	http.ResponseWriter
	failed chan error
}

func (s *strict) Flush() { s.ResponseWriter.(http.Flusher).Flush() }

func (s *strict) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p)
	if err != nil || n != len(p) {
		select {
		case s.failed <- err:
		default:
		}
	}
	return n, err
}

func TestDrainIsBounded(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c, Gone: middleware.Drain, DrainFor: 10 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		streaming(event("a"))(w, r)
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	})
	leave(t, s, 1)
	wantEstimate(t, c, s.result(t), middleware.Partial, 1)
}

// Who leaves before anything came pays for the input, whatever the handler
// makes of that.
func TestLeavingEarlyIsNotFree(t *testing.T) {
	_, c := start(t)
	arrived := make(chan struct{})
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		w.WriteHeader(http.StatusBadGateway) // as a reverse proxy does
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+chat, strings.NewReader(ask("")))
	if err != nil {
		t.Fatal(err)
	}
	if a, err := http.DefaultClient.Do(q); err == nil {
		_ = a.Body.Close()
		t.Error("Do() = nil, want an error")
	}
	wantEstimate(t, c, s.result(t), middleware.Partial, 0)
}

func TestHandlerPanics(t *testing.T) {
	_, c := start(t)
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		source  middleware.Source
		output  int64
	}{
		"before anything came": {func(http.ResponseWriter, *http.Request) {}, middleware.Partial, 0},
		"in mid-stream":        {streaming(event("a"), event("b")), middleware.Partial, 2},
		"after its end":        {streaming(event("a"), doneEvent), middleware.Estimated, 1},
		"after an error":       {whole(500, `{"error":{"message":"no"}}`), middleware.Cancelled, 0},
	} {
		t.Run(name, func(t *testing.T) {
			before := used(t, c, "free", "tokens")
			done := make(chan middleware.Result, 1)
			m, err := middleware.New(middleware.Options{Client: c, Identify: identify, OnDone: func(r middleware.Result) { done <- r }})
			if err != nil {
				t.Fatal(err)
			}
			for _, reason := range []any{http.ErrAbortHandler, "a bug"} {
				recovered := func() (v any) {
					defer func() { v = recover() }()
					r := httptest.NewRequest(http.MethodPost, chat, strings.NewReader(ask(`,"stream":true`)))
					m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						test.handler(w, r)
						panic(reason)
					})).ServeHTTP(httptest.NewRecorder(), r)
					return nil
				}()
				if recovered != reason {
					t.Errorf("the panic was %v, want %v", recovered, reason)
				}
				r := <-done
				if r.Source != test.source || r.Charged.OutputTokens != test.output || r.Source != middleware.Cancelled && r.Charged.InputTokens < leastInput {
					t.Errorf("OnDone(%+v), want %s with %d of output", r, test.source, test.output)
				}
				before += r.Charged.InputTokens + r.Charged.OutputTokens
				wantUsed(t, c, "free", "tokens", before)
			}
		})
	}
	wantUsed(t, c, "free", "concurrent", 0)
}

func TestCallsThatDidNotRunCostNothing(t *testing.T) {
	n, c := start(t)
	renewed := func() { // a call that has reported progress is no different
		before := n.progress.Load()
		eventually(t, "renewed", func() bool { return n.progress.Load() > before })
	}
	for name, handler := range map[string]http.HandlerFunc{
		"an error":              whole(503, `{"error":{"message":"busy"}}`),
		"a redirect":            whole(307, ``),
		"an error after a time": func(w http.ResponseWriter, r *http.Request) { renewed(); whole(500, `{}`)(w, r) },
		"the handler says so": func(w http.ResponseWriter, r *http.Request) {
			call, _ := middleware.FromContext(r.Context())
			call.NotRun()
			whole(200, completion("cached", usage40))(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, middleware.Options{Client: c, ProgressEvery: 5 * time.Millisecond}, handler)
			s.post(t, chat, ask(""))
			wantCharge(t, s.result(t), middleware.Cancelled, 0, 0)
			for _, limit := range []string{"tokens", "requests", "concurrent"} {
				wantUsed(t, c, "free", limit, 0)
			}
		})
	}
}

func TestNoUsage(t *testing.T) {
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		output  int64
	}{
		"a whole answer":             {whole(200, completion(strings.Repeat("a", 30), "")), 10},
		"a stream":                   {streaming(event("a"), event("b"), doneEvent), 2},
		"several tokens in an event": {streaming(event(strings.Repeat("a", 30)), doneEvent), 10},
		"a null":                     {whole(200, completion(strings.Repeat("a", 30), "null")), 10},
		"half of it":                 {whole(200, completion(strings.Repeat("a", 30), `{"completion_tokens":5}`)), 5},
		"more than was granted":      {whole(200, completion(strings.Repeat("a", 9000), "")), 1000},
		"nothing at all":             {func(http.ResponseWriter, *http.Request) {}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			s := serve(t, middleware.Options{Client: c}, test.handler)
			s.post(t, chat, ask(""))
			r := s.result(t)
			wantEstimate(t, c, r, middleware.Estimated, test.output)
			if r.Lied {
				t.Error("Lied = true, want false")
			}
		})
	}
}

func TestLies(t *testing.T) {
	for _, usage := range []string{
		`{"prompt_tokens":-1,"completion_tokens":5}`,
		`{"prompt_tokens":40,"completion_tokens":-5}`,
		`{"prompt_tokens":9007199254740993,"completion_tokens":5}`,
		`{"prompt_tokens":99999999999999999999999,"completion_tokens":5}`,
		`{"prompt_tokens":9007199254740992,"completion_tokens":9007199254740992}`,
		`{"prompt_tokens":4,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":5}}`,
		`{"prompt_tokens":0,"completion_tokens":0}`,
		`{"prompt_tokens":40,"completion_tokens":0}`,
	} {
		t.Run(usage, func(t *testing.T) {
			_, c := start(t)
			s := serve(t, middleware.Options{Client: c}, whole(200, completion(strings.Repeat("a", 30), usage)))
			s.post(t, chat, ask(""))
			r := s.result(t)
			wantEstimate(t, c, r, middleware.Estimated, 10)
			if !r.Lied {
				t.Error("Lied = false, want true")
			}
		})
	}
}

// What the handler says goes before what the answer says, unless it cannot be true.
func TestSetUsage(t *testing.T) {
	for name, test := range map[string]struct {
		usage         client.Usage
		input, output int64
		lied          bool
	}{
		"all":            {client.Usage{InputTokens: 50, OutputTokens: 9}, 50, 9, false},
		"output":         {client.Usage{OutputTokens: 9}, 40, 9, false},
		"input":          {client.Usage{InputTokens: 50}, 50, 7, false},
		"zero":           {client.Usage{InputTokens: client.Zero, OutputTokens: client.Zero}, 0, 0, false},
		"negative":       {client.Usage{InputTokens: -5, OutputTokens: 9}, 40, 7, true},
		"too large":      {client.Usage{OutputTokens: 1<<53 + 1}, 40, 7, true},
		"sum too large":  {client.Usage{InputTokens: 1 << 53, OutputTokens: 1}, 40, 7, true},
		"too much cache": {client.Usage{InputTokens: 5, CachedInputTokens: 6}, 40, 7, true},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
				call, _ := middleware.FromContext(r.Context())
				call.SetUsage(client.Usage{OutputTokens: 1})
				call.SetUsage(test.usage)
				whole(200, completion("Because.", usage40))(w, r)
			})
			s.post(t, chat, ask(""))
			r := s.result(t)
			wantCharge(t, r, middleware.Reported, test.input, test.output)
			if r.Lied != test.lied {
				t.Errorf("Lied = %v, want %v", r.Lied, test.lied)
			}
			wantUsed(t, c, "free", "tokens", test.input+test.output)
		})
	}
}

// An answer that cannot be read costs a token per byte at most, and no more than
// was granted.
func TestEncodedAnswer(t *testing.T) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, completion(strings.Repeat("Because. ", 100), usage40))
	_ = z.Close()
	size := int64(b.Len())
	for name, test := range map[string]struct {
		members string
		output  int64
	}{
		"few bytes":       {``, size},
		"a smaller grant": {`,"max_tokens":20`, 20},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				_, _ = w.Write(b.Bytes())
			})
			a, text := s.post(t, chat, ask(test.members), "Accept-Encoding", "gzip")
			if text != b.String() || a.Header.Get("Content-Encoding") != "gzip" {
				t.Errorf("the caller got %d bytes, want the %d that were answered", len(text), size)
			}
			wantEstimate(t, c, s.result(t), middleware.Estimated, test.output)
		})
	}
}

// A settlement that no node takes now is made when one is back.
func TestSettleLater(t *testing.T) {
	n, c := start(t)
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		n.fail("Settle")
		whole(200, completion("Because.", usage40))(w, r)
	})
	s.post(t, chat, ask(""))
	r := s.result(t)
	wantCharge(t, r, middleware.Reported, 40, 7)
	if !r.Later {
		t.Errorf("OnDone(%+v), want it settled later", r)
	}
	n.recover()
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantUsed(t, c, "free", "tokens", 47)
	wantUsed(t, c, "free", "concurrent", 0)
}

func TestCancelLater(t *testing.T) {
	n, c := start(t)
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		n.fail("Cancel")
		whole(503, `{}`)(w, r)
	})
	s.post(t, chat, ask(""))
	if r := s.result(t); r.Source != middleware.Cancelled || !r.Later || r.Err != nil {
		t.Errorf("OnDone(%+v), want it cancelled later", r)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantUsed(t, c, "free", "tokens", 0)
	wantUsed(t, c, "free", "concurrent", 0)
}

// A node that refuses a settlement is not asked again; somebody hears of it.
func TestSettleRefused(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		call, _ := middleware.FromContext(r.Context())
		if err := c.Reservation(call.Key(), call.RequestID()).Cancel(r.Context()); err != nil {
			t.Error(err)
		}
		whole(200, completion("Because.", usage40))(w, r)
	})
	s.post(t, chat, ask(""))
	if r := s.result(t); r.Err == nil || r.Later {
		t.Errorf("OnDone(%+v), want an error", r)
	}
}
