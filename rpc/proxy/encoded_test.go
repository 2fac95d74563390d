// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/bucketring/bucketring/rpc/client/middleware"
)

func zstdOf(t testing.TB, text string) string {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	return string(e.EncodeAll([]byte(text), nil))
}

// A compressed call is sent plain to a server that reads no compression, and one that
// compresses its response all the same is charged what the response says.
func TestCompressedCall(t *testing.T) {
	got := make(chan *http.Request, 1)
	body := make(chan string, 1)
	var response bytes.Buffer
	z := gzip.NewWriter(&response)
	_, _ = io.WriteString(z, `{"choices":[{"index":0,"message":{"role":"assistant","content":"yes"},"finish_reason":"stop"}],"usage":{"prompt_tokens":30,"completion_tokens":4,"total_tokens":34}}`)
	_ = z.Close()
	encoded := response.String()
	s := start(t, setup{upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- r
		body <- string(b)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = io.WriteString(w, encoded)
	})})
	answer := s.post("/v1/chat/completions", zstdOf(t, hello), "Content-Encoding", "zstd", "Accept-Encoding", "gzip, br")
	if text := text(t, answer); text != encoded || answer.Header.Get("Content-Encoding") != "gzip" {
		t.Errorf("answer = %d bytes, %q, want the %d of the upstream", len(text), answer.Header.Get("Content-Encoding"), len(encoded))
	}
	r, b := <-got, <-body
	if b != hello || r.ContentLength != int64(len(hello)) || r.Header.Get("Content-Encoding") != "" || r.Header.Get("Accept-Encoding") != "identity" {
		t.Errorf("upstream got %q of %d bytes, headers %v, want the plain body", b, r.ContentLength, r.Header)
	}
	if r := s.result(1); r.Source != middleware.SourceReported || r.Charged.InputTokens != 30 || r.Charged.OutputTokens != 4 {
		t.Errorf("charged %+v (%s), want 30 and 4", r.Charged, r.Source)
	}
	s.charged("std", 34)
	bomb := zstdOf(t, strings.Repeat("x", middleware.DefaultMaxBodyBytes+1))
	if answer := s.post("/v1/chat/completions", bomb, "Content-Encoding", "zstd"); answer.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a bomb of %d bytes = %d, want 413", len(bomb), answer.StatusCode)
	}
	s.charged("std", 34)
}
