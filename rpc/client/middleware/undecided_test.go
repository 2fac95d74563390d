// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// closing is a limiter that no node serves, and that is closed in the end.
type closing struct{ closed atomic.Bool }

func (c *closing) Reserve(context.Context, client.Estimate) (*client.Reservation, error) {
	if c.closed.Load() {
		return nil, client.ErrClosed
	}
	return nil, client.ErrUnreachable
}

// flaky is a client that reaches no node while it is down.
type flaky struct {
	*client.Client
	down atomic.Bool
}

func (f *flaky) Reserve(ctx context.Context, e client.Estimate) (*client.Reservation, error) {
	if f.down.Load() {
		return nil, fmt.Errorf("reserve %s: %w", e.Key, client.ErrUnreachable)
	}
	return f.Client.Reserve(ctx, e)
}

// A call that runs while no node answers is marked and counted, and charged when one
// answers: also beyond the limits.
func TestUndecidedCallsAreChargedLater(t *testing.T) {
	_, c := start(t)
	limits := &flaky{Client: c}
	reg, log := prometheus.NewRegistry(), &syncBuffer{}
	var undecided atomic.Int64
	m, err := middleware.New(middleware.Options{
		Client: limits, Identify: identify, WhenUndecided: middleware.AllowUndecided, Registerer: reg,
		Logger: slog.New(slog.NewJSONHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	handler := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if call, _ := middleware.FromContext(r.Context()); call.Undecided() {
			undecided.Add(1)
		}
		whole(200, completion("Because.", `{"prompt_tokens":900,"completion_tokens":100,"total_tokens":1000}`))(w, r)
	}))
	post := func() http.Header {
		t.Helper()
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, chat, strings.NewReader(ask(""))))
		if w.Code != 200 {
			t.Fatalf("a call = %d %s, want 200", w.Code, w.Body)
		}
		return w.Header()
	}
	if h := post(); h.Get("X-Bucketring-Decision") != "" {
		t.Errorf("a decided call is marked: %v", h)
	}
	limits.down.Store(true)
	for range 12 { // the limits are 10 requests and 10,000 tokens
		if h := post(); h.Get("X-Bucketring-Decision") != "none" || h.Get("X-Ratelimit-Limit-Requests") != "" {
			t.Errorf("an undecided call has headers %v, want the mark and no limits", h)
		}
	}
	if n := undecided.Load(); n != 12 {
		t.Errorf("%d calls are undecided for the handler, want 12", n)
	}
	ended, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := m.Flush(ended); err == nil || !strings.Contains(err.Error(), "12 calls") {
		t.Errorf("Flush() = %v, want an error that 12 calls are left", err)
	}
	limits.down.Store(false)
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	if err := m.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	wantUsed(t, c, "free", "tokens", 13_000)
	wantUsed(t, c, "free", "requests", 10) // the others have no room
	wantUsed(t, c, "free", "concurrent", 0)
	lines := samples(reg)
	for _, want := range []string{
		`bucketring_middleware_calls_total{outcome="undecided"} 12`,
		`bucketring_middleware_calls_total{outcome="allowed"} 1`,
		`bucketring_middleware_calls_running 0`,
		`bucketring_middleware_undecided_charges_total{result="charged"} 12`,
		`bucketring_middleware_charged_tokens_total{kind="input",model="m",tier="free"} 11700`,
		`bucketring_middleware_charged_tokens_total{kind="output",model="m",tier="free"} 1300`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if n := len(logged(t, log, "no node answers: calls run without limits and are charged later")); n != 1 {
		t.Errorf("%d lines say that no node answers, want 1 in the minute", n)
	}
}

// The dollars of calls without a decision are counted when they are charged, beside their
// tokens. Those that nobody is charged for are not counted.
func TestDollarsOfUndecidedCalls(t *testing.T) {
	_, c := start(t)
	limits := &flaky{Client: c}
	limits.down.Store(true)
	reg := prometheus.NewRegistry()
	tier := "paid"
	m, err := middleware.New(middleware.Options{Client: limits, WhenUndecided: middleware.AllowUndecided, Registerer: reg, Identify: func(*http.Request) (middleware.Identity, error) {
		return middleware.Identity{Key: "acme/alice", Tier: tier}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	handler := m.Handler(whole(200, completion("Because.", usage40)))
	for _, tier = range []string{"paid", "paid", "unknown"} {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, chat, strings.NewReader(ask(""))))
	}
	for _, line := range samples(reg) {
		if strings.HasPrefix(line, "bucketring_middleware_charged_") && !strings.HasSuffix(line, " 0") {
			t.Errorf("%s before a node answers, want 0", line)
		}
	}
	limits.down.Store(false)
	if err := m.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	lines := samples(reg)
	for _, want := range []string{
		`bucketring_middleware_charged_tokens_total{kind="output",model="m",tier="paid"} 14`,
		`bucketring_middleware_charged_dollars_total{model="m",tier="paid"} 0.000122`, // twice 40 tokens of input at $1 for a million, and 7 of output at $3
		`bucketring_middleware_undecided_charges_total{result="dropped"} 1`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, `_charged_`) && strings.Contains(l, `"unknown"`) }) {
		t.Error("a charge that was dropped is counted")
	}
	wantUsed(t, c, "paid", "spend", 122)
}

// One root cannot fill the queue of charges: those of others still fit.
func TestLateChargesArePerRoot(t *testing.T) {
	reg, limits := prometheus.NewRegistry(), &closing{}
	key := "flood/a"
	m, err := middleware.New(middleware.Options{Client: limits, WhenUndecided: middleware.AllowUndecided, Registerer: reg, Identify: func(*http.Request) (middleware.Identity, error) {
		return middleware.Identity{Key: key, Tier: "free"}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	handler := m.Handler(whole(200, completion("Because.", usage40)))
	call := func() {
		handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, chat, strings.NewReader(ask(""))))
	}
	failures := func(want int) {
		t.Helper()
		if line := fmt.Sprintf("bucketring_middleware_settle_failures_total %d", want); !slices.Contains(samples(reg), line) {
			t.Errorf("metrics lack %s", line)
		}
	}
	for i := range 2048 + 10 {
		key = fmt.Sprintf("flood/%d", i)
		call()
	}
	failures(10)
	key = "acme/alice"
	call()
	failures(10)
	ended, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := m.Flush(ended); err == nil || !strings.Contains(err.Error(), "2049 calls") {
		t.Errorf("Flush() = %v, want 2049 calls that are left", err)
	}
	limits.closed.Store(true)
	if err := m.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}

// No line of the log names a key, unless the access log does.
func TestLogNamesKeysInOneForm(t *testing.T) {
	for _, plain := range []bool{false, true} {
		_, c := start(t)
		limits := &flaky{Client: c}
		limits.down.Store(true)
		log := &syncBuffer{}
		tier := "paid"
		m, err := middleware.New(middleware.Options{
			Client: limits, WhenUndecided: middleware.AllowUndecided, AccessLog: middleware.AccessLogOn, AccessLogPlainKeys: plain,
			Logger: slog.New(slog.NewJSONHandler(log, nil)),
			Identify: func(*http.Request) (middleware.Identity, error) {
				return middleware.Identity{Key: "acme/alice", Tier: tier}, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		handler := m.Handler(whole(200, completion("Because.", absurd)))
		post := func() {
			handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, chat, strings.NewReader(ask(""))))
		}
		for _, tier = range []string{"paid", "unknown"} {
			post()
		}
		limits.down.Store(false)
		if err := m.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		tier = "paid"
		post()
		for message, want := range map[string]int{
			"settlement failed": 2, "usage of a call without a decision was not reported": 1,
			"no node answers: calls run without limits and are charged later": 1, "call": 3,
		} {
			lines := logged(t, log, message)
			if len(lines) != want {
				t.Errorf("%d lines %q, want %d", len(lines), message, want)
			}
			for _, line := range lines {
				text := fmt.Sprint(line)
				if !plain && strings.Contains(text, "alice") || plain && strings.Contains(text, "cb023568eca578b5") {
					t.Errorf("plain %v: %s", plain, text)
				}
				if named := line["key"] == "acme/alice" && plain || line["key_hash"] == "cb023568eca578b5" && !plain; !named && !strings.HasPrefix(message, "no node") {
					t.Errorf("plain %v: %s names no key", plain, text)
				}
			}
		}
	}
}

// By default the calls are rejected, and one line in a minute says so. An overloaded node
// is one that answers.
func TestUndecidedCallsAreRejected(t *testing.T) {
	for name, test := range map[string]struct {
		err   error
		mode  middleware.UndecidedMode
		lines int
	}{
		"unreachable":         {client.ErrUnreachable, middleware.DenyUndecided, 1},
		"overloaded":          {client.ErrOverloaded, middleware.AllowUndecided, 0},
		"overloaded, too":     {fmt.Errorf("%w: %w", client.ErrOverloaded, client.ErrUnreachable), middleware.AllowUndecided, 0},
		"an invalid key":      {&client.InvalidError{Field: "key"}, middleware.AllowUndecided, 0},
		"an unexpected error": {fmt.Errorf("internal"), middleware.AllowUndecided, 0},
	} {
		log := &syncBuffer{}
		s := serve(t, middleware.Options{Client: failingLimiter{test.err}, WhenUndecided: test.mode, Logger: slog.New(slog.NewJSONHandler(log, nil))}, func(http.ResponseWriter, *http.Request) {
			t.Errorf("%s: a call without a decision ran", name)
		})
		for range 3 {
			s.post(t, chat, ask(""))
		}
		if n := len(logged(t, log, "no node answers: calls are rejected")); n != test.lines {
			t.Errorf("%s: %d lines, want %d", name, n, test.lines)
		}
	}
}

// A charge that no node will ever accept is dropped, logged and counted.
func TestUndecidedChargeIsDropped(t *testing.T) {
	_, c := start(t)
	limits := &flaky{Client: c}
	limits.down.Store(true)
	reg, log := prometheus.NewRegistry(), &syncBuffer{}
	m, err := middleware.New(middleware.Options{
		Client: limits, Identify: identifyAs("unknown"), WhenUndecided: middleware.AllowUndecided, Registerer: reg,
		Logger: slog.New(slog.NewJSONHandler(log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Handler(whole(200, completion("Because.", usage40))).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, chat, strings.NewReader(ask(""))))
	limits.down.Store(false)
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	if err := m.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if want := `bucketring_middleware_undecided_charges_total{result="dropped"} 1`; !slices.Contains(samples(reg), want) {
		t.Errorf("metrics lack %s", want)
	}
	if n := len(logged(t, log, "usage of a call without a decision was not reported")); n != 1 {
		t.Errorf("%d lines say that a charge was dropped, want 1", n)
	}
}

// A model that no node accepts is rejected also while none answers: it could be charged to
// nobody later.
func TestInvalidModelIsRejectedWithoutANode(t *testing.T) {
	s := serve(t, middleware.Options{Client: failingLimiter{client.ErrUnreachable}, WhenUndecided: middleware.AllowUndecided}, func(http.ResponseWriter, *http.Request) {
		t.Error("a call that cannot be charged ran")
	})
	for _, model := range []string{strings.Repeat("m", 257), strings.Repeat("m", 1<<20), `a\u0000`} {
		response, body := s.post(t, chat, `{"model":"`+model+`","messages":[{"role":"user","content":"Why?"}]}`)
		if response.StatusCode != http.StatusBadRequest || !strings.Contains(body, `"param":"model"`) || len(body) > 4<<10 {
			t.Errorf("a model of %d bytes = %d with %d bytes, want 400 that names the model", len(model), response.StatusCode, len(body))
		}
	}
}
