// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// identifyByHeader charges the key in X-Key under the tier in X-Tier.
func identifyByHeader(r *http.Request) (middleware.Identity, error) {
	return middleware.Identity{Key: r.Header.Get("X-Key"), Tier: r.Header.Get("X-Tier")}, nil
}

// prompt is a chat request with a text of n bytes.
func prompt(n int) string {
	return fmt.Sprintf(`{"model":"m","max_tokens":10,"messages":[{"role":"user","content":"%s"}]}`, strings.Repeat("a", n))
}

// A tenant that sends gibberish, of which each byte is a token, changes no estimate of
// another one.
func TestEstimatesOfOthersDoNotChange(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c, Identify: identifyByHeader}, func(w http.ResponseWriter, r *http.Request) {
		size, _ := io.Copy(io.Discard, r.Body)
		whole(200, completion("a", fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":1}`, size)))(w, r)
	})
	for range 20 {
		if a, text := s.post(t, chat, prompt(4000), "X-Key", "hostile/h", "X-Tier", "big"); a.StatusCode != 200 {
			t.Fatalf("a call of the hostile tenant: %d %s, want 200", a.StatusCode, text)
		}
	}
	// 29,000 bytes are about 9,700 tokens at 3 bytes each, of 10,000 that the tier has.
	if a, text := s.post(t, chat, prompt(29_000), "X-Key", "victim/v", "X-Tier", "free"); a.StatusCode != 200 {
		t.Errorf("a prompt of another tenant: %d %s, want 200", a.StatusCode, text)
	}
}

// A call that the model server rejects gives its tokens, costs and slot back and keeps
// the charge for its requests.
func TestRejectedCallsKeepTheirRequests(t *testing.T) {
	for name, test := range map[string]struct {
		status   int
		charge   bool // ChargeServerErrors
		source   middleware.Source
		requests int64
	}{
		"a redirect":            {307, false, middleware.SourceRejected, 1},
		"a bad request":         {400, false, middleware.SourceRejected, 1},
		"a wrong credential":    {401, false, middleware.SourceRejected, 1},
		"a forbidden model":     {403, false, middleware.SourceRejected, 1},
		"an unknown model":      {404, false, middleware.SourceRejected, 1},
		"invalid content":       {422, false, middleware.SourceRejected, 1},
		"its own limit":         {429, false, middleware.SourceRejected, 1},
		"an error":              {500, false, middleware.SourceCancelled, 0},
		"no capacity":           {503, false, middleware.SourceCancelled, 0},
		"overloaded":            {529, false, middleware.SourceCancelled, 0},
		"an error, charged":     {500, true, middleware.SourceRejected, 1},
		"no capacity, charged":  {503, true, middleware.SourceRejected, 1},
		"a bad request, either": {400, true, middleware.SourceRejected, 1},
	} {
		t.Run(name, func(t *testing.T) {
			n, c := start(t)
			s := serve(t, middleware.Options{Client: c, ChargeServerErrors: test.charge, ProgressInterval: 5 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
				before := n.progress.Load() // progress must not prevent the refund
				waittest.Until(t, "renewed", func() bool { return n.progress.Load() > before })
				whole(test.status, `{"error":{"message":"no"}}`)(w, r)
			})
			s.post(t, chat, ask(""))
			wantCharge(t, s.result(t), test.source, 0, 0)
			for limit, want := range map[string]int64{"requests": test.requests, "tokens": 0, "concurrent": 0} {
				wantUsed(t, c, "free", limit, want)
			}
		})
	}
}

// A caller whose calls are rejected reaches the model server no more often than its
// limits allow.
func TestRejectedCallsAreBounded(t *testing.T) {
	_, c := start(t)
	var reached atomic.Int64
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		whole(400, `{"error":{"message":"no such parameter"}}`)(w, r)
	})
	statuses := map[int]int{}
	for range 100 {
		a, _ := s.post(t, chat, ask(""))
		statuses[a.StatusCode]++
	}
	if got := reached.Load(); got != 10 || statuses[400] != 10 || statuses[429] != 90 {
		t.Errorf("%d calls reached the model server, statuses %v, want 10 of 100", got, statuses)
	}
	wantUsed(t, c, "free", "tokens", 0)
	wantUsed(t, c, "free", "concurrent", 0)
}

// A rejection that reaches no node is settled later, with the same charge.
func TestRejectionDeferred(t *testing.T) {
	n, c := start(t)
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		n.fail("Settle")
		whole(400, `{}`)(w, r)
	})
	s.post(t, chat, ask(""))
	if r := s.result(t); r.Source != middleware.SourceRejected || !r.Deferred || r.Err != nil {
		t.Errorf("OnDone(%+v), want the settlement deferred", r)
	}
	n.recover()
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[string]int64{"requests": 1, "tokens": 0, "concurrent": 0} {
		wantUsed(t, c, "free", limit, want)
	}
}

// Rate limits of another server reach the caller neither as headers nor as trailers.
func TestTrailersOfOthersAreRemoved(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Add("Trailer", "X-RateLimit-Remaining, X-Checksum")
		h.Add("Trailer", "anthropic-ratelimit-tokens-limit")
		h.Set("Content-Type", "application/json")
		h.Set("X-RateLimit-Limit", "777")
		w.WriteHeader(http.StatusEarlyHints)
		h.Set("X-RateLimit-Limit", "777")
		_, _ = io.WriteString(w, completion("Because.", usage40))
		w.(http.Flusher).Flush()
		for name, value := range map[string]string{
			"X-RateLimit-Remaining": "777", "Anthropic-Ratelimit-Tokens-Limit": "777", "X-Checksum": "1",
			http.TrailerPrefix + "X-RateLimit-Reset": "777", http.TrailerPrefix + "ratelimit": "777", http.TrailerPrefix + "X-Other": "2",
		} {
			h.Set(name, value)
		}
	})
	var early []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
		early = append(early, h.Get("X-Ratelimit-Limit"))
		return nil
	}})
	a := s.call(ctx, t, chat, ask(""))
	if text, err := io.ReadAll(a.Body); err != nil || string(text) != completion("Because.", usage40) {
		t.Errorf("got %q, %v", text, err)
	}
	want := http.Header{"X-Checksum": {"1"}, "X-Other": {"2"}}
	if diff := cmp.Diff(want, a.Trailer); diff != "" {
		t.Errorf("trailers (-want +got):\n%s", diff)
	}
	if got := a.Header.Get("X-Ratelimit-Limit"); got == "" || got == "777" {
		t.Errorf("X-RateLimit-Limit = %q, want that of the decision", got)
	}
	if diff := cmp.Diff([]string{""}, early); diff != "" {
		t.Errorf("X-RateLimit-Limit of the informational response (-want +got):\n%s", diff)
	}
}
