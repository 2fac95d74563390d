// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"net/http"
	"strings"
	"testing"
)

// The class of a call is for the node only, and a wrong one gets a 400.
func TestClassIsNotSentToTheUpstream(t *testing.T) {
	s := start(t, setup{upstream: http.HandlerFunc(echo)})
	const path, body = "/v1/chat/completions", `{"model":"m","messages":[{"role":"user","content":"hello there"}]}`
	answer := s.post(path, body, "X-Bucketring-Priority", "batch", "X-Other", "x")
	if answer.StatusCode != 200 || answer.Header.Get("Got-X-Other") != "x" || answer.Header.Get("Got-X-Bucketring-Priority") != "" {
		t.Errorf("got %d with headers %v, want 200, and no class at the upstream", answer.StatusCode, answer.Header)
	}
	answer = s.post(path, body, "X-Bucketring-Priority", "urgent")
	if got := text(t, answer); answer.StatusCode != 400 || !strings.Contains(got, `"param":"X-Bucketring-Priority"`) {
		t.Errorf("an unknown class: got %d %s, want 400", answer.StatusCode, got)
	}
}
