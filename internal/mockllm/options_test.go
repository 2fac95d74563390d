// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestValidateNamesEveryProblem(t *testing.T) {
	_, err := New(Options{TTFT: -1, Speed: -2, FailShares: map[int]float64{200: 2}, DisconnectShare: -0.5, Output: Length{Min: 5, Max: 1}, Stall: -time.Second, WrongUsageShare: 0.9, NoUsageShare: 0.9})
	if err == nil {
		t.Fatal("New succeeded, want an error")
	}
	for _, want := range []string{"ttft: ", "speed: ", "status must be 400 to 599, got 200", "fail_shares: must be a share", "disconnect_share: ", "output: ", "stall: ", "must not exceed 1 together"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

func TestParseLength(t *testing.T) {
	for _, text := range []string{"200", "50-400", "~200"} {
		l, err := ParseLength(text)
		if err != nil || l.String() != text {
			t.Errorf("ParseLength(%q) = %v, %v", text, l, err)
		}
	}
	for _, text := range []string{"", "0", "-5", "9-3", "~0", "x", "1e3", "99999999999"} {
		if l, err := ParseLength(text); err == nil {
			t.Errorf("ParseLength(%q) = %v, want an error", text, l)
		}
	}
}

func TestBadRequests(t *testing.T) {
	s := start(t, Options{})
	for _, test := range []struct{ path, body, header, param string }{
		{"/v1/chat/completions", `{"model":"m","messages":[{}],"max_tokens":-3}`, "", "max_tokens"},
		{"/v1/chat/completions", `{"model":"m","messages":[{}],"n":0}`, "", "n"},
		{"/v1/chat/completions", `{"messages":[{}]}`, "", "model"},
		{"/v1/chat/completions", `{"model":"m"}`, "", "messages"},
		{"/v1/responses", `{"model":"m","input":"x","max_output_tokens":3}`, "", "max_output_tokens"},
		{"/v1/completions", `{"model":"m","prompt":"x","n":3,"best_of":2}`, "", "best_of"},
		{"/v1/embeddings", `{"model":"m"}`, "", "input"},
		{"/v1/chat/completions", chatBody, "X-Mock-Output-Tokens", "X-Mock-Output-Tokens"},
		{"/v1/chat/completions", chatBody, "X-Mock-Usage", "X-Mock-Usage"},
		{"/v1/chat/completions", chatBody, "X-Mock-Fail", "X-Mock-Fail"},
		{"/v1/chat/completions", chatBody, "X-Mock-TTFT", "X-Mock-TTFT"},
		{"/v1/chat/completions", chatBody, "X-Mock-Outputs", "X-Mock-Outputs"},
	} {
		var headers []string
		if test.header != "" {
			headers = []string{test.header, "-3"}
		}
		status, text := s.ask(test.path, test.body, headers...)
		if status != http.StatusBadRequest || get(t, text, "error", "param") != test.param {
			t.Errorf("%s %s %s: status %d: %s, want 400 about %s", test.path, test.body, test.header, status, text, test.param)
		}
	}
	if status, text := s.ask("/v1/messages", `{"model":"m","messages":[{}]}`); status != 400 || get(t, text, "error", "type") != "invalid_request_error" {
		t.Errorf("a message without max_tokens: status %d: %s", status, text)
	}
	if status, text := s.ask("/v1/chat/completions", `{"model"`); status != 400 || get(t, text, "error", "message") == "" {
		t.Errorf("broken JSON: status %d: %s", status, text)
	}
	if status, _ := s.ask("/v1/nothing", `{}`); status != http.StatusNotFound {
		t.Errorf("an unknown path: status %d, want 404", status)
	}
}

func TestFailuresByStatus(t *testing.T) {
	s := start(t, Options{})
	response := s.post(t.Context(), "/v1/messages", messageBody, "X-Mock-Fail", "429", "X-Mock-Retry-After", "2")
	if response.StatusCode != 429 || response.Header.Get("Retry-After") != "2" {
		t.Errorf("status %d, Retry-After %q; want 429 and 2", response.StatusCode, response.Header.Get("Retry-After"))
	}
	status, text := s.ask("/v1/chat/completions", chatBody, "X-Mock-Fail", "503")
	if status != 503 || get(t, text, "error", "type") != "server_error" {
		t.Errorf("status %d: %s", status, text)
	}
}

// The same seed gives the same plans, and every failure has its configured share.
func TestRandomFailures(t *testing.T) {
	o := Options{
		Seed: 7, Output: Length{Min: 10, Max: 90}, FailShares: map[int]float64{429: 0.1, 503: 0.1},
		StallShare: 0.1, DisconnectShare: 0.1, NoUsageShare: 0.1, WrongUsageShare: 0.1, ReasoningShare: 0.5,
	}.withDefaults()
	q, problem := parse(chat, []byte(chatBody))
	if problem != nil {
		t.Fatal(problem)
	}
	const calls = 5000
	counts := map[string]int{}
	for i := range int64(calls) {
		p, _ := o.newPlan(http.Header{}, i, chat, q)
		again, _ := o.newPlan(http.Header{}, i, chat, q)
		if p.seed != again.seed || p.fail != again.fail || !slices.Equal(p.outputs, again.outputs) || p.disconnectAfter != again.disconnectAfter {
			t.Fatalf("call %d differs from itself: %+v, %+v", i, p, again)
		}
		if n := p.outputs[0]; n < 10 || n > 90 || p.reasoning[0] != n/2 {
			t.Fatalf("call %d has %d tokens, %d of them reasoning", i, n, p.reasoning[0])
		}
		switch {
		case p.fail == 429:
			counts["429"]++
		case p.fail == 503:
			counts["503"]++
		case p.disconnectAfter != never:
			counts["disconnect"]++
		}
		if p.stallAfter != never {
			counts["stall"]++
		}
		switch p.usage {
		case usageTrue:
		case usageNone:
			counts["none"]++
		default:
			counts["wrong"]++
		}
	}
	for _, what := range []string{"429", "503", "disconnect", "stall", "none", "wrong"} {
		if n := counts[what]; n < calls/10-100 || n > calls/10+100 {
			t.Errorf("%s: %d of %d calls, want about a tenth", what, n, calls)
		}
	}
}
