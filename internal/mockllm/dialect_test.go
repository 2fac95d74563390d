// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"strings"
	"testing"
)

const (
	dialectChat     = `{"model":"m","messages":[{"role":"user","content":"hi"}]`
	dialectMessages = `{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"hi"}]`
)

// TestDialects: each dialect reports the same usage in its own way.
func TestDialects(t *testing.T) {
	s := start(t, Options{})
	numbers := []string{"X-Mock-Input-Tokens", "100", "X-Mock-Cached-Tokens", "40", "X-Mock-Cache-Write-Tokens", "25", "X-Mock-Output-Tokens", "20", "X-Mock-Reasoning-Tokens", "15"}
	const details = `"prompt_tokens_details":{"cached_tokens":40},"completion_tokens_details":{"reasoning_tokens":15}}`
	for _, tt := range []struct {
		dialect    Dialect
		path, body string
		want       []string // in this order
	}{
		{Plain, "/v1/chat/completions", dialectChat + `}`, []string{`"usage":{"prompt_tokens":100,"completion_tokens":20,"total_tokens":120,` + details}},
		{Beside, "/v1/chat/completions", dialectChat + `}`, []string{`"usage":{"prompt_tokens":100,"completion_tokens":5,"total_tokens":120,` + details}},
		{Relay, "/v1/chat/completions", dialectChat + `}`, []string{`"usage":{"prompt_tokens":"100","completion_tokens":"20","total_tokens":"120","prompt_cache_hit_tokens":"40"}`}},
		{Beside, "/v1/chat/completions", dialectChat + `,"stream":true,"stream_options":{"include_usage":true}}`, []string{`"completion_tokens":5,"total_tokens":120,` + details}},
		{Beside, "/v1/responses", `{"model":"m","input":"hi"}`, []string{`"output_tokens":5,"output_tokens_details":{"reasoning_tokens":15},"total_tokens":120}`}},
		{Plain, "/v1/messages", dialectMessages + `,"stream":true}`, []string{
			`"usage":{"input_tokens":35,"cache_creation_input_tokens":25,"cache_read_input_tokens":40,"output_tokens":1,`, `"usage":{"output_tokens":20}`,
		}},
		{Beside, "/v1/messages", dialectMessages + `}`, []string{`"usage":{"input_tokens":35,"cache_creation_input_tokens":25,"cache_read_input_tokens":40,"output_tokens":20,`}},
		{Relay, "/v1/messages", dialectMessages + `,"stream":true}`, []string{
			`"usage":{"input_tokens":100,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1,`,
			`"usage":{"input_tokens":35,"cache_creation_input_tokens":25,"cache_read_input_tokens":40,"output_tokens":20,`,
		}},
	} {
		status, text := s.ask(tt.path, tt.body, append([]string{"X-Mock-Dialect", string(tt.dialect)}, numbers...)...)
		rest := text
		for _, want := range tt.want {
			var found bool
			if _, rest, found = strings.Cut(rest, want); !found {
				t.Errorf("%s of %s: status %d\n%s\nwant %s", tt.path, tt.dialect, status, text, want)
				break
			}
		}
	}
	if status, text := s.ask("/v1/chat/completions", dialectChat+`}`, "X-Mock-Dialect", "latin"); status != 400 || !strings.Contains(text, "X-Mock-Dialect") {
		t.Errorf("an unknown dialect: status %d, %s, want 400 and its header", status, text)
	}
}

// TestDialectsAtRandom: a call has one of the dialects of the options.
func TestDialectsAtRandom(t *testing.T) {
	s := start(t, Options{Dialects: []Dialect{Beside, Relay}, ReasoningShare: 0.5, Seed: 1})
	seen := map[string]bool{}
	for range 64 {
		_, text := s.ask("/v1/chat/completions", dialectChat+`}`)
		switch {
		case strings.Contains(text, `"completion_tokens":"64"`):
			seen["relay"] = true
		case strings.Contains(text, `"completion_tokens":32,`):
			seen["beside"] = true
		default:
			t.Fatalf("another dialect: %s", text)
		}
	}
	if len(seen) != 2 {
		t.Errorf("64 calls have %v, want both dialects", seen)
	}
	if err := (Options{Dialects: []Dialect{"latin"}}).Validate(); err == nil || !strings.Contains(err.Error(), "dialects") {
		t.Errorf("Validate = %v, want an error about dialects", err)
	}
}
