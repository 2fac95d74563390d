// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The rate-limit trailers of the upstream, announced or not, do not reach the callers
// of metered calls.
func TestUpstreamTrailersAreRemoved(t *testing.T) {
	s := start(t, setup{upstream: handler(func(w http.ResponseWriter, r *http.Request) {
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
