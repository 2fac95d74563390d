// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

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
