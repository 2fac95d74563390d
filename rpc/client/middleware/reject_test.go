// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// problem is the part of an error body that both dialects share.
type problem struct {
	Error struct{ Message, Type, Code, Param string }
}

func TestRejections(t *testing.T) {
	_, c := start(t)
	identify := func(r *http.Request) (middleware.Identity, error) {
		switch key := r.Header.Get("Authorization"); key {
		case "":
			return middleware.Identity{}, errors.New("no key was sent")
		case "blocked":
			return middleware.Identity{}, fmt.Errorf("looking up: %w", &middleware.StatusError{Status: 403, Message: "blocked"})
		case "gold":
			return middleware.Identity{Key: "acme/alice", Tier: "gold"}, nil
		default:
			return middleware.Identity{Key: key}, nil
		}
	}
	s := serve(t, middleware.Options{Client: c, Identify: identify, MaxBodyBytes: 1000}, func(http.ResponseWriter, *http.Request) {
		t.Error("a rejected call reached the handler")
	})
	chunked := func(text string) io.Reader { return struct{ io.Reader }{strings.NewReader(text)} }
	for name, test := range map[string]struct {
		body    io.Reader
		headers map[string]string
		status  int
		says    string
		param   string
	}{
		"no credential":       {nil, map[string]string{"Authorization": ""}, 401, "no key was sent", ""},
		"a blocked caller":    {nil, map[string]string{"Authorization": "blocked"}, 403, "blocked", ""},
		"a wrong key":         {nil, map[string]string{"Authorization": "acme//alice"}, 401, "segments must not be empty", ""},
		"a wrong tier":        {nil, map[string]string{"Authorization": "gold"}, 401, "gold", ""},
		"too large":           {strings.NewReader(strings.Repeat("x", 1001)), nil, 413, "1000 bytes", ""},
		"too large in chunks": {chunked(strings.Repeat("x", 1001)), nil, 413, "1000 bytes", ""},
		"encoded":             {nil, map[string]string{"Content-Encoding": "br"}, 415, `"br"`, ""},
		"encoded twice":       {nil, map[string]string{"Content-Encoding": "identity, compress"}, 415, "compress", ""},
		"no JSON":             {strings.NewReader("max_tokens=3"), nil, 400, "JSON", "body"},
		"a wrong field":       {strings.NewReader(ask(`,"max_tokens":"many"`)), nil, 400, "max_tokens", "max_tokens"},
		"many choices":        {strings.NewReader(ask(`,"n":100000`)), nil, 400, "100000", "n"},
		"a wrong floor":       {nil, map[string]string{"X-Bucketring-Min-Output-Tokens": "0"}, 400, `"0"`, "X-Bucketring-Min-Output-Tokens"},
	} {
		for _, path := range []string{chat, messages} {
			t.Run(name+path, func(t *testing.T) {
				if path == messages && test.param == "n" {
					t.Skip("the endpoint has no choices")
				}
				body := test.body
				if body == nil {
					body = strings.NewReader(ask(`,"max_tokens":10`))
				}
				if seeker, ok := body.(io.Seeker); ok {
					_, _ = seeker.Seek(0, io.SeekStart)
				} else {
					body = chunked(strings.Repeat("x", 1001))
				}
				q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+path, body)
				if err != nil {
					t.Fatal(err)
				}
				q.Header.Set("Authorization", "acme/alice")
				for name, value := range test.headers {
					q.Header.Set(name, value)
				}
				a, err := http.DefaultClient.Do(q)
				if err != nil {
					t.Fatal(err)
				}
				defer a.Body.Close()
				text, err := io.ReadAll(a.Body)
				var p problem
				if jsonErr := json.Unmarshal(text, &p); err != nil || jsonErr != nil {
					t.Fatalf("got %q, %v, %v, want an error body", text, err, jsonErr)
				}
				if a.StatusCode != test.status || !strings.Contains(p.Error.Message, test.says) {
					t.Errorf("got %d %s, want %d with %q", a.StatusCode, text, test.status, test.says)
				}
				if path == chat && p.Error.Param != test.param {
					t.Errorf("param = %q, want %q", p.Error.Param, test.param)
				}
			})
		}
	}
	for _, name := range []string{"tokens", "requests", "concurrent"} {
		wantUsed(t, c, "free", name, 0)
	}
}

// A caller that announces a too large body with Expect: 100-continue gets a 413
// instead of 100.
func TestExpectContinue(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c, MaxBodyBytes: 1000}, func(w http.ResponseWriter, r *http.Request) {
		if e := r.Header.Get("Expect"); e != "" {
			t.Errorf("the handler got Expect: %s, want none", e)
		}
		whole(200, completion("Because.", usage40))(w, r)
	})
	for size, want := range map[int]string{len(ask("")): "HTTP/1.1 100 Continue", 1001: "HTTP/1.1 413 Request Entity Too Large"} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", chat, size)
		b := bufio.NewReader(conn)
		line, err := b.ReadString('\n')
		if err != nil || strings.TrimSpace(line) != want {
			t.Errorf("%d bytes: got %q, %v, want %q", size, line, err, want)
		}
		if size == 1001 {
			continue
		}
		_, _ = io.WriteString(conn, ask(""))
		_, _ = b.ReadString('\n') // the empty line after 100
		a, err := http.ReadResponse(b, nil)
		if err != nil || a.StatusCode != 200 {
			t.Errorf("got %v, %v, want 200", a, err)
		}
		_ = a.Body.Close()
	}
}

func TestLimiterUnavailable(t *testing.T) {
	away := fmt.Errorf("reserve: %w", client.ErrUnreachable)
	for name, err := range map[string]error{"unreachable": away, "overloaded": fmt.Errorf("reserve: %w", client.ErrOverloaded), "another error": errors.New("odd")} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, middleware.Options{Client: failingLimiter{err}}, func(http.ResponseWriter, *http.Request) {
				t.Error("a call without a decision reached the handler")
			})
			for _, path := range []string{chat, messages} {
				a, text := s.post(t, path, ask(`,"max_tokens":10`))
				if a.StatusCode != 503 || a.Header.Get("Retry-After") != "1" || !strings.Contains(text, "limiter") {
					t.Errorf("POST %s = %d %s, Retry-After %q, want 503 and 1", path, a.StatusCode, text, a.Header.Get("Retry-After"))
				}
			}
		})
	}
}

// A reservation whose answer was lost is cancelled.
func TestLostReservationIsCancelled(t *testing.T) {
	n, c := start(t)
	s := serve(t, middleware.Options{Client: c}, func(http.ResponseWriter, *http.Request) {
		t.Error("a call without a decision reached the handler")
	})
	n.mute.Store(true)
	if a, text := s.post(t, chat, ask("")); a.StatusCode != 503 {
		t.Errorf("got %d %s, want 503", a.StatusCode, text)
	}
	waittest.Until(t, "given back", func() bool { return used(t, c, "free", "concurrent") == 0 })
	wantUsed(t, c, "free", "tokens", 0)
}

// A call whose caller disconnects during the reservation, just when it is decided, does not run.
func TestDisconnectDuringReservation(t *testing.T) {
	_, c := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan middleware.Result, 1)
	m, err := middleware.New(middleware.Options{
		Client: leaving{c, cancel}, Identify: identify, OnDone: func(r middleware.Result) { done <- r },
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the call of a caller that had left reached the handler")
	})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, chat, strings.NewReader(ask(""))).WithContext(ctx))
	select {
	case r := <-done:
		if r.Source != middleware.SourceCancelled || r.Err != nil {
			t.Errorf("OnDone(%+v), want cancelled", r)
		}
	default:
		t.Error("OnDone was not called")
	}
	for _, name := range []string{"tokens", "requests", "concurrent"} {
		wantUsed(t, c, "free", name, 0)
	}
}

// leaving is a limiter whose caller disconnects during Reserve, too late to stop it.
type leaving struct {
	*client.Client
	leave context.CancelFunc
}

func (l leaving) Reserve(ctx context.Context, e client.Estimate) (*client.Reservation, error) {
	l.leave()
	return l.Client.Reserve(context.WithoutCancel(ctx), e)
}

func TestMetrics(t *testing.T) {
	n, c := start(t)
	reg := prometheus.NewRegistry()
	var handler http.HandlerFunc
	s := serve(t, middleware.Options{Client: c, Registerer: reg}, func(w http.ResponseWriter, r *http.Request) { handler(w, r) })
	for _, next := range []http.HandlerFunc{
		whole(200, completion("a", usage40)),
		whole(200, completion("a", `{"prompt_tokens":-1,"completion_tokens":1}`)),
		whole(500, `{}`),
		whole(400, `{}`),
		func(w http.ResponseWriter, r *http.Request) {
			n.fail("Settle")
			whole(200, completion("a", usage40))(w, r)
		},
	} {
		handler = next
		s.post(t, chat, ask(""))
	}
	n.recover()
	s.post(t, chat, ask(`,"max_tokens":20000`))
	s.post(t, chat, "{")
	want := []string{
		`bucketring_middleware_body_bytes 0`,
		`bucketring_middleware_calls_running 0`,
		`bucketring_middleware_calls_total{outcome="allowed"} 5`,
		`bucketring_middleware_calls_total{outcome="degraded"} 0`,
		`bucketring_middleware_calls_total{outcome="denied"} 1`,
		`bucketring_middleware_calls_total{outcome="overloaded"} 0`,
		`bucketring_middleware_calls_total{outcome="rejected"} 1`,
		`bucketring_middleware_calls_total{outcome="undecided"} 0`,
		`bucketring_middleware_calls_total{outcome="unreachable"} 0`,
		`bucketring_middleware_encoded_responses_total{result="decoded"} 0`,
		`bucketring_middleware_encoded_responses_total{result="estimated"} 0`,
		`bucketring_middleware_estimated_input_tokens_total{model="m"} 210`,
		`bucketring_middleware_estimated_input_tokens_total{model="other"} 0`,
		`bucketring_middleware_input_estimate_ratio_sum 5.25`,
		`bucketring_middleware_input_estimate_ratio_count 2`,
		`bucketring_middleware_rejections_total{reason="body_memory_exceeded"} 0`,
		`bucketring_middleware_rejections_total{reason="body_share_exceeded"} 0`,
		`bucketring_middleware_rejections_total{reason="invalid_value"} 1`,
		`bucketring_middleware_reported_input_tokens_total{model="m"} 80`,
		`bucketring_middleware_reported_input_tokens_total{model="other"} 0`,
		`bucketring_middleware_settle_failures_total 0`,
		`bucketring_middleware_settles_deferred_total 1`,
		`bucketring_middleware_settles_total{source="cancelled"} 1`,
		`bucketring_middleware_settles_total{source="estimated"} 1`,
		`bucketring_middleware_settles_total{source="partial"} 0`,
		`bucketring_middleware_settles_total{source="rejected"} 1`,
		`bucketring_middleware_settles_total{source="reported"} 2`,
		`bucketring_middleware_streams_without_usage_total 0`,
		`bucketring_middleware_undecided_charges_total{result="charged"} 0`,
		`bucketring_middleware_undecided_charges_total{result="dropped"} 0`,
		`bucketring_middleware_usage_rejected_total 1`,
	}
	for range 6 {
		s.result(t)
	}
	got := slices.DeleteFunc(samples(reg), func(line string) bool { // TestTimesByOutcome, TestChargesByTierAndModel
		return strings.Contains(line, "_bucket{") || strings.Contains(line, "_seconds_") || strings.Contains(line, "_charged_")
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Error(err)
	}
}

// samples returns the lines of the metrics page.
func samples(reg *prometheus.Registry) (lines []string) {
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	return lines
}

// Options.Estimate meters servers with other endpoints.
func TestEstimateOption(t *testing.T) {
	_, c := start(t)
	o := middleware.Options{
		Client:   c,
		Identify: identifyAs("images"),
		Estimate: func(r *http.Request) (client.Estimate, bool, error) {
			switch r.URL.Path {
			case "/images":
				return client.Estimate{Model: "m", MaxOutputTokens: new(int64(0)), Costs: map[string]int64{"images": 4}}, true, nil
			case "/bad":
				return client.Estimate{}, false, errors.New("no size")
			}
			return client.Estimate{}, false, nil
		},
	}
	var handler http.HandlerFunc
	s := serve(t, o, func(w http.ResponseWriter, r *http.Request) { handler(w, r) })
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		source  middleware.Source
		costs   map[string]int64
		used    int64
	}{
		{"no usage", whole(200, "{}"), middleware.SourceEstimated, nil, 4},
		{"an error", whole(500, "{}"), middleware.SourceCancelled, nil, 4},
		{"a rejection", whole(400, "{}"), middleware.SourceRejected, map[string]int64{"images": 0}, 4},
		{"usage of the handler", func(w http.ResponseWriter, r *http.Request) {
			call, _ := middleware.FromContext(r.Context())
			call.SetUsage(client.Usage{Costs: map[string]int64{"images": 2}})
		}, middleware.SourceReported, map[string]int64{"images": 2}, 6},
		{"costs that nodes reject", func(w http.ResponseWriter, r *http.Request) {
			call, _ := middleware.FromContext(r.Context())
			call.SetUsage(client.Usage{Costs: map[string]int64{"tokens": 2}})
		}, middleware.SourceReported, map[string]int64{"tokens": 2}, 10},
	} {
		handler = test.handler
		if a, text := s.post(t, "/images", "size=3"); a.Header.Get("X-Bucketring-Request-Id") == "" {
			t.Errorf("%s: %d %s without our headers", test.name, a.StatusCode, text)
		}
		r := s.result(t)
		if r.Source != test.source || !cmp.Equal(r.Charged.Costs, test.costs) || (r.Err != nil) != (test.used == 10) {
			t.Errorf("%s: OnDone(%+v), want %s, %v", test.name, r, test.source, test.costs)
		}
		wantUsed(t, c, "images", "images", test.used)
		wantUsed(t, c, "images", "concurrent", 0)
	}
	if a, text := s.post(t, "/images", ""); a.StatusCode != 429 || s.result(t).Outcome != client.Denied {
		t.Errorf("the eleventh image: %d %s, want 429", a.StatusCode, text)
	}
	if a, text := s.post(t, "/bad", ""); a.StatusCode != 400 || !strings.Contains(text, "no size") {
		t.Errorf("POST /bad = %d %s, want 400", a.StatusCode, text)
	}
	handler = whole(200, "free")
	if _, text := s.post(t, chat, "anything"); text != "free" {
		t.Errorf("POST %s = %q, want it to pass", chat, text)
	}
}

// A body with another method than POST does not reach the handler, which might
// read it.
func TestBodyWithOtherMethod(t *testing.T) {
	_, c := start(t)
	ran := make(chan string, 10)
	s := serve(t, middleware.Options{Client: c}, func(_ http.ResponseWriter, r *http.Request) { ran <- r.Method })
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodDelete, "QUERY", "post"} {
		for _, body := range []io.Reader{strings.NewReader(ask("")), struct{ io.Reader }{strings.NewReader(ask(""))}} { // of known length, and chunked
			q, err := http.NewRequestWithContext(t.Context(), method, s.URL+messages, body)
			if err != nil {
				t.Fatal(err)
			}
			a, err := http.DefaultClient.Do(q)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(a.Body)
			_ = a.Body.Close()
			if a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "POST" || !strings.Contains(string(text), `"type":"error"`) {
				t.Errorf("%s with a body = %d %s, want 405 in the dialect", method, a.StatusCode, text)
			}
		}
	}
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+chat, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	_ = a.Body.Close()
	if len(ran) != 1 || <-ran != http.MethodGet {
		t.Error("the handler did not run for the GET without a body alone")
	}
}
