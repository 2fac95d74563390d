// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"bufio"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// reverse returns a reverse proxy in front of a new server.
func reverse(t *testing.T, upstream http.HandlerFunc) http.HandlerFunc {
	t.Helper()
	s := httptest.NewServer(upstream)
	t.Cleanup(s.Close)
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport,
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	return proxy.ServeHTTP
}

// cut closes the connection before the end of the response.
func cut(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_ = conn.Close()
}

// readAll makes a call and reads its answer to the end.
func readAll(url, body string) error {
	a, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer a.Body.Close()
	_, err = io.Copy(io.Discard, a.Body)
	return err
}

func TestUpstreamDisconnects(t *testing.T) {
	for name, test := range map[string]struct {
		upstream http.HandlerFunc
		source   middleware.Source
		output   int64
	}{
		"in mid-stream": {func(w http.ResponseWriter, r *http.Request) {
			streaming(event("a"), event("b"))(w, r)
			cut(w)
		}, middleware.SourcePartial, 2},
		"in a whole answer": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.Header().Set("Content-Type", "application/json")
			text := completion(strings.Repeat("a", 30), "")
			_, _ = io.WriteString(w, text[:strings.Index(text, "aaa")+21])
			w.(http.Flusher).Flush()
			cut(w)
		}, middleware.SourcePartial, 7},
		"after the usage": {func(w http.ResponseWriter, r *http.Request) {
			streaming(event("a"), usageEvent(105, 9))(w, r)
			cut(w)
		}, middleware.SourceReported, 9},
		"at once": {func(w http.ResponseWriter, _ *http.Request) { cut(w) }, middleware.SourceCancelled, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			s := serve(t, middleware.Options{Client: c}, reverse(t, test.upstream))
			if err := readAll(s.URL+chat, ask(`,"stream":true`)); (err == nil) != (test.source == middleware.SourceCancelled) {
				t.Errorf("the caller saw %v, want a broken answer, or a 502", err)
			}
			r := s.result(t)
			if r.Source == middleware.SourceCancelled {
				wantCharge(t, r, test.source, 0, 0)
				wantUsed(t, c, "free", "tokens", 0)
			} else {
				wantEstimate(t, c, r, test.source, test.output)
			}
			wantUsed(t, c, "free", "concurrent", 0)
		})
	}
}

func TestDisconnectBehindReverseProxy(t *testing.T) {
	for name, test := range map[string]struct {
		mode          middleware.DisconnectMode
		source        middleware.Source
		input, output int64 // input 0: estimated
	}{
		"charge_streamed": {middleware.ChargeStreamed, middleware.SourcePartial, 0, 1},
		"drain":           {middleware.Drain, middleware.SourceReported, 40, 900},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			left := make(chan struct{})
			stopped := make(chan bool, 1)
			upstream := func(w http.ResponseWriter, r *http.Request) {
				streaming(event("a"))(w, r)
				<-left
				if test.mode == middleware.ChargeStreamed {
					<-r.Context().Done()
					stopped <- true
					return
				}
				streaming(event(strings.Repeat("b", 1<<20)), usageEvent(40, 900), doneEvent)(w, r)
				stopped <- r.Context().Err() != nil
			}
			s := serve(t, middleware.Options{Client: c, OnDisconnect: test.mode}, reverse(t, upstream))
			leave(t, s, 1)
			close(left)
			if got := <-stopped; got != (test.mode == middleware.ChargeStreamed) {
				t.Errorf("the model was stopped: %v", got)
			}
			r := s.result(t)
			if test.input == 0 {
				wantEstimate(t, c, r, test.source, test.output)
				return
			}
			wantCharge(t, r, test.source, test.input, test.output)
			wantUsed(t, c, "free", "tokens", test.input+test.output)
			wantUsed(t, c, "free", "concurrent", 0)
		})
	}
}

// For a hundred concurrent calls with different endings, the node has charged what
// the results say, and no slot is held.
func TestStorm(t *testing.T) {
	for _, mode := range []middleware.DisconnectMode{middleware.ChargeStreamed, middleware.Drain} {
		t.Run(mode.String(), func(t *testing.T) {
			_, c := start(t)
			ends := []func(w http.ResponseWriter, r *http.Request){
				streaming(event("a"), usageEvent(40, 9), doneEvent),
				streaming(event("a"), doneEvent),
				whole(503, `{}`),
				func(w http.ResponseWriter, r *http.Request) {
					streaming(event("a"))(w, r)
					panic(http.ErrAbortHandler)
				},
				func(w http.ResponseWriter, r *http.Request) {
					streaming(event("a"), event("b"))(w, r)
					for range 50 {
						streaming(event(strings.Repeat("c", 1000)))(w, r)
					}
				},
			}
			s := serve(t, middleware.Options{Client: c, Identify: identifyAs("big"), OnDisconnect: mode}, func(w http.ResponseWriter, r *http.Request) {
				i, err := strconv.Atoi(r.URL.Query().Get("i"))
				if err != nil {
					t.Error(err)
				}
				ends[i%len(ends)](w, r)
			})
			const calls = 100
			var wg sync.WaitGroup
			for i := range calls {
				wg.Go(func() {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					a := s.call(ctx, t, chat+"?i="+strconv.Itoa(i), ask(`,"stream":true`))
					if i%len(ends) == 4 { // leaves after an event
						next(t, bufio.NewReader(a.Body))
						return
					}
					_, _ = io.Copy(io.Discard, a.Body)
				})
			}
			wg.Wait()
			var tokens, requests int64
			sources := map[middleware.Source]int{}
			for range calls {
				r := s.result(t)
				if r.Err != nil || r.Deferred || r.Outcome != client.Allowed {
					t.Errorf("OnDone(%+v)", r)
				}
				sources[r.Source]++
				tokens += r.Charged.InputTokens + r.Charged.OutputTokens
				if r.Source != middleware.SourceCancelled {
					requests++
				}
			}
			wantUsed(t, c, "big", "tokens", tokens)
			wantUsed(t, c, "big", "requests", requests)
			wantUsed(t, c, "big", "concurrent", 0)
			if sources[middleware.SourceReported] != calls/5 || sources[middleware.SourceCancelled] != calls/5 || sources[middleware.SourcePartial] < calls/5 || sources[middleware.SourceEstimated] < calls/5 {
				t.Errorf("sources = %v, want a fifth and more of each", sources)
			}
		})
	}
}
