// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

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

const mib = 1 << 20

// upload sends the head of a request with a declared length (negative: in chunks) and
// the first bytes of its body, and returns the connection.
func upload(t testing.TB, s *site, path, key string, declared int, body string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(waittest.Limit)); err != nil {
		t.Fatal(err)
	}
	length := fmt.Sprintf("Content-Length: %d", declared)
	if declared < 0 {
		length = "Transfer-Encoding: chunked"
		body = fmt.Sprintf("%x\r\n%s\r\n", len(body), body)
	}
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: h\r\nX-Key: %s\r\nX-Tier: big\r\n%s\r\n\r\n%s", path, key, length, body); err != nil {
		t.Fatal(err)
	}
	return conn
}

// bodySite returns a server whose handler blocks until end is called, and its gauge of
// body bytes.
func bodySite(t *testing.T, o middleware.Options) (s *site, bodyBytes func() float64, end func()) {
	t.Helper()
	_, c := start(t)
	block := make(chan struct{}) // closed by end
	reg := prometheus.NewRegistry()
	o.Client, o.Identify, o.Registerer = c, identifyByHeader, reg
	s = serve(t, o, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-block
		whole(200, completion("Because.", usage40))(w, r)
	})
	end = sync.OnceFunc(func() { close(block) })
	t.Cleanup(end)
	return s, func() float64 { return metric(t, reg, "bucketring_middleware_body_bytes") }, end
}

// metric returns the value of a metric as it stands on the metrics page.
func metric(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	for _, line := range samples(reg) {
		if text, ok := strings.CutPrefix(line, name+" "); ok {
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return value
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// Declared bodies take their share before they arrive. The next one of the same root is
// rejected at once, and the bodies of another root are not.
func TestDeclaredBodiesAreReserved(t *testing.T) {
	s, bodyBytes, _ := bodySite(t, middleware.Options{MaxBodyBytes: mib, BodyMemory: 32 * mib})
	var held []net.Conn
	for i := range 4 {
		held = append(held, upload(t, s, chat, fmt.Sprint("flooder/", i), mib, "{"))
	}
	waittest.Until(t, "4 MiB to be reserved", func() bool { return bodyBytes() == 4*mib })
	for _, test := range []struct{ path, want string }{{chat, `"code":"body_share_exceeded"`}, {messages, `"type":"rate_limit_error"`}} {
		conn := upload(t, s, test.path, "flooder/more", mib, "{")
		a, err := http.ReadResponse(bufio.NewReader(conn), nil) // although the body has not arrived
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(a.Body)
		if err != nil || a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" || !strings.Contains(string(text), test.want) {
			t.Errorf("POST %s = %d %v %s, %v, want 429 with %s", test.path, a.StatusCode, a.Header, text, err, test.want)
		}
		_ = a.Body.Close()
		_ = conn.Close()
	}
	other := upload(t, s, chat, "victim/v", mib, "{")
	waittest.Until(t, "the body of another root to be reserved", func() bool { return bodyBytes() == 5*mib })
	_ = other.Close()
	for _, conn := range held {
		_ = conn.Close()
	}
	waittest.Until(t, "all bodies to be released", func() bool { return bodyBytes() == 0 })
}

// A caller that sends its whole body before it reads gets the rejection all the same.
func TestRejectedBodyIsDiscarded(t *testing.T) {
	s, bodyBytes, _ := bodySite(t, middleware.Options{MaxBodyBytes: 4 * mib, BodyMemory: 32 * mib})
	held := upload(t, s, chat, "acme", 4*mib, "{")
	waittest.Until(t, "4 MiB to be reserved", func() bool { return bodyBytes() == 4*mib })
	for range 10 {
		if a, text := s.post(t, chat, prompt(3*mib), "X-Key", "acme", "X-Tier", "big"); a.StatusCode != http.StatusTooManyRequests {
			t.Fatalf("got %d %s, want 429", a.StatusCode, text)
		}
	}
	_ = held.Close()
}

// Bodies without a declared length are reserved as they grow.
func TestChunkedBodiesAreReserved(t *testing.T) {
	s, bodyBytes, end := bodySite(t, middleware.Options{MaxBodyBytes: mib, BodyMemory: 8 * mib})
	first := upload(t, s, chat, "flooder/a", -1, strings.Repeat(" ", 3<<10))
	waittest.Until(t, "a little to be reserved", func() bool { return bodyBytes() == 4<<10 })
	rest := prompt(600 << 10)
	if _, err := fmt.Fprintf(first, "%x\r\n%s\r\n0\r\n\r\n", len(rest), rest); err != nil {
		t.Fatal(err)
	}
	waittest.Until(t, "1 MiB to be reserved", func() bool { return bodyBytes() == mib })
	if a := upload(t, s, chat, "flooder/b", -1, strings.Repeat(" ", 1<<10)); !strings.HasPrefix(readLine(t, a), "HTTP/1.1 429 ") {
		t.Error("a second body of the root was accepted")
	}
	end()
	if got := readLine(t, first); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("the first body: %s, want 200", got)
	}
	waittest.Until(t, "all bodies to be released", func() bool { return bodyBytes() == 0 })
}

func readLine(t testing.TB, conn net.Conn) string {
	t.Helper()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// When the memory is taken by many roots, others are told that it is not their fault.
func TestBodyMemoryIsBounded(t *testing.T) {
	s, bodyBytes, _ := bodySite(t, middleware.Options{MaxBodyBytes: mib, BodyMemory: 8 * mib})
	for i := range 7 {
		upload(t, s, chat, fmt.Sprint("flooder-", i), mib, "{")
		waittest.Until(t, "1 MiB more to be reserved", func() bool { return bodyBytes() == float64((i+1)*mib) })
	}
	for _, test := range []struct{ path, want string }{{chat, `"code":"body_memory_exceeded"`}, {messages, `"type":"overloaded_error"`}} {
		conn := upload(t, s, test.path, "victim", mib, "{")
		a, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(a.Body)
		if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || !strings.Contains(string(text), test.want) {
			t.Errorf("POST %s = %d %v %s, want 503 with %s", test.path, a.StatusCode, a.Header, text, test.want)
		}
		_ = a.Body.Close()
	}
	upload(t, s, chat, "victim", 100<<10, "{") // a smaller one
	waittest.Until(t, "a small body to be reserved", func() bool { return bodyBytes() == 7*mib+100<<10 })
}

// The body of a stream is not kept while it runs, and neither is that of any call that
// has ended.
func TestBodyIsReleasedWhenTheResponseStarts(t *testing.T) {
	_, c := start(t)
	reg := prometheus.NewRegistry()
	bodyBytes := func() float64 { return metric(t, reg, "bucketring_middleware_body_bytes") }
	var handler http.HandlerFunc
	s := serve(t, middleware.Options{Client: c, Identify: identifyAs("big"), Registerer: reg, StreamUsage: middleware.StreamUsageNever}, func(w http.ResponseWriter, r *http.Request) { handler(w, r) })
	block := make(chan struct{})
	handler = func(w http.ResponseWriter, r *http.Request) {
		for range 2 { // as a transport that tries again
			body, err := r.GetBody()
			if err != nil {
				t.Fatal(err)
			}
			if text, err := io.ReadAll(body); err != nil || string(text) != ask(`,"max_tokens":10,"stream":true`) {
				t.Errorf("GetBody() = %q, %v", text, err)
			}
		}
		_, _ = io.Copy(io.Discard, r.Body)
		if got := int(bodyBytes()); got != len(ask(`,"max_tokens":10,"stream":true`)) {
			t.Errorf("%d bytes are reserved before the response, want those of the body", got)
		}
		streaming(event("a"))(w, r)
		<-block
	}
	a := s.call(t.Context(), t, chat, ask(`,"max_tokens":10,"stream":true`))
	b := bufio.NewReader(a.Body)
	next(t, b)
	if got := bodyBytes(); got != 0 {
		t.Errorf("%v bytes are reserved while the stream runs, want 0", got)
	}
	close(block)
	_, _ = io.Copy(io.Discard, b)
	s.result(t)
	for name, h := range map[string]http.HandlerFunc{
		"not read": whole(200, completion("a", usage40)),
		"panics":   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"an error": whole(500, "{}"),
	} {
		handler = h
		if q, err := http.Post(s.URL+chat, "application/json", strings.NewReader(ask(""))); err == nil {
			_ = q.Body.Close()
		}
		s.result(t)
		waittest.Until(t, name+": the body to be released", func() bool { return bodyBytes() == 0 })
	}
	s.post(t, chat, "{")                                // invalid
	s.post(t, chat, ask(`,"max_tokens":1000000000000`)) // denied
	waittest.Until(t, "rejected bodies to be released", func() bool { return bodyBytes() == 0 })
}

// A slow sender gives its share back after BodyTimeout, also if the server has no
// timeout.
func TestSlowBodyTimesOut(t *testing.T) {
	s, bodyBytes, _ := bodySite(t, middleware.Options{BodyTimeout: 50 * time.Millisecond})
	conn := upload(t, s, chat, "acme", mib, "{")
	if got := readLine(t, conn); !strings.HasPrefix(got, "HTTP/1.1 408 ") {
		t.Errorf("got %s, want 408", got)
	}
	waittest.Until(t, "the body to be released", func() bool { return bodyBytes() == 0 })
}

// The deadline of a body does not end the call.
func TestBodyTimeoutEndsWithTheBody(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c, BodyTimeout: 50 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
			t.Error("the call was cancelled")
		case <-time.After(150 * time.Millisecond):
		}
		whole(200, completion("Because.", usage40))(w, r)
	})
	if a, text := s.post(t, chat, ask("")); a.StatusCode != 200 {
		t.Errorf("got %d %s, want 200", a.StatusCode, text)
	}
	wantCharge(t, s.result(t), middleware.SourceReported, 40, 7)
}
