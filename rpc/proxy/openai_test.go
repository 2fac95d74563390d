// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"

	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/secret"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// openAI returns the official SDK client without retries.
func (s *stack) openAI(caller string, options ...option.RequestOption) openai.Client {
	return openai.NewClient(append([]option.RequestOption{
		option.WithBaseURL(s.url + "/v1/"), option.WithAPIKey("sk-" + caller), option.WithMaxRetries(0),
	}, options...)...)
}

func chat(maxTokens int64) openai.ChatCompletionNewParams {
	p := openai.ChatCompletionNewParams{
		Model:    "mock-small",
		Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("Why is the sky blue? Answer at length.")},
	}
	if maxTokens > 0 {
		p.MaxTokens = openai.Int(maxTokens)
	}
	return p
}

// settled checks that the last call was charged what the mock's ledger says.
func (s *stack) settled(caller string, calls int) mockllm.Entry {
	s.t.Helper()
	r, e := s.result(calls), s.entry(calls)
	if r.Source != middleware.SourceReported || r.Charged.InputTokens != e.Input || r.Charged.OutputTokens != e.Generated || r.Charged.CachedInputTokens != e.Cached {
		s.t.Errorf("charged %+v (%s), want input %d, cached %d, output %d", r.Charged, r.Source, e.Input, e.Cached, e.Generated)
	}
	var sum int64
	for _, e := range s.mock.Ledger().Entries() {
		sum += e.Input + e.Generated
	}
	s.charged(caller, sum)
	return e
}

func TestOpenAIChat(t *testing.T) {
	s := start(t, setup{mock: mockllm.Options{Output: mockllm.Length{Min: 40, Max: 40}, CachedShare: 0.5, ReasoningShare: 0.25}})
	c := s.openAI("std")
	var raw *http.Response
	answer, err := c.Chat.Completions.New(t.Context(), chat(100), option.WithResponseInto(&raw))
	if err != nil {
		t.Fatal(err)
	}
	e := s.settled("std", 1)
	if answer.Usage.CompletionTokens != e.Generated || len(answer.Choices) != 1 || answer.Choices[0].Message.Content == "" {
		t.Errorf("answer = %+v, want one choice and the usage %d", answer, e.Generated)
	}
	if want := secret.Of("sk-std").String(); !strings.HasPrefix(want, e.Caller) || e.Caller == "" || e.MaxTokens != 100 {
		t.Errorf("upstream got caller %q and max_tokens %d, want that of sk-std and 100: an allowed call is not changed", e.Caller, e.MaxTokens)
	}
	for _, h := range []string{"X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Tokens", "X-Bucketring-Request-Id", "X-Request-Id"} {
		if raw.Header.Get(h) == "" {
			t.Errorf("the answer has no %s, want one: %v", h, raw.Header)
		}
	}
	// A request without a bound is not changed.
	if _, err := c.Chat.Completions.New(t.Context(), chat(0)); err != nil {
		t.Fatal(err)
	}
	if e := s.settled("std", 2); e.MaxTokens != -1 {
		t.Errorf("upstream got max_tokens %d, want none", e.MaxTokens)
	}
}

func TestOpenAIStream(t *testing.T) {
	s := start(t, setup{mock: mockllm.Options{Output: mockllm.Length{Min: 40, Max: 40}, ChunkTokens: 3}})
	c := s.openAI("std")
	for i, ask := range []bool{false, true} { // whether the caller asks for usage
		p := chat(100)
		if ask {
			p.StreamOptions.IncludeUsage = openai.Bool(true)
		}
		stream := c.Chat.Completions.NewStreaming(t.Context(), p)
		acc, last := openai.ChatCompletionAccumulator{}, openai.ChatCompletionChunk{}
		for stream.Next() {
			last = stream.Current()
			acc.AddChunk(last)
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		e := s.settled("std", i+1)
		if words := len(strings.Fields(acc.Choices[0].Message.Content)); int64(words) != e.Generated {
			t.Errorf("the stream had %d words, want the %d that were generated", words, e.Generated)
		}
		if got := last.Usage.CompletionTokens == e.Generated && len(last.Choices) == 0; got != ask {
			t.Errorf("the last chunk is that of usage: %t, want %t: %s", got, ask, last.RawJSON())
		}
	}
}

func TestOpenAIChoicesAndTools(t *testing.T) {
	s := start(t, setup{mock: mockllm.Options{Output: mockllm.Length{Min: 20, Max: 20}}})
	c := s.openAI("std")
	p := chat(50)
	p.N = openai.Int(3)
	answer, err := c.Chat.Completions.New(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if e := s.settled("std", 1); len(answer.Choices) != 3 || e.Generated != 60 {
		t.Errorf("%d choices with %d tokens, want 3 with 60", len(answer.Choices), e.Generated)
	}
	if r := s.result(1); r.GrantedOutputTokens != 50 {
		t.Errorf("Granted = %d per choice, want 50", r.GrantedOutputTokens)
	}
	p = chat(50)
	p.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
		Name: "weather", Parameters: shared.FunctionParameters{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}},
	})}
	stream := c.Chat.Completions.NewStreaming(t.Context(), p)
	acc := openai.ChatCompletionAccumulator{}
	for stream.Next() {
		acc.AddChunk(stream.Current())
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	s.settled("std", 2)
	if calls := acc.Choices[0].Message.ToolCalls; len(calls) != 1 || calls[0].Function.Name != "weather" {
		t.Errorf("tool calls = %+v, want one of weather", calls)
	}
}

func TestOpenAIEmbeddings(t *testing.T) {
	s := start(t, setup{})
	c := s.openAI("std")
	answer, err := c.Embeddings.New(t.Context(), openai.EmbeddingNewParams{
		Model: "mock-small", Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"one text", "and another"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if e := s.settled("std", 1); len(answer.Data) != 2 || answer.Usage.PromptTokens != e.Input || e.Generated != 0 {
		t.Errorf("%d embeddings, usage %+v, want 2 and %d", len(answer.Data), answer.Usage, e.Input)
	}
}

func TestOpenAIResponses(t *testing.T) {
	s := start(t, setup{mock: mockllm.Options{Output: mockllm.Length{Min: 30, Max: 30}, ReasoningShare: 0.5}})
	c := s.openAI("std")
	p := responses.ResponseNewParams{
		Model: "mock-small", MaxOutputTokens: openai.Int(64),
		Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Why is the sky blue?")},
	}
	answer, err := c.Responses.New(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if e := s.settled("std", 1); answer.Usage.OutputTokens != e.Generated || answer.OutputText() == "" {
		t.Errorf("usage %+v, want %d", answer.Usage, e.Generated)
	}
	stream := c.Responses.NewStreaming(t.Context(), p)
	var completed bool
	for stream.Next() {
		completed = completed || stream.Current().Type == "response.completed"
	}
	if err := stream.Err(); err != nil || !completed {
		t.Fatalf("stream = %v, completed %t, want nil, true", err, completed)
	}
	s.settled("std", 2)
}

// The upstream gets the grant, and the response reports it.
func TestOpenAIDegraded(t *testing.T) {
	s := start(t, setup{mock: mockllm.Options{Output: mockllm.Length{Min: 5000, Max: 5000}}})
	c := s.openAI("tight")
	var raw *http.Response
	p := chat(0)
	p.MaxCompletionTokens = openai.Int(4000)
	answer, err := c.Chat.Completions.New(t.Context(), p, option.WithResponseInto(&raw))
	if err != nil {
		t.Fatal(err)
	}
	r, e := s.result(1), s.settled("tight", 1)
	if r.Outcome != client.Degraded || r.GrantedOutputTokens == 0 || r.GrantedOutputTokens%16 != 0 || r.GrantedOutputTokens > 2000 {
		t.Fatalf("outcome %s, granted %d, want degraded to a multiple of 16 below 2000", r.Outcome, r.GrantedOutputTokens)
	}
	if e.MaxTokens != r.GrantedOutputTokens || e.Generated != r.GrantedOutputTokens || string(answer.Choices[0].FinishReason) != "length" {
		t.Errorf("upstream got max %d and generated %d, finish %q, want the grant %d and length", e.MaxTokens, e.Generated, answer.Choices[0].FinishReason, r.GrantedOutputTokens)
	}
	if got := raw.Header.Get("X-Bucketring-Granted-Max-Tokens") + " " + raw.Header.Get("X-Bucketring-Asked-Max-Tokens"); got == " " || !strings.HasSuffix(got, " 4000") {
		t.Errorf("granted and asked = %q, want both", got)
	}
	// Calls with tools are denied instead of degraded, unless the caller allows it.
	p.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{Name: "weather"})}
	if _, err := c.Chat.Completions.New(t.Context(), p); status(err) != http.StatusTooManyRequests {
		t.Errorf("a call with tools = %v, want 429", err)
	}
}

// status returns the HTTP status of an SDK error.
func status(err error) int {
	var e *openai.Error
	if !errors.As(err, &e) {
		return 0
	}
	return e.StatusCode
}

// The SDK retries a denial after Retry-After, and then succeeds. The node's clock
// starts with the denial, so an early retry would be denied again.
func TestOpenAIRetriesAfterRetryAfter(t *testing.T) {
	s := start(t, setup{frozen: true})
	c := s.openAI("slow", option.WithMaxRetries(3))
	for i := range 2 {
		if _, err := c.Chat.Completions.New(t.Context(), chat(10)); err != nil {
			t.Fatalf("call %d = %v, want success after a wait", i+1, err)
		}
	}
	s.result(3)
	var outcomes []client.Outcome
	s.results.Lock()
	for _, r := range s.results.list {
		outcomes = append(outcomes, r.Outcome)
	}
	s.results.Unlock()
	if len(outcomes) != 3 || outcomes[1] != client.Denied || outcomes[2] != client.Allowed {
		t.Errorf("outcomes = %v, want allowed, denied and allowed: one retry, at the right time", outcomes)
	}
	if n := len(s.mock.Ledger().Entries()); n != 2 {
		t.Errorf("the upstream got %d calls, want 2", n)
	}
}

// The SDK does not retry a denial by a spent budget.
func TestOpenAIDoesNotRetrySpend(t *testing.T) {
	s := start(t, setup{})
	c := s.openAI("poor", option.WithMaxRetries(3))
	_, err := c.Chat.Completions.New(t.Context(), chat(10))
	var e *openai.Error
	if !errors.As(err, &e) || e.StatusCode != http.StatusTooManyRequests || e.Type != "insufficient_quota" || e.Code != "insufficient_quota" || e.Message == "" {
		t.Fatalf("error = %v, %+v, want a 429 insufficient_quota", err, e)
	}
	s.results.Lock()
	n := len(s.results.list)
	s.results.Unlock()
	if n != 1 || len(s.mock.Ledger().Entries()) != 0 {
		t.Errorf("asked %d times, upstream %d, want 1 and 0", n, len(s.mock.Ledger().Entries()))
	}
}

func TestOpenAIErrors(t *testing.T) {
	s := start(t, setup{})
	for name, test := range map[string]struct {
		caller string
		edit   func(*openai.ChatCompletionNewParams)
		status int
		code   string
		param  string
	}{
		"unknown key": {caller: "nobody", status: 401, code: "invalid_api_key"},
		"tokens":      {caller: "small", edit: func(p *openai.ChatCompletionNewParams) { p.MaxTokens = openai.Int(5000) }, status: 429, code: "rate_limit_exceeded"},
		"bad field":   {caller: "std", edit: func(p *openai.ChatCompletionNewParams) { p.MaxTokens = openai.Int(-3) }, status: 400, param: "max_tokens"},
	} {
		p := chat(10)
		if test.edit != nil {
			test.edit(&p)
		}
		c := s.openAI(test.caller)
		_, err := c.Chat.Completions.New(t.Context(), p)
		var e *openai.Error
		if !errors.As(err, &e) || e.StatusCode != test.status || test.code != "" && e.Code != test.code || e.Param != test.param || e.Message == "" || e.Type == "" {
			t.Errorf("%s: error = %v %+v, want %d, code %q, param %q", name, err, e, test.status, test.code, test.param)
		}
	}
	if n := len(s.mock.Ledger().Entries()); n != 0 {
		t.Errorf("the upstream got %d calls, want none", n)
	}
}
