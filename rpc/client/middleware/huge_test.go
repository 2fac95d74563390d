// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// TestHugePromptsStayWithinTheLimitOverTime checks that a caller who sends prompts far
// above a limit, each as soon as it is admitted, gets no more over time than the capacity,
// the refill and one call.
func TestHugePromptsStayWithinTheLimitOverTime(t *testing.T) {
	const capacity, input = 10_000, 200_000 // tokens; the limit is one capacity a minute
	n, c := start(t)
	usage := fmt.Sprintf(`{"prompt_tokens":%d,"completion_tokens":5,"total_tokens":%d}`, input, input+5)
	s := serve(t, middleware.Options{Client: c, Identify: identifyAs("pool")}, whole(http.StatusOK, completion("hi", usage)))
	prompt := `{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"` + strings.Repeat("words ", 100_000) + `"}]}`
	var elapsed time.Duration
	admitted := int64(0)
	for calls := 0; calls < 4; {
		a, body := s.post(t, chat, prompt)
		r := s.result(t)
		switch a.StatusCode {
		case http.StatusOK:
			calls++
			if admitted += r.Charged.InputTokens + r.Charged.OutputTokens; r.Charged.InputTokens != input {
				t.Fatalf("call %d is charged %d tokens of input, want %d", calls, r.Charged.InputTokens, input)
			}
		case http.StatusTooManyRequests:
			seconds, err := strconv.Atoi(a.Header.Get("Retry-After"))
			if err != nil {
				t.Fatalf("denied without a time to wait: %s", body)
			}
			n.advance(time.Duration(seconds) * time.Second)
			elapsed += time.Duration(seconds) * time.Second
		default:
			t.Fatalf("status = %d: %s", a.StatusCode, body)
		}
		if most := capacity + int64(elapsed/time.Second)*capacity/60 + input + 5; admitted > most {
			t.Fatalf("after %d calls in %v: %d tokens, want at most %d", calls, elapsed, admitted, most)
		}
	}
}

// TestPromptsThatAreCountedAreDeniedAboveTheCapacity checks that what is no estimate is
// denied for good, and reaches no model.
func TestPromptsThatAreCountedAreDeniedAboveTheCapacity(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c, Identify: identifyAs("pool")}, func(http.ResponseWriter, *http.Request) {
		t.Error("a denied call reached the handler")
	})
	for name, body := range map[string]string{
		"token ids":            `{"prompt":[` + strings.Repeat("7,", 10_000) + `7]}`,
		"lists of token ids":   `{"prompt":[` + strings.Repeat("[1,2,3],", 4000) + `[4]],"max_tokens":1}`,
		"text, 256 to a token": `{"prompt":"` + strings.Repeat("a", 256*10_001) + `","max_tokens":1}`,
	} {
		a, text := s.post(t, "/v1/completions", body)
		if a.StatusCode != http.StatusTooManyRequests || !strings.Contains(text, "exceeds_capacity") || a.Header.Get("Retry-After") != "" {
			t.Errorf("%s: %d %.300s, want 429 exceeds_capacity and no time", name, a.StatusCode, text)
		}
		if r := s.result(t); r.Charged.InputTokens != 0 {
			t.Errorf("%s is charged %d tokens, want none", name, r.Charged.InputTokens)
		}
	}
	wantUsed(t, c, "pool", "tokens", 0)
}

// TestManyPrompts checks that a list may have any number of prompts, and that each has the
// output bound.
func TestManyPrompts(t *testing.T) {
	const prompts = 3000
	_, c := start(t)
	var held int64
	s := serve(t, middleware.Options{Client: c, Identify: identifyAs("big")}, func(w http.ResponseWriter, r *http.Request) {
		held = used(t, c, "big", "tokens")
		whole(http.StatusOK, `{"choices":[],"usage":{"prompt_tokens":6000,"completion_tokens":9}}`)(w, r)
	})
	for name, prompt := range map[string]string{"texts": `"ab"`, "token ids": "[1,2]"} {
		a, text := s.post(t, "/v1/completions", `{"model":"m","max_tokens":4,"prompt":[`+strings.Repeat(prompt+",", prompts-1)+prompt+`]}`)
		if a.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s, want 200", name, a.StatusCode, text)
		}
		if held < 4*prompts+prompts*2/6 || held > 4*prompts+2*prompts+6009 { // with the tokens of the first call
			t.Errorf("%s: %d tokens are held, want 4 of output for each of %d prompts, and their input", name, held, prompts)
		}
		s.result(t)
	}
}

// TestDefaultModel checks that a call without a model has the limits of the default model,
// and reaches the handler as it came.
func TestDefaultModel(t *testing.T) {
	_, c := start(t)
	var got string
	next := func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, r.ContentLength)
		_, _ = r.Body.Read(body)
		got = string(body)
		whole(http.StatusOK, completion("hi", `{"prompt_tokens":5,"completion_tokens":1}`))(w, r)
	}
	s := serve(t, middleware.Options{Client: c, Identify: identifyAs("large"), DefaultModel: "large"}, next)
	const without = `{"max_tokens":5,"messages":[]}`
	for i, step := range []struct {
		body string
		want int
	}{
		{without, 200},
		{without, 429},
		{`{"model":null,"max_tokens":5,"messages":[]}`, 429},
		{`{"model":"","max_tokens":5,"messages":[]}`, 429},
		{`{"model":"large","max_tokens":5,"messages":[]}`, 429},
		{`{"model":"small","max_tokens":5,"messages":[]}`, 200},
	} {
		a, text := s.post(t, chat, step.body)
		if a.StatusCode != step.want || step.want == 429 && !strings.Contains(text, "large of large exceeded") {
			t.Errorf("%d: %s = %d %s, want %d", i, step.body, a.StatusCode, text, step.want)
		}
		if step.want == 200 && got != step.body {
			t.Errorf("%d: the handler got %s, want %s", i, got, step.body)
		}
		s.result(t)
	}
	// The path of a deployment names the model.
	if a, text := s.post(t, "/openai/deployments/other/chat/completions", without); a.StatusCode != 200 {
		t.Errorf("a call of another deployment = %d %s, want 200", a.StatusCode, text)
	}
	if _, err := middleware.New(middleware.Options{Client: c, Identify: identify, DefaultModel: "a\nb"}); err == nil || !strings.Contains(err.Error(), "default_model") {
		t.Errorf("New with a default model of two lines = %v, want an error that names it", err)
	}
}
