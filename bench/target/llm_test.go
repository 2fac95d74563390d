// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/internal/mockllm"
)

// startModel runs a mock model server.
func startModel(t *testing.T, o mockllm.Options, wrap func(http.Handler) http.Handler) (*mockllm.Server, string) {
	t.Helper()
	o.CallerHeader = DefaultKeyHeader
	mock, err := mockllm.New(o)
	if err != nil {
		t.Fatal(err)
	}
	handler := http.Handler(mock)
	if wrap != nil {
		handler = wrap(mock)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return mock, server.URL
}

func TestModels(t *testing.T) {
	for _, kind := range []string{"openai:", "anthropic:"} {
		t.Run(kind, func(t *testing.T) {
			mock, url := startModel(t, mockllm.Options{}, nil)
			target := open(t, kind+url, Options{})
			check(t, target, bench.Call{ID: "c", Key: "acme/a", InputTokens: 120, OutputTokens: 7})
			a, err := target.Reserve(t.Context(), &bench.Call{ID: "r", Key: "acme/b", LLM: true, InputTokens: 5000, OutputTokens: 300, MaxOutputTokens: 512})
			if err != nil || a.Outcome != bench.Allowed || a.GrantedOutputTokens != 512 {
				t.Fatalf("Reserve = %+v, %v", a, err)
			}
			for _, u := range []bench.Usage{{ID: a.ID}, {ID: a.ID, Final: true}} {
				if _, err := target.Settle(t.Context(), u); err != nil {
					t.Errorf("Settle(%+v) = %v", u, err)
				}
			}
			if _, err := target.Settle(t.Context(), bench.Usage{ID: a.ID, Final: true}); err == nil || !strings.Contains(err.Error(), "unknown call") {
				t.Errorf("a second settle = %v, want an error", err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), waitFor)
			defer cancel()
			if err := mock.Ledger().Idle(ctx); err != nil {
				t.Fatal(err)
			}
			for _, e := range mock.Ledger().Entries() {
				want := mockllm.Entry{Caller: "acme/a", Input: 120, Generated: 7, MaxTokens: 7}
				if e.Stream {
					want = mockllm.Entry{Caller: "acme/b", Input: 5000, Generated: 300, MaxTokens: 512}
				}
				if e.Caller != want.Caller || e.Input != want.Input || e.Generated != want.Generated || e.MaxTokens != want.MaxTokens || e.Outcome != mockllm.Finished {
					t.Errorf("the model did %+v, want %+v", e, want)
				}
			}
		})
	}
}

func TestModelsDenyDegradeAndFail(t *testing.T) {
	answers := map[string]func(w http.ResponseWriter, r *http.Request, next http.Handler){
		"denied": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Set("X-Mock-Fail", "429")
			next.ServeHTTP(w, r)
		},
		"failed": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Set("X-Mock-Fail", "500")
			next.ServeHTTP(w, r)
		},
		"broken": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Set("X-Mock-Disconnect-After", "5")
			next.ServeHTTP(w, r)
		},
		"error": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Set("X-Mock-Error-After", "5")
			next.ServeHTTP(w, r)
		},
		"degraded": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.Header().Set("X-Bucketring-Granted-Max-Tokens", "64")
			next.ServeHTTP(w, r)
		},
	}
	_, url := startModel(t, mockllm.Options{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if answer := answers[r.Header.Get(DefaultKeyHeader)]; answer != nil {
				answer(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	target := open(t, "openai:"+url, Options{})
	reserve := func(key string) (bench.Answer, error) {
		return target.Reserve(t.Context(), &bench.Call{ID: key, Key: key, LLM: true, InputTokens: 5, OutputTokens: 50, MaxOutputTokens: 128})
	}
	if a, err := reserve("denied"); err != nil || a.Outcome != bench.Denied || a.Reason != "rate_limit_exceeded" {
		t.Errorf("denied: %+v, %v", a, err)
	}
	if _, err := reserve("failed"); err == nil || !strings.Contains(err.Error(), "status 500: 500: this failure was requested") {
		t.Errorf("failed: %v, want the error of the server", err)
	}
	a, err := reserve("degraded")
	if err != nil || a.Outcome != bench.Degraded || a.GrantedOutputTokens != 64 {
		t.Errorf("degraded: %+v, %v", a, err)
	}
	if _, err := target.Settle(t.Context(), bench.Usage{ID: a.ID, Final: true}); err != nil {
		t.Errorf("settle of degraded: %v", err)
	}
	// It may break before the first byte is read, or after.
	for _, key := range []string{"broken", "error"} {
		a, err := reserve(key)
		if err == nil {
			_, err = target.Settle(t.Context(), bench.Usage{ID: a.ID, Final: true})
		}
		if err == nil {
			t.Errorf("%s: no error, want one", key)
		}
	}
}

// A request that times out cancels the call.
func TestModelsKeepDeadlines(t *testing.T) {
	mock, url := startModel(t, mockllm.Options{Speed: 0.001, Output: mockllm.Length{Min: 1000, Max: 1000}}, nil)
	target := open(t, "openai:"+url, Options{})
	a, err := target.Reserve(t.Context(), &bench.Call{ID: "r", Key: "k", LLM: true, OutputTokens: 1000, MaxOutputTokens: 1000})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := target.Settle(ctx, bench.Usage{ID: a.ID, Final: true}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Settle = %v, want that time ran out", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), waitFor)
	defer cancel()
	if err := mock.Ledger().Idle(ctx); err != nil {
		t.Fatalf("the model goes on: %v", err)
	}
	if e := mock.Ledger().Entries()[0]; e.Outcome != mockllm.Disconnected || e.Generated != 1 {
		t.Errorf("the model did %+v, want one token until the caller left", e)
	}
}
