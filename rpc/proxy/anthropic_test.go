// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/anthropics/anthropic-sdk-go/v2"
	"github.com/anthropics/anthropic-sdk-go/v2/option"

	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/rpc/client"
)

// anthropicClient returns the official SDK client without retries.
func (s *stack) anthropicClient(caller string, options ...option.RequestOption) anthropic.Client {
	return anthropic.NewClient(append([]option.RequestOption{
		option.WithBaseURL(s.url), option.WithAPIKey("sk-" + caller), option.WithMaxRetries(0),
	}, options...)...)
}

func message(maxTokens int64) anthropic.MessageNewParams {
	return anthropic.MessageNewParams{
		Model: "mock-small", MaxTokens: maxTokens,
		Messages: []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock("Why is the sky blue? Answer at length."))},
	}
}

func TestAnthropicMessages(t *testing.T) {
	s := start(t, setup{mock: mockllm.Options{Output: mockllm.Length{Min: 40, Max: 40}, CachedShare: 0.5}})
	c := s.anthropicClient("std")
	answer, err := c.Messages.New(t.Context(), message(100))
	if err != nil {
		t.Fatal(err)
	}
	e := s.settled("std", 1)
	if answer.Usage.OutputTokens != e.Generated || answer.Usage.InputTokens+answer.Usage.CacheReadInputTokens+answer.Usage.CacheCreationInputTokens != e.Input {
		t.Errorf("usage = %+v, want input %d in three parts and output %d", answer.Usage, e.Input, e.Generated)
	}
	stream := c.Messages.NewStreaming(t.Context(), message(100))
	acc := anthropic.Message{}
	for stream.Next() {
		if err := acc.Accumulate(stream.Current()); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	e = s.settled("std", 2)
	if words := len(strings.Fields(acc.Content[0].Text)); int64(words) != e.Generated || acc.Usage.OutputTokens != e.Generated {
		t.Errorf("the stream had %d words and the usage %d, want %d", words, acc.Usage.OutputTokens, e.Generated)
	}
}

func TestAnthropicDegraded(t *testing.T) {
	s := start(t, setup{mock: mockllm.Options{Output: mockllm.Length{Min: 5000, Max: 5000}}})
	c := s.anthropicClient("tight")
	answer, err := c.Messages.New(t.Context(), message(4000))
	if err != nil {
		t.Fatal(err)
	}
	r, e := s.result(1), s.settled("tight", 1)
	if r.Outcome != client.Degraded || e.MaxTokens != r.GrantedOutputTokens || e.Generated != r.GrantedOutputTokens || string(answer.StopReason) != "max_tokens" {
		t.Errorf("outcome %s, granted %d, upstream got %d, stopped by %q, want degraded, the grant, max_tokens", r.Outcome, r.GrantedOutputTokens, e.MaxTokens, answer.StopReason)
	}
}

func TestAnthropicErrors(t *testing.T) {
	s := start(t, setup{})
	for caller, want := range map[string]struct {
		status int
		kind   string
		max    int64
	}{
		"no key": {401, "authentication_error", 10},
		"small":  {429, "rate_limit_error", 5000},
		"poor":   {429, "rate_limit_error", 10},
		"std":    {400, "invalid_request_error", -3},
	} {
		c := s.anthropicClient(caller, option.WithMaxRetries(0))
		_, err := c.Messages.New(t.Context(), message(want.max))
		var e *anthropic.Error
		if !errors.As(err, &e) || e.StatusCode != want.status || string(e.Type()) != want.kind || e.Message == "" {
			t.Errorf("%s: error = %v %+v, want %d %s", caller, err, e, want.status, want.kind)
		}
	}
	if n := len(s.mock.Ledger().Entries()); n != 0 {
		t.Errorf("the upstream got %d calls, want none", n)
	}
}

func TestAnthropicRetries(t *testing.T) {
	s := start(t, setup{frozen: true})
	c := s.anthropicClient("slow", option.WithMaxRetries(3))
	for i := range 2 {
		if _, err := c.Messages.New(t.Context(), message(10)); err != nil {
			t.Fatalf("call %d = %v, want success after a wait", i+1, err)
		}
	}
	s.result(3)
	c = s.anthropicClient("poor", option.WithMaxRetries(3))
	if _, err := c.Messages.New(t.Context(), message(10)); err == nil {
		t.Fatal("a call without a budget = nil, want an error")
	}
	s.result(4)
	s.results.Lock()
	defer s.results.Unlock()
	if len(s.results.list) != 4 {
		t.Errorf("asked %d times, want 4: one retry, and none for spend", len(s.results.list))
	}
}

// The SDK sends the credential in one of three ways.
func TestAnthropicAuthToken(t *testing.T) {
	s := start(t, setup{})
	c := anthropic.NewClient(option.WithBaseURL(s.url), option.WithAuthToken("sk-std"), option.WithMaxRetries(0))
	if _, err := c.Messages.New(t.Context(), message(10)); err != nil {
		t.Errorf("with an auth token = %v, want success", err)
	}
	answer := s.post("/v1/messages", `{}`, "X-Api-Key", "sk-slow")
	if got := text(t, answer); answer.StatusCode != http.StatusUnauthorized || !strings.Contains(got, "more than one") {
		t.Errorf("two keys = %d %s, want 401", answer.StatusCode, got)
	}
}
