// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// absurd is usage that can be counted, but whose price is beyond 2^53 microdollars.
const absurd = `{"prompt_tokens":40,"completion_tokens":9007199254740000,"total_tokens":9007199254740040}`

// A node refuses usage whose price is beyond 2^53. The call then neither keeps its slot
// nor is free: it is charged what was reserved, marked, counted and logged.
func TestAbsurdUsageIsChargedTheReservation(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"whole":  whole(200, completion("Because.", absurd)),
		"stream": streaming(event("Because."), `data: {"choices":[],"usage":`+absurd+"}\n\n", doneEvent),
		"images": whole(200, completion("Because.", `{"prompt_tokens":40,"completion_tokens":7,"total_tokens":47,"num_images":9007199254740000}`)),
		"handler": func(w http.ResponseWriter, r *http.Request) {
			call, _ := middleware.FromContext(r.Context())
			call.SetUsage(client.Usage{InputTokens: new(int64(40)), OutputTokens: new(int64(1) << 52)})
			whole(200, completion("Because.", ""))(w, r)
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			reg, log := prometheus.NewRegistry(), &syncBuffer{}
			s := serve(t, middleware.Options{Client: c, Registerer: reg, Identify: identifyAs("paid"), Logger: slog.New(slog.NewJSONHandler(log, nil))}, handler)
			s.post(t, chat, strings.Replace(ask(`,"max_tokens":500,"stream":`+fmt.Sprint(name == "stream")), `"m"`, `"pictures"`, 1))
			r := s.result(t)
			if r.Err == nil || !r.UsageRejected || r.Deferred || r.Source != middleware.SourceEstimated {
				t.Errorf("OnDone(%+v), want rejected usage with an error", r)
			}
			if r.Charged.InputTokens < 100 || r.Charged.OutputTokens != 500 {
				t.Errorf("charged %+v, want the estimated input and 500 tokens of output", r.Charged)
			}
			wantUsed(t, c, "paid", "concurrent", 0)
			wantUsed(t, c, "paid", "spend", r.Charged.InputTokens+3*500)
			if n := len(logged(t, log, "settlement failed")); n != 1 {
				t.Errorf("%d lines, want 1: %s", n, log)
			}
			for _, want := range []string{"bucketring_middleware_settle_failures_total 1", "bucketring_middleware_usage_rejected_total 1"} {
				if lines := samples(reg); !slices.Contains(lines, want) {
					t.Errorf("metrics lack %s", want)
				}
			}
		})
	}
}

// An absurd count in the middle of a stream does not end its lease.
func TestAbsurdProgressKeepsTheLease(t *testing.T) {
	n, c := start(t)
	release := make(chan struct{}) // closed when the lease would have ended
	s := serve(t, middleware.Options{Client: c, Identify: identifyAs("paid"), Lease: time.Second, ProgressInterval: time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		streaming(`data: {"choices":[{"delta":{"content":"a"}}],"usage":`+absurd+"}\n\n")(w, r)
		<-release
		streaming(usageEvent(40, 7), doneEvent)(w, r)
	})
	done := make(chan struct{}) // closed when the call has ended
	go func() {
		defer close(done)
		s.post(t, chat, ask(`,"max_tokens":500,"stream":true`))
	}()
	for range 3 {
		before := n.progress.Load()
		waittest.Until(t, "two reports of progress", func() bool { return n.progress.Load() >= before+2 })
		n.advance(900 * time.Millisecond)
	}
	wantUsed(t, c, "paid", "concurrent", 1)
	close(release)
	<-done
	s.result(t)
	wantUsed(t, c, "paid", "concurrent", 0)
}

// A call without a decision and with absurd usage is charged what it could have used.
func TestAbsurdUsageWithoutADecision(t *testing.T) {
	_, c := start(t)
	limits := &flaky{Client: c}
	limits.down.Store(true)
	reg := prometheus.NewRegistry()
	m, err := middleware.New(middleware.Options{Client: limits, Identify: identifyAs("paid"), WhenUndecided: middleware.AllowUndecided, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	m.Handler(whole(200, completion("Because.", absurd))).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, chat, strings.NewReader(ask(`,"max_tokens":500`))))
	limits.down.Store(false)
	if err := m.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if spent := used(t, c, "paid", "spend"); spent < 1600 || spent > 1700 {
		t.Errorf("spent %d, want some 100 tokens of input and 500 of output", spent)
	}
	wantUsed(t, c, "paid", "concurrent", 0)
	if want := "bucketring_middleware_settle_failures_total 1"; !slices.Contains(samples(reg), want) {
		t.Errorf("metrics lack %s", want)
	}
}
