// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// endpoint is a metered endpoint.
type endpoint uint8

const (
	chat endpoint = iota
	completions
	embeddings
	responses
	messages
)

// String returns the name of the endpoint in the ledger.
func (e endpoint) String() string {
	return [...]string{"chat.completions", "completions", "embeddings", "responses", "messages"}[e]
}

// request has the fields of a body that the mock uses. Others are ignored.
type request struct {
	Model               string           `json:"model"`
	Stream              bool             `json:"stream"`
	StreamOptions       *streamOptions   `json:"stream_options"`
	MaxTokens           *int64           `json:"max_tokens"`
	MaxCompletionTokens *int64           `json:"max_completion_tokens"`
	MaxOutputTokens     *int64           `json:"max_output_tokens"`
	N                   *int64           `json:"n"`
	BestOf              *int64           `json:"best_of"`
	Messages            []message        `json:"messages"`
	Prompt              any              `json:"prompt"`
	Input               any              `json:"input"`
	System              any              `json:"system"`
	Instructions        any              `json:"instructions"`
	Tools               []map[string]any `json:"tools"`
	ToolChoice          any              `json:"tool_choice"`
	Thinking            *thinking        `json:"thinking"`
	EncodingFormat      string           `json:"encoding_format"`
	Dimensions          int              `json:"dimensions"`
}

type streamOptions struct {
	IncludeUsage    bool `json:"include_usage"`
	ContinuousUsage bool `json:"continuous_usage_stats"`
}

type message struct {
	Role      string `json:"role"`
	Content   any    `json:"content"`
	ToolCalls any    `json:"tool_calls"`
}

type thinking struct {
	Type   string `json:"type"`
	Budget int64  `json:"budget_tokens"`
}

// invalid is an error in a request.
type invalid struct {
	param   string // empty: the whole body
	problem string
}

// Error implements error.
func (i *invalid) Error() string {
	if i.param == "" {
		return i.problem
	}
	return i.param + ": " + i.problem
}

func parse(e endpoint, body []byte) (*request, *invalid) {
	var r request
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&r); err != nil {
		return nil, &invalid{problem: fmt.Sprintf("the body is not a request: %v", err)}
	}
	if d.More() {
		return nil, &invalid{problem: "the body has more than one JSON value"}
	}
	if r.Model == "" {
		return nil, &invalid{"model", "is missing"}
	}
	for _, f := range []struct {
		name  string
		value *int64
	}{{"max_tokens", r.MaxTokens}, {"max_completion_tokens", r.MaxCompletionTokens}, {"max_output_tokens", r.MaxOutputTokens}, {"n", r.N}, {"best_of", r.BestOf}} {
		if f.value != nil && *f.value < 1 {
			return nil, &invalid{f.name, fmt.Sprintf("must be at least 1, got %d", *f.value)}
		}
	}
	switch {
	case e == messages && r.MaxTokens == nil:
		return nil, &invalid{"max_tokens", "is missing"}
	case (e == chat || e == messages) && len(r.Messages) == 0:
		return nil, &invalid{"messages", "must not be empty"}
	case e == completions && r.Prompt == nil:
		return nil, &invalid{"prompt", "is missing"}
	case (e == embeddings || e == responses) && r.Input == nil:
		return nil, &invalid{"input", "is missing"}
	case r.shown(e) > 128 || r.choices(e) > 1024:
		return nil, &invalid{"n", "is too many"}
	case r.BestOf != nil && r.N != nil && *r.BestOf < *r.N:
		return nil, &invalid{"best_of", "must be at least n"}
	case e == completions && r.Stream && r.BestOf != nil && r.choices(e) != r.shown(e):
		return nil, &invalid{"best_of", "must be n in a stream"}
	case e == responses && r.MaxOutputTokens != nil && *r.MaxOutputTokens < 16:
		return nil, &invalid{"max_output_tokens", fmt.Sprintf("must be at least 16, got %d", *r.MaxOutputTokens)}
	}
	return &r, nil
}

// maxTokens returns the bound of each choice, or -1.
func (r *request) maxTokens(e endpoint) int64 {
	switch {
	case e == responses && r.MaxOutputTokens != nil:
		return *r.MaxOutputTokens
	case e == responses || e == embeddings:
	case e == chat && r.MaxCompletionTokens != nil:
		return *r.MaxCompletionTokens
	case r.MaxTokens != nil:
		return *r.MaxTokens
	}
	return -1
}

// prompts returns how many texts are completed or embedded.
func prompts(v any) int64 {
	list, ok := v.([]any)
	if !ok || len(list) == 0 {
		return 1
	}
	if _, ids := list[0].(json.Number); ids {
		return 1
	}
	return int64(len(list))
}

// shown returns the number of choices in the response.
func (r *request) shown(e endpoint) int64 { return r.times(e, r.N) }

// choices returns the number of generated choices.
func (r *request) choices(e endpoint) int64 {
	if e == completions && r.BestOf != nil {
		return r.times(e, r.BestOf)
	}
	return r.shown(e)
}

func (r *request) times(e endpoint, n *int64) int64 {
	each := int64(1)
	if n != nil {
		each = min(*n, 4096)
	}
	switch e {
	case chat:
		return each
	case completions:
		return each * prompts(r.Prompt)
	case embeddings:
		return prompts(r.Input)
	}
	return 1
}

// input returns the number of input tokens.
func (r *request) input(bytesPerToken int64) int64 {
	var text, ids int64
	for _, v := range []any{r.Prompt, r.Input, r.System, r.Instructions} {
		countText(v, &text, &ids)
	}
	for _, m := range r.Messages {
		countText(m.Content, &text, &ids)
		countText(m.ToolCalls, &text, &ids)
	}
	for _, t := range r.Tools {
		countText(t, &text, &ids)
	}
	return max(1, (text+bytesPerToken-1)/bytesPerToken+ids)
}

// countText adds the bytes of text and the number of token ids in v.
func countText(v any, text, ids *int64) {
	switch v := v.(type) {
	case string:
		*text += int64(len(v))
	case json.Number:
		*ids++
	case []any:
		for _, x := range v {
			countText(x, text, ids)
		}
	case map[string]any:
		for k, x := range v {
			*text += int64(len(k))
			countText(x, text, ids)
		}
	}
}

// tool returns the name of the called tool, or "".
func (r *request) tool() string {
	if len(r.Tools) == 0 {
		return ""
	}
	if n := len(r.Messages); n > 0 && (r.Messages[n-1].Role == "tool" || hasType(r.Messages[n-1].Content, "tool_result")) {
		return ""
	}
	if hasType(r.Input, "function_call_output") {
		return ""
	}
	switch c := r.ToolChoice.(type) {
	case string:
		if c == "none" {
			return ""
		}
	case map[string]any:
		if c["type"] == "none" {
			return ""
		}
		if name := nameIn(c); name != "" {
			return name
		}
	}
	return nameIn(r.Tools[0])
}

// nameIn returns the name of a tool in the format of any endpoint.
func nameIn(tool map[string]any) string {
	if f, ok := tool["function"].(map[string]any); ok {
		tool = f
	}
	name, _ := tool["name"].(string)
	return name
}

// hasType reports whether a list has an element of a type.
func hasType(v any, what string) bool {
	list, _ := v.([]any)
	for _, x := range list {
		if m, ok := x.(map[string]any); ok && m["type"] == what {
			return true
		}
	}
	return false
}
