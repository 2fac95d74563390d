// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/proxy"
)

// A slow body holds a connection no longer than the timeout, also if the handler
// does not read it.
func TestBodyTimeout(t *testing.T) {
	s := start(t, setup{upstream: http.HandlerFunc(echo), edit: func(o *proxy.Options) {
		o.BodyTimeout = 300 * time.Millisecond
		pass(t, "safe")(o)
	}})
	for name, test := range map[string]struct {
		head   string
		status int // 0: the connection may be closed without a response
	}{
		"metered":         {"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-single\r\nContent-Length: 1000\r\n\r\n{", http.StatusRequestTimeout},
		"metered chunked": {"POST /v1/messages HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-single\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", http.StatusRequestTimeout},
		"too large":       {"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-single\r\nContent-Length: 99999999\r\n\r\n{", 0},
		"no credential":   {"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", 0},
		"rejected":        {"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n", 0},
		"passed":          {"POST /v1/messages/count_tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{", 0},
	} {
		t.Run(name, func(t *testing.T) {
			conn := s.dial()
			began := time.Now()
			if _, err := io.WriteString(conn, test.head); err != nil {
				t.Fatal(err)
			}
			stop := make(chan struct{})
			defer close(stop)
			go func() { // send a byte now and then
				for {
					select {
					case <-stop:
						return
					case <-time.After(20 * time.Millisecond):
						if !strings.Contains(test.head, "count_tokens") && !strings.Contains(test.head, "chunked") {
							_, _ = io.WriteString(conn, " ")
						}
					}
				}
			}()
			r := bufio.NewReader(conn)
			answer, err := http.ReadResponse(r, nil)
			if test.status != 0 && (err != nil || answer.StatusCode != test.status) {
				t.Fatalf("answer = %v, %v, want %d", answer, err, test.status)
			}
			_, _ = io.Copy(io.Discard, r)
			if took := time.Since(began); took >= waittest.Limit {
				t.Errorf("the connection is still open after %v", took)
			}
		})
	}
	s.charged("single", 0)
}

// The deadline of a body affects neither its response nor the next request on the
// connection.
func TestBodyTimeoutIsCleared(t *testing.T) {
	const bodyTimeout = 200 * time.Millisecond
	release := make(chan struct{}, 1) // lets a response begin
	s := start(t, setup{
		edit: func(o *proxy.Options) {
			o.BodyTimeout = bodyTimeout
			pass(t, "safe")(o)
		},
		upstream: handler(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/health" && r.URL.Path != "/v1/messages/count_tokens" {
				select {
				case <-release:
				case <-r.Context().Done():
					return
				}
			}
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}`)
		}),
	})
	conn := s.dial()
	r := bufio.NewReader(conn)
	for n, request := range []string{
		fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-single\r\nContent-Length: %d\r\n\r\n%s", len(hello), hello),
		fmt.Sprintf("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-single\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(hello), hello),
		"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
		"POST /v1/messages/count_tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
	} {
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(2*bodyTimeout, func() { // after the deadline of the body
			select {
			case release <- struct{}{}:
			default:
			}
		})
		answer, err := http.ReadResponse(r, nil)
		timer.Stop()
		if err != nil {
			t.Fatalf("request %d: %v", n, err)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK && n != 3 {
			t.Fatalf("request %d = %d, %v, want 200", n, answer.StatusCode, err)
		}
	}
	if a, b := s.result(1), s.result(2); a.Source != middleware.SourceReported || b.Source != middleware.SourceReported {
		t.Errorf("sources = %s, %s, want reported", a.Source, b.Source)
	}
}

// A caller that does not read short responses is disconnected, too.
func TestStalledCallerOfShortResponses(t *testing.T) {
	s := start(t, setup{edit: func(o *proxy.Options) {
		o.StallTimeout = 200 * time.Millisecond
		pass(t, "safe")(o)
	}})
	conn := s.dial()
	requests := strings.Repeat("GET /nope HTTP/1.1\r\nHost: x\r\n\r\n", 1000)
	for {
		if _, err := io.WriteString(conn, requests); err != nil {
			break // closed by the proxy, or timeout
		}
	}
	waittest.Until(t, "the connection to be closed", func() bool { return s.server.InFlight() == 0 })
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("Write = nil, want the connection to be closed")
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _, _ = io.Copy(io.Discard, conn) }()
	select {
	case <-ended:
	case <-time.After(waittest.Limit):
		t.Error("the connection is still open")
	}
}

// TestInterruptedResponseIsCounted: a response that the upstream breaks off is a failure of it, and a
// whole one is none.
func TestInterruptedResponseIsCounted(t *testing.T) {
	metrics := prometheus.NewRegistry()
	s := start(t, setup{
		edit: func(o *proxy.Options) { o.Middleware.Registerer = metrics },
		upstream: handler(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if r.Header.Get("X-Whole") != "" {
				_, _ = io.WriteString(w, `{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}`)
				return
			}
			w.Header().Set("Content-Length", "500")
			_, _ = io.WriteString(w, `{"choices":[`)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}),
	})
	interrupted := func() float64 {
		families, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.Metric {
				if f.GetName() == "bucketring_proxy_upstream_failures_total" && m.Label[0].GetValue() == "interrupted" {
					return m.Counter.GetValue()
				}
			}
		}
		t.Fatal("there is no such counter")
		return 0
	}
	_, _ = io.Copy(io.Discard, s.post("/v1/chat/completions", hello, "X-Whole", "yes").Body)
	if n := interrupted(); n != 0 {
		t.Errorf("%v interrupted responses after a whole one, want 0", n)
	}
	_, _ = io.Copy(io.Discard, s.post("/v1/chat/completions", hello).Body)
	waittest.Until(t, "the interruption to be counted", func() bool { return interrupted() == 1 })
}

// An endless response header takes bounded memory and is an error.
func TestEndlessResponseHeader(t *testing.T) {
	s := start(t, setup{upstream: handler(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 200 OK\r\n")
		line := "X-Filler: " + strings.Repeat("x", 1000) + "\r\n"
		for n := 0; n < 8<<20; n += len(line) {
			if _, err := rw.WriteString(line); err != nil {
				return
			}
		}
		t.Error("8 MiB of headers were taken, want a bound")
	})})
	if answer := s.post("/v1/chat/completions", hello); answer.StatusCode != http.StatusBadGateway {
		t.Errorf("answer = %d, want 502", answer.StatusCode)
	}
	if r := s.result(1); r.Charged.InputTokens == 0 {
		t.Errorf("charged %+v (%s), want the input: it may have run", r.Charged, r.Source)
	}
}

// Endless informational responses end in a timeout.
func TestEndlessInformationalResponses(t *testing.T) {
	s := start(t, setup{
		edit: func(o *proxy.Options) { o.ResponseHeaderTimeout = 300 * time.Millisecond },
		upstream: handler(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", "</x>")
			for r.Context().Err() == nil {
				w.WriteHeader(http.StatusEarlyHints)
				time.Sleep(time.Millisecond) // a slow loop, not a wait
			}
		}),
	})
	answer := s.post("/v1/chat/completions", hello, "Authorization", "Bearer sk-single")
	if answer.StatusCode != http.StatusGatewayTimeout || answer.Header.Get("X-Bucketring-Request-Id") == "" {
		t.Errorf("answer = %d %v, want 504 with our headers", answer.StatusCode, answer.Header)
	}
	if r := s.result(1); r.Charged.InputTokens == 0 {
		t.Errorf("charged %+v (%s), want the input", r.Charged, r.Source)
	}
}

// An endless event is forwarded in pieces and takes bounded memory.
func TestEndlessEventMemory(t *testing.T) {
	const size = 256 << 20
	var peak atomic.Int64 // bytes of the heap that are in use
	s := start(t, setup{upstream: handler(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, `data: {"choices":[],"usage":{"x":"`) // held back at first, because it may be removed
		piece := []byte(strings.Repeat("x", 64<<10))
		for n := 0; n < size; n += len(piece) {
			if _, err := w.Write(piece); err != nil {
				t.Error(err)
				return
			}
			if n%(32<<20) == 0 {
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				peak.Store(max(peak.Load(), int64(m.HeapAlloc)))
			}
		}
	})})
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	answer := s.post("/v1/chat/completions", strings.Replace(hello, "50", `50,"stream":true`, 1))
	n, err := io.Copy(io.Discard, answer.Body)
	if err != nil || n < size {
		t.Fatalf("%d bytes came, %v, want all", n, err)
	}
	grown := peak.Load() - int64(before.HeapAlloc)
	t.Logf("the heap grew by %d bytes, client and upstream included", grown)
	if grown > 4<<20 {
		t.Errorf("the heap grew by %d bytes, want a bound far below the %d of the event", grown, size)
	}
}
