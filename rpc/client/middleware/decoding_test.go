// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// An encoder compresses what is written to it.
type encoder interface {
	io.WriteCloser
	Flush() error
}

func encoderOf(t testing.TB, coding string, w io.Writer) encoder {
	t.Helper()
	switch coding {
	case "gzip":
		return gzip.NewWriter(w)
	case "deflate":
		return zlib.NewWriter(w)
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func encode(t testing.TB, text string, codings ...string) string {
	t.Helper()
	for _, coding := range codings {
		var b bytes.Buffer
		e := encoderOf(t, coding, &b)
		if _, err := io.WriteString(e, text); err != nil {
			t.Fatal(err)
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		text = b.String()
	}
	return text
}

// An encoded request is the same call as without encoding, and the handler gets it plain.
func TestEncodedRequest(t *testing.T) {
	_, c := start(t)
	got := make(chan string, 10) // what the handler got of a call; never closed
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		got <- fmt.Sprintf("%s %v %d=%s %q %q %q", body, err, r.ContentLength, r.Header.Get("Content-Length"), r.Header.Get("Content-Encoding"), r.Header.Get("Content-Digest"), r.Header.Get("Accept-Encoding"))
		whole(200, completion("Because.", usage40))(w, r)
	})
	text := ask(`,"max_tokens":10`)
	want := fmt.Sprintf(`%s <nil> %d=%[2]d "" "" "identity"`, text, len(text))
	for _, codings := range [][]string{{"zstd"}, {"gzip"}, {"deflate"}, {"gzip", "zstd"}} {
		a, _ := s.post(t, chat, encode(t, text, codings...), "Content-Encoding", strings.Join(codings, ", "), "Content-Digest", "sha-256=:abc:")
		if a.StatusCode != 200 {
			t.Fatalf("%v = %d, want 200", codings, a.StatusCode)
		}
		if g := <-got; g != want {
			t.Errorf("%v: the handler got %s, want %s", codings, g, want)
		}
		wantCharge(t, s.result(t), middleware.SourceReported, 40, 7)
	}
}

// MaxBodyBytes bounds what a body decodes to, and a rejected one charges nothing and
// holds no memory.
func TestEncodedRequestIsBounded(t *testing.T) {
	_, c := start(t)
	reg := prometheus.NewRegistry()
	const most = 10_000
	s := serve(t, middleware.Options{Client: c, MaxBodyBytes: most, BodyMemory: 16 << 20, Registerer: reg}, func(w http.ResponseWriter, _ *http.Request) {
		t.Error("a rejected call reached the handler")
	})
	large := fmt.Sprintf(`{"model":"m","messages":[{"role":"user","content":"%s"}]}`, strings.Repeat("a", most))
	bomb := strings.Repeat("\x00", 32<<20)
	for name, test := range map[string]struct {
		encoding, body string
		status         int
		code           string
	}{
		"zstd":            {"zstd", encode(t, large, "zstd"), 413, "request_too_large"},
		"gzip":            {"gzip", encode(t, large, "gzip"), 413, "request_too_large"},
		"a bomb of zstd":  {"zstd", encode(t, bomb, "zstd"), 413, "request_too_large"},
		"a bomb of gzip":  {"gzip", encode(t, bomb[:4<<20], "gzip"), 413, "request_too_large"}, // less than 10,000 bytes
		"bombs":           {"gzip, gzip", encode(t, bomb, "gzip", "gzip"), 413, "request_too_large"},
		"invalid zstd":    {"zstd", ask(""), 400, "invalid_content_encoding"},
		"invalid gzip":    {"gzip", encode(t, ask(""), "zstd"), 400, "invalid_content_encoding"},
		"empty":           {"gzip", "", 400, "invalid_content_encoding"},
		"cut":             {"zstd", encode(t, ask(""), "zstd")[:40], 400, "invalid_content_encoding"},
		"brotli":          {"br", ask(""), 415, "unsupported_content_encoding"},
		"brotli last":     {"gzip, br", encode(t, ask(""), "gzip"), 415, "unsupported_content_encoding"},
		"brotli first":    {"br, gzip", encode(t, ask(""), "gzip"), 415, "unsupported_content_encoding"},
		"a weight":        {"gzip;q=1", encode(t, ask(""), "gzip"), 415, "unsupported_content_encoding"},
		"identity":        {"identity", large, 413, "request_too_large"},
		"identity too":    {"identity, gzip, Identity", encode(t, large, "gzip"), 413, "request_too_large"},
		"deflate":         {"deflate", encode(t, large, "deflate"), 413, "request_too_large"},
		"two codings":     {"gzip, zstd", encode(t, large, "gzip", "zstd"), 413, "request_too_large"},
		"wrong order":     {"zstd, gzip", encode(t, ask(""), "gzip", "zstd"), 400, "invalid_content_encoding"},
		"only one of two": {"gzip, zstd", encode(t, ask(""), "zstd"), 400, "invalid_content_encoding"},
		"many":            {"gzip, gzip, gzip", ask(""), 415, "unsupported_content_encoding"},
		// Reserves a window of 8 MiB, which is more than a share of 2 MiB.
		"much memory": {"zstd", "\x28\xb5\x2f\xfd\x00\x68\x01\x00\x00", 429, "body_share_exceeded"},
	} {
		a, text := s.post(t, chat, test.body, "Content-Encoding", test.encoding)
		if a.StatusCode != test.status || !strings.Contains(text, test.code) {
			t.Errorf("%s = %d %s, want %d %s", name, a.StatusCode, text, test.status, test.code)
		}
		if accept := a.Header.Get("Accept-Encoding"); (accept == "zstd, gzip, deflate") != (test.status == 415) {
			t.Errorf("%s: Accept-Encoding = %q, want the codings with 415 only", name, accept)
		}
	}
	wantUsed(t, c, "free", "requests", 0)
	waittest.Until(t, "no body to be in memory", func() bool {
		return slices.Contains(samples(reg), "bucketring_middleware_body_bytes 0")
	})
}

// The caller gets an encoded response as it is, and is charged what it says.
func TestEncodedResponse(t *testing.T) {
	stream := event("Because") + event(" of") + event(" it.") + usageEvent(40, 7) + doneEvent
	for _, codings := range [][]string{{"gzip"}, {"zstd"}, {"deflate"}, {"gzip", "zstd"}} {
		for name, test := range map[string]struct{ members, text, kind string }{
			"whole":  {``, completion("Because of it.", usage40), "application/json"},
			"stream": {`,"stream":true`, stream, "text/event-stream"},
		} {
			t.Run(fmt.Sprint(name, codings), func(t *testing.T) {
				_, c := start(t)
				encoded := encode(t, test.text, codings...)
				s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Type", test.kind)
					w.Header().Set("Content-Encoding", strings.Join(codings, ", "))
					for b := range slices.Chunk([]byte(encoded), 7) {
						_, _ = w.Write(b)
					}
				})
				a, got := s.post(t, chat, ask(test.members), "Accept-Encoding", "gzip, zstd")
				if got != encoded || a.Header.Get("Content-Encoding") != strings.Join(codings, ", ") {
					t.Errorf("the caller got %d bytes as %q, want the %d that were sent", len(got), a.Header.Get("Content-Encoding"), len(encoded))
				}
				wantCharge(t, s.result(t), middleware.SourceReported, 40, 7)
			})
		}
	}
}

// An encoded stream is forwarded and counted as it arrives.
func TestEncodedStreamIsNotDelayed(t *testing.T) {
	for _, coding := range []string{"gzip", "zstd"} {
		t.Run(coding, func(t *testing.T) {
			_, c := start(t)
			received := make(chan struct{})
			s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Header().Set("Content-Encoding", coding)
				e := encoderOf(t, coding, w)
				for range 5 {
					_, _ = io.WriteString(e, event("a"))
					_ = e.Flush()
					select {
					case <-received:
					case <-r.Context().Done():
					}
				}
				panic(http.ErrAbortHandler) // the stream breaks off
			})
			a := s.call(t.Context(), t, chat, ask(`,"stream":true`), "Accept-Encoding", coding)
			var decoded io.Reader
			var err error
			if coding == "gzip" {
				decoded, err = gzip.NewReader(a.Body)
			} else {
				decoded, err = zstd.NewReader(a.Body, zstd.WithDecoderConcurrency(1))
			}
			if err != nil {
				t.Fatal(err)
			}
			for range 5 {
				got := make([]byte, len(event("a")))
				if _, err := io.ReadFull(decoded, got); err != nil || string(got) != event("a") {
					t.Fatalf("got %q, %v, want an event", got, err)
				}
				received <- struct{}{}
			}
			wantEstimate(t, c, s.result(t), middleware.SourcePartial, 5)
		})
	}
}

// A response that cannot be decoded reaches the caller, and its charge errs high.
func TestUndecodableResponse(t *testing.T) {
	text := completion(strings.Repeat("Because. ", 100), usage40)
	for name, test := range map[string]struct {
		encoding, body string
		members        string
		output         int64
	}{
		"brotli":             {"br", strings.Repeat("x", 200), ``, 200},
		"a smaller grant":    {"br", strings.Repeat("x", 200), `,"max_tokens":20`, 20},
		"not gzip":           {"gzip", text, ``, int64(len(text))}, // nothing bounds the call
		"a bomb":             {"gzip", encode(t, strings.Repeat("x", 100<<20), "gzip"), `,"max_tokens":500`, 500},
		"a bomb of comments": {"zstd", encode(t, strings.Repeat(": keep-alive\n\n", 6<<20), "zstd"), `,"stream":true,"max_tokens":300`, 300},
		"usage, then broken": {"gzip", encode(t, text, "gzip") + strings.Repeat("x", 100), ``, -1},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			reg := prometheus.NewRegistry()
			s := serve(t, middleware.Options{Client: c, Registerer: reg}, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", test.encoding)
				_, _ = io.WriteString(w, test.body)
			})
			_, got := s.post(t, chat, ask(test.members), "Accept-Encoding", "gzip")
			if got != test.body {
				t.Errorf("the caller got %d bytes, want the %d that were sent", len(got), len(test.body))
			}
			if r := s.result(t); test.output < 0 {
				wantCharge(t, r, middleware.SourceReported, 40, 7) // it was read before
			} else {
				wantEstimate(t, c, r, middleware.SourceEstimated, test.output)
			}
			if want := `bucketring_middleware_encoded_responses_total{result="estimated"} 1`; !slices.Contains(samples(reg), want) {
				t.Errorf("metrics lack %s", want)
			}
		})
	}
}
