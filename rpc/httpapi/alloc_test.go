// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/server"
)

// sink is a ResponseWriter that discards the body.
type sink struct {
	header http.Header
	status int
}

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(status int)      { s.status = status }
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }

// SetWriteDeadline is what writers of net/http have.
func (s *sink) SetWriteDeadline(time.Time) error { return nil }

// checked returns a handler with a service of the default policy.
func checked() http.Handler {
	engine := limiter.New(limiter.Options{})
	p := policy.Default(engine.Catalog())
	start := time.Now()
	return New(Options{
		Service: server.New(server.Options{
			Engine: engine,
			Policy: func() server.Policy { return p },
			Now:    func() limiter.Time { return limiter.Time{Mono: int64(time.Since(start)), Wall: time.Now().UnixNano()} },
		}),
		Logger: slog.New(slog.DiscardHandler),
	})
}

// TestAllocations bounds the allocations of a check with four limits: from the request to the
// answer, without what net/http does.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would empty the pools
	h := checked()
	for _, tt := range []struct{ name, body string }{
		{"denied", `{"key":"acme/alice","tier":"free","input_tokens":1200}`},
		{"allowed", `{"key":"acme/alice","tier":"enterprise","model":"m","input_tokens":0,"requests":0,"request_id":"0123456789abcdef"}`},
	} {
		r := httptest.NewRequest("POST", "/v1/check", nil)
		w := &sink{header: http.Header{}}
		call := func() {
			r.Body = io.NopCloser(strings.NewReader(tt.body))
			clear(w.header)
			h.ServeHTTP(w, r)
		}
		for range 20 {
			call()
		}
		got := testing.AllocsPerRun(200, call)
		t.Logf("a check that is %s: %v allocations", tt.name, got)
		if denied := w.status == http.StatusTooManyRequests; denied != (tt.name == "denied") {
			t.Fatalf("a check that is to be %s has status %d", tt.name, w.status)
		}
		if got > 24 {
			t.Errorf("a check that is %s allocates %v times, want at most 24", tt.name, got)
		}
	}
}

// BenchmarkCheck is a check of four limits from the request to the answer, without net/http.
func BenchmarkCheck(b *testing.B) {
	const body = `{"key":"acme/alice","tier":"free","input_tokens":1200}`
	h, w, r := checked(), &sink{header: http.Header{}}, httptest.NewRequest("POST", "/v1/check", nil)
	b.ReportAllocs()
	for b.Loop() {
		r.Body = io.NopCloser(strings.NewReader(body))
		clear(w.header)
		h.ServeHTTP(w, r)
	}
}
