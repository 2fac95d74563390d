// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/internal/waittest"
)

// Large bodies of one tenant, all but the last byte of each, take no more memory than
// its share, and the calls of another tenant go on.
func TestUploadsOfOneTenantAreBounded(t *testing.T) {
	const (
		uploads = 40
		size    = 8 << 20 // the largest body
		share   = 4 * size
	)
	s := start(t, setup{identity: "header:X-Caller"})
	before := liveHeap()
	piece := []byte(strings.Repeat(" ", 64<<10))
	var conns []net.Conn
	var sent sync.WaitGroup
	var rejected, accepted atomic.Int64
	for i := range uploads {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		if err := conn.SetDeadline(time.Now().Add(waittest.Limit)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Caller: flooder/%d\r\nContent-Length: %d\r\n\r\n", i, size)
		sent.Go(func() {
			for left := size - 1; left > 0; left -= len(piece) {
				if _, err := conn.Write(piece[:min(left, len(piece))]); err != nil {
					return
				}
			}
		})
		go func() {
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				return
			}
			defer answer.Body.Close()
			if answer.StatusCode == http.StatusTooManyRequests {
				rejected.Add(1)
			} else {
				accepted.Add(1)
			}
		}()
	}
	for range 50 {
		if answer := s.post("/v1/chat/completions", hello, "X-Caller", "victim/v"); answer.StatusCode != http.StatusOK {
			t.Errorf("a call of another tenant = %d %s, want 200", answer.StatusCode, text(t, answer))
		}
	}
	sent.Wait()
	waittest.Until(t, "36 uploads to be rejected", func() bool { return rejected.Load() == uploads-share/size })
	if got := liveHeap() - before; got > share+share/2 {
		t.Errorf("%d MiB are in use, want %d MiB at most and little else", got>>20, share>>20)
	}
	if accepted.Load() > 0 {
		t.Errorf("%d uploads were answered before their end", accepted.Load())
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// liveHeap returns the bytes of all objects that are reachable.
func liveHeap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// The rate-limit trailers of the upstream, announced or not, do not reach the callers
// of metered calls.
func TestUpstreamTrailersAreRemoved(t *testing.T) {
	s := start(t, setup{edit: pass(t, "POST /v1/rerank"), upstream: handler(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/chat/completions" {
			w.Header().Set("Trailer", "X-Ratelimit-Remaining")
		} else {
			w.Header().Set("Trailer", "X-Ratelimit-Remaining, X-Checksum")
		}
		withUsage(`{"prompt_tokens":5,"completion_tokens":6,"total_tokens":11}`)(w, r)
		w.(http.Flusher).Flush()
		w.Header().Set("X-Ratelimit-Remaining", "777")
		w.Header().Set("X-Checksum", "1")
		if r.URL.Path == "/v1/messages" || r.URL.Path == "/v1/chat/completions" {
			w.Header().Set(http.TrailerPrefix+"Anthropic-Ratelimit-Tokens-Remaining", "777")
		}
	})})
	for path, want := range map[string]http.Header{
		"/v1/chat/completions": {"X-Checksum": {"1"}},
		"/v1/messages":         {},
		"/v1/rerank":           {"X-Ratelimit-Remaining": {"777"}}, // passed unchanged
	} {
		answer := s.post(path, hello)
		if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: answer = %d, %v, want 200", path, answer.StatusCode, err)
		}
		got := answer.Trailer
		if got == nil {
			got = http.Header{}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: trailers (-want +got):\n%s", path, diff)
		}
	}
}
