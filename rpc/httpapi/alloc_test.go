// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/server"
)

// sink is a ResponseWriter that discards the body.
type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }

// TestAllocations bounds the allocations of a check with four limits.
func TestAllocations(t *testing.T) {
	engine := limiter.New(limiter.Options{})
	p := policy.Default(engine.Catalog())
	start := time.Now()
	h := New(Options{
		Service: server.New(server.Options{
			Engine: engine,
			Policy: func() server.Policy { return p },
			Now:    func() limiter.Time { return limiter.Time{Mono: int64(time.Since(start)), Wall: time.Now().UnixNano()} },
		}),
		Logger: slog.New(slog.DiscardHandler),
	})
	const body = `{"key":"acme/alice","tier":"free","input_tokens":1200}`
	r := httptest.NewRequest("POST", "/v1/check", nil)
	w := &sink{header: http.Header{}}
	call := func() {
		r.Body = io.NopCloser(strings.NewReader(body))
		clear(w.header)
		h.ServeHTTP(w, r)
	}
	for range 20 {
		call()
	}
	got := testing.AllocsPerRun(200, call)
	t.Logf("check: %v allocations", got)
	if got > 120 {
		t.Errorf("a check allocates %v times, want at most 120", got)
	}
}
