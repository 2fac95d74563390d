// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// The input is estimated from its 300 bytes, and about 20 more for names.
const leastInput, mostInput = 100, 130

// wantEstimate checks the charge of a call whose input was estimated.
func wantEstimate(t testing.TB, c *client.Client, r middleware.Result, source middleware.Source, output int64) {
	t.Helper()
	in, out := r.Charged.InputTokens, r.Charged.OutputTokens
	if r.Source != source || in < leastInput || in > mostInput || out != output || r.Err != nil {
		t.Errorf("charged %d + %d, %s (%v), want %d to %d + %d, %s", in, out, r.Source, r.Err, leastInput, mostInput, output, source)
	}
	wantUsed(t, c, "free", "tokens", in+out)
	wantUsed(t, c, "free", "concurrent", 0)
}

// leave reads some events of an endless stream and disconnects.
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

func TestDisconnectStopsModel(t *testing.T) {
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
	wantEstimate(t, c, s.result(t), middleware.SourcePartial, 3)
}

// With Drain, the model finishes after the caller has disconnected, and all of its
// output is charged.
func TestDisconnectDrains(t *testing.T) {
	_, c := start(t)
	left := make(chan struct{})
	failed := make(chan error, 1)
	s := serve(t, middleware.Options{Client: c, OnDisconnect: middleware.Drain}, func(w http.ResponseWriter, r *http.Request) {
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
	wantCharge(t, r, middleware.SourceReported, 40, 900)
	select {
	case err := <-failed:
		t.Errorf("Write() = %v, want nil", err)
	default:
	}
	wantUsed(t, c, "free", "tokens", 940)
	wantUsed(t, c, "free", "concurrent", 0)
}

// strict reports failed writes.
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
	s := serve(t, middleware.Options{Client: c, OnDisconnect: middleware.Drain, DrainTimeout: 10 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		streaming(event("a"))(w, r)
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	})
	leave(t, s, 1)
	wantEstimate(t, c, s.result(t), middleware.SourcePartial, 1)
}

// A caller that disconnects before any output is charged the input, whatever
// status the handler sends.
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
	wantEstimate(t, c, s.result(t), middleware.SourcePartial, 0)
}

func TestHandlerPanics(t *testing.T) {
	_, c := start(t)
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		source  middleware.Source
		output  int64
	}{
		"before anything came": {func(http.ResponseWriter, *http.Request) {}, middleware.SourcePartial, 0},
		"in mid-stream":        {streaming(event("a"), event("b")), middleware.SourcePartial, 2},
		"after its end":        {streaming(event("a"), doneEvent), middleware.SourceEstimated, 1},
		"after an error":       {whole(500, `{"error":{"message":"no"}}`), middleware.SourceCancelled, 0},
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
				if r.Source != test.source || r.Charged.OutputTokens != test.output || r.Source != middleware.SourceCancelled && r.Charged.InputTokens < leastInput {
					t.Errorf("OnDone(%+v), want %s with %d of output", r, test.source, test.output)
				}
				before += r.Charged.InputTokens + r.Charged.OutputTokens
				wantUsed(t, c, "free", "tokens", before)
			}
		})
	}
	wantUsed(t, c, "free", "concurrent", 0)
}

func TestCallsNotRunAreRefunded(t *testing.T) {
	n, c := start(t)
	renewed := func() { // progress must not prevent the refund
		before := n.progress.Load()
		waittest.Until(t, "renewed", func() bool { return n.progress.Load() > before })
	}
	for name, handler := range map[string]http.HandlerFunc{
		"an error":              whole(503, `{"error":{"message":"busy"}}`),
		"an error after a time": func(w http.ResponseWriter, r *http.Request) { renewed(); whole(500, `{}`)(w, r) },
		"MarkNotRun": func(w http.ResponseWriter, r *http.Request) {
			call, _ := middleware.FromContext(r.Context())
			call.MarkNotRun()
			whole(200, completion("cached", usage40))(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, middleware.Options{Client: c, ProgressInterval: 5 * time.Millisecond}, handler)
			s.post(t, chat, ask(""))
			wantCharge(t, s.result(t), middleware.SourceCancelled, 0, 0)
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
		members string // of the request
	}{
		"a whole answer":             {whole(200, completion(strings.Repeat("a", 30), "")), 10, ""},
		"a stream":                   {streaming(event("a"), event("b"), doneEvent), 2, ""},
		"several tokens in an event": {streaming(event(strings.Repeat("a", 30)), doneEvent), 10, ""},
		"a null":                     {whole(200, completion(strings.Repeat("a", 30), "null")), 10, ""},
		"output only":                {whole(200, completion(strings.Repeat("a", 30), `{"completion_tokens":5}`)), 5, ""},
		"more than the bound":        {whole(200, completion(strings.Repeat("a", 9000), "")), 1000, `,"max_tokens":1000`},
		"more than was reserved":     {whole(200, completion(strings.Repeat("a", 9000), "")), 3000, ""},
		"an empty response":          {func(http.ResponseWriter, *http.Request) {}, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			s := serve(t, middleware.Options{Client: c}, test.handler)
			s.post(t, chat, ask(test.members))
			r := s.result(t)
			wantEstimate(t, c, r, middleware.SourceEstimated, test.output)
			if r.UsageRejected {
				t.Error("UsageRejected = true, want false")
			}
		})
	}
}

// A server that generates in spite of max_tokens 0, and reports no usage, is not free.
func TestTextInSpiteOfABound(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c}, whole(200, `{"choices":[{"index":0,"text":"`+strings.Repeat("a", 30)+`","finish_reason":"stop"}]}`))
	s.post(t, "/v1/completions", `{"model":"m","prompt":"Why?","max_tokens":0}`)
	if r := s.result(t); r.Charged.OutputTokens != 10 || r.Source != middleware.SourceEstimated {
		t.Errorf("charged %+v, %s, want 10 tokens of output, estimated", r.Charged, r.Source)
	}
}

func TestImplausibleUsage(t *testing.T) {
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
			wantEstimate(t, c, r, middleware.SourceEstimated, 10)
			if !r.UsageRejected {
				t.Error("UsageRejected = false, want true")
			}
		})
	}
}

// TestRejectedUsageIsNoDiscount: a call whose usage was rejected is charged for the larger
// of the estimate and what the usage claims, if that can be true.
func TestRejectedUsageIsNoDiscount(t *testing.T) {
	for _, test := range []struct {
		usage         string
		input, output int64 // least and exact
	}{
		{`{"prompt_tokens":400,"completion_tokens":-5}`, 400, 10},
		{`{"prompt_tokens":-1,"completion_tokens":500}`, 0, 500},
		{`{"prompt_tokens":400,"completion_tokens":500,"prompt_tokens_details":{"cached_tokens":401}}`, 400, 500},
		{`{"prompt_tokens":0,"completion_tokens":500}`, 0, 500},
		{`{"prompt_tokens":-1,"completion_tokens":1001}`, 0, 10}, // beyond the grant
	} {
		t.Run(test.usage, func(t *testing.T) {
			_, c := start(t)
			s := serve(t, middleware.Options{Client: c}, whole(200, completion(strings.Repeat("a", 30), test.usage)))
			s.post(t, chat, ask(""))
			r := s.result(t)
			if r.Source != middleware.SourceEstimated || !r.UsageRejected || r.Charged.OutputTokens != test.output ||
				r.Charged.InputTokens < test.input || test.input > 0 && r.Charged.InputTokens != test.input || r.Charged.InputTokens == 0 || r.Charged.CachedInputTokens != 0 {
				t.Errorf("charged %+v, %s, rejected %v, want input %d, output %d, estimated", r.Charged, r.Source, r.UsageRejected, test.input, test.output)
			}
			wantUsed(t, c, "free", "tokens", r.Charged.InputTokens+r.Charged.OutputTokens)
		})
	}
}

// SetUsage takes precedence over the usage of the response, if it is plausible.
func TestSetUsage(t *testing.T) {
	for name, test := range map[string]struct {
		usage         client.Usage
		input, output int64
		rejected      bool
	}{
		"all":            {client.Usage{InputTokens: new(int64(50)), OutputTokens: new(int64(9))}, 50, 9, false},
		"output":         {client.Usage{OutputTokens: new(int64(9))}, 40, 9, false},
		"input":          {client.Usage{InputTokens: new(int64(50))}, 50, 7, false},
		"zero":           {client.Usage{InputTokens: new(int64(0)), OutputTokens: new(int64(0))}, 0, 0, false},
		"negative":       {client.Usage{InputTokens: new(int64(-5)), OutputTokens: new(int64(9))}, 40, 7, true},
		"too large":      {client.Usage{OutputTokens: new(int64(1<<53 + 1))}, 40, 7, true},
		"sum too large":  {client.Usage{InputTokens: new(int64(1 << 53)), OutputTokens: new(int64(1))}, 40, 7, true},
		"too much cache": {client.Usage{InputTokens: new(int64(5)), CachedInputTokens: 6}, 40, 7, true},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
				call, _ := middleware.FromContext(r.Context())
				call.SetUsage(client.Usage{OutputTokens: new(int64(1))})
				call.SetUsage(test.usage)
				whole(200, completion("Because.", usage40))(w, r)
			})
			s.post(t, chat, ask(""))
			r := s.result(t)
			wantCharge(t, r, middleware.SourceReported, test.input, test.output)
			if r.UsageRejected != test.rejected {
				t.Errorf("UsageRejected = %v, want %v", r.UsageRejected, test.rejected)
			}
			wantUsed(t, c, "free", "tokens", test.input+test.output)
		})
	}
}

// A settlement that reaches no node is applied when a node is back.
func TestSettleDeferred(t *testing.T) {
	n, c := start(t)
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		n.fail("Settle")
		whole(200, completion("Because.", usage40))(w, r)
	})
	s.post(t, chat, ask(""))
	r := s.result(t)
	wantCharge(t, r, middleware.SourceReported, 40, 7)
	if !r.Deferred {
		t.Errorf("OnDone(%+v), want the settlement deferred", r)
	}
	n.recover()
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantUsed(t, c, "free", "tokens", 47)
	wantUsed(t, c, "free", "concurrent", 0)
}

func TestCancelDeferred(t *testing.T) {
	n, c := start(t)
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		n.fail("Cancel")
		whole(503, `{}`)(w, r)
	})
	s.post(t, chat, ask(""))
	if r := s.result(t); r.Source != middleware.SourceCancelled || !r.Deferred || r.Err != nil {
		t.Errorf("OnDone(%+v), want the cancel deferred", r)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantUsed(t, c, "free", "tokens", 0)
	wantUsed(t, c, "free", "concurrent", 0)
}

// A settlement that the node rejects is not retried, and OnDone gets the error.
func TestSettleRejected(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		call, _ := middleware.FromContext(r.Context())
		if err := c.Reservation(call.Key(), call.RequestID()).Cancel(r.Context()); err != nil {
			t.Error(err)
		}
		whole(200, completion("Because.", usage40))(w, r)
	})
	s.post(t, chat, ask(""))
	if r := s.result(t); r.Err == nil || r.Deferred {
		t.Errorf("OnDone(%+v), want an error", r)
	}
}
