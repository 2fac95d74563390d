// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/rpc/proxy"
)

// A call that is metered by count has the model of its path, or else of its body, and its
// price. The body reaches the model server as it is.
func TestModelOfCountedCalls(t *testing.T) {
	const answer = `{"created":1,"data":[{"b64_json":"QUJD"},{"b64_json":"QUJE"}]}`
	s := start(t, setup{
		identity: "header:X-User",
		upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("X-Got", fmt.Sprintf("%x", sha256.Sum256(body)))
			if r.ContentLength >= 0 && r.ContentLength != int64(len(body)) {
				t.Errorf("the upstream got %d bytes, declared %d", len(body), r.ContentLength)
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, answer)
		}),
		edit: func(o *proxy.Options) {
			meter(t, "POST /*")(o)
			o.Middleware.MaxBodyBytes = 1 << 16
		},
	})
	zipped := func(text string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = io.WriteString(w, text)
		_ = w.Close()
		return b.String()
	}
	long := strings.Repeat("x", 1<<17)
	multipart := func(parts ...string) string {
		return "--x\r\nContent-Disposition: form-data; name=" + strings.Join(parts, "\r\n--x\r\nContent-Disposition: form-data; name=") + "\r\n--x--\r\n"
	}
	const form = "multipart/form-data; boundary=x"
	for i, tt := range []struct {
		name, path, body string
		kind, coding     string
		model            string
	}{
		{"JSON", "/v1/images/generations", `{"prompt":"a cat","model":"fees"}`, "application/json", "", "fees"},
		{"no model", "/v1/images/generations", `{"prompt":"a cat"}`, "application/json", "", ""},
		{"gzip", "/v1/images/generations", zipped(`{"prompt":"a cat","model":"fees"}`), "application/json", "gzip", "fees"},
		{"not gzip", "/v1/images/generations", `{"prompt":"a cat","model":"fees"}`, "application/json", "gzip", ""},
		{"path", "/openai/deployments/fees/images/generations", `{"model":"other"}`, "application/json", "", "fees"},
		{"form", "/v1/images/edits", multipart("image\r\n\r\nQUJD", "model\r\n\r\nfees"), form, "", "fees"},
		{"long form", "/v1/images/edits", multipart("model\r\n\r\nfees", "image\r\n\r\n"+long), form, "", "fees"},
		{"the model of a long form is too far away", "/v1/images/edits", multipart("image\r\n\r\n"+long, "model\r\n\r\nfees"), form, "", ""},
		{"long JSON", "/v1/images/edits", `{"model":"fees","image":"` + long + `"}`, "application/json", "", "fees"},
		{"no body", "/v1/images/variations", "", "", "", ""},
		{"bytes", "/v1/images/variations", "\x89PNG" + long, "image/png", "", ""},
	} {
		r := s.post(tt.path, tt.body, "X-User", "books/"+strings.ReplaceAll(tt.name, " ", "-"), "Content-Type", tt.kind, "Content-Encoding", tt.coding)
		if got := text(t, r); r.StatusCode != http.StatusOK || got != answer || r.Header.Get("X-Got") != fmt.Sprintf("%x", sha256.Sum256([]byte(tt.body))) {
			t.Fatalf("%s: %d %q, want the answer to the body as it was sent", tt.name, r.StatusCode, got)
		}
		got := s.result(i + 1)
		if got.Model != tt.model || got.Charged.Images != 2 {
			t.Errorf("%s: model %q, charged %+v, want model %q and 2 images", tt.name, got.Model, got.Charged, tt.model)
		}
		want := int64(0)
		if tt.model == "fees" {
			want = 80_000
		}
		if now := s.books("books/" + strings.ReplaceAll(tt.name, " ", "-")); now.Spend != want {
			t.Errorf("%s: charged %+v, want %d millionths", tt.name, now, want)
		}
	}
	for name, body := range map[string]string{"two models": `{"model":"a","model":"fees"}`, "another case": `{"MODEL":"fees"}`, "too long": `{"model":"` + strings.Repeat("m", 300) + `"}`} {
		if r := s.post("/v1/images/generations", body, "X-User", "books/x"); r.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d, want 400", name, r.StatusCode)
		}
	}
}

// With StreamUsageNever, a usage chunk that the model server sends unasked reaches the
// caller, and so does "usage":null.
func TestNothingIsRemovedThatWasNotAdded(t *testing.T) {
	const stream = `data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}` + "\n\n" +
		`data: {"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1,"total_tokens":6}}` + "\n\ndata: [DONE]\n\n"
	for mode, want := range map[string]string{"never": stream, "auto": "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n"} {
		s := start(t, setup{
			upstream: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, stream)
			}),
			edit: func(o *proxy.Options) {
				var err error
				if o.Middleware.StreamUsage, err = proxy.ParseStreamUsage(mode); err != nil {
					t.Fatal(err)
				}
			},
		})
		if got := text(t, s.post("/v1/chat/completions", `{"model":"m","stream":true,"messages":[{"role":"user","content":"hello there"}]}`)); got != want {
			t.Errorf("%s: the caller got %q, want %q", mode, got, want)
		}
		if r := s.result(1); r.Charged.InputTokens != 5 || r.Charged.OutputTokens != 1 {
			t.Errorf("%s: charged %+v, want 5 and 1", mode, r.Charged)
		}
	}
}
