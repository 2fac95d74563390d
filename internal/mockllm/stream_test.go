// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// chunks returns the chunks of a chat stream, and whether [DONE] ended it.
func chunks(t *testing.T, s *testServer, body string, headers ...string) (list []string, done bool) {
	t.Helper()
	response := s.post(t.Context(), "/v1/chat/completions", body, headers...)
	if kind := response.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("Content-Type %q, want text/event-stream", kind)
	}
	for _, e := range events(t, response.Body) {
		if e.data == "[DONE]" {
			done = true
			continue
		}
		list = append(list, e.data)
	}
	return list, done
}

func TestChatStream(t *testing.T) {
	s := start(t, Options{})
	_, whole := s.ask("/v1/chat/completions", chatBody, "X-Mock-Seed", "1", "X-Mock-Output-Tokens", "5")
	want := get(t, whole, "choices", 0, "message", "content")

	list, done := chunks(t, s, chatStream, "X-Mock-Seed", "1", "X-Mock-Output-Tokens", "5", "X-Mock-Chunk-Tokens", "2")
	if len(list) != 5 || !done { // a role, three pieces, a finish reason
		t.Fatalf("%d chunks, done %v; want 5 and [DONE]:\n%s", len(list), done, strings.Join(list, "\n"))
	}
	var text strings.Builder
	for _, c := range list[1:4] {
		piece, _ := get(t, c, "choices", 0, "delta", "content").(string)
		text.WriteString(piece)
	}
	if text.String() != want {
		t.Errorf("the pieces are %q, the whole is %q", text.String(), want)
	}
	if got := get(t, list[4], "choices", 0, "finish_reason"); got != "stop" {
		t.Errorf("finish_reason = %v, want stop", got)
	}
	if strings.Contains(strings.Join(list, ""), "usage") {
		t.Errorf("unrequested usage in %s", list)
	}
}

func TestChatStreamUsage(t *testing.T) {
	s := start(t, Options{})
	list, _ := chunks(t, s, chatUsage, "X-Mock-Output-Tokens", "3")
	last := list[len(list)-1]
	if got := get(t, last, "choices"); len(got.([]any)) != 0 {
		t.Errorf("the usage chunk has choices %v, want none", got)
	}
	if got := get(t, last, "usage", "completion_tokens"); got != 3.0 {
		t.Errorf("completion_tokens = %v, want 3", got)
	}
	if got := get(t, list[0], "usage"); got != nil || !strings.Contains(list[0], `"usage":null`) {
		t.Errorf("usage of the first chunk = %v, want null", got)
	}

	running := strings.Replace(chatUsage, `"include_usage":true`, `"include_usage":true,"continuous_usage_stats":true`, 1)
	list, _ = chunks(t, s, running, "X-Mock-Output-Tokens", "3", "X-Mock-Input-Tokens", "9")
	var got []float64
	for _, c := range list {
		got = append(got, get(t, c, "usage", "completion_tokens").(float64))
		if in := get(t, c, "usage", "prompt_tokens"); in != 9.0 {
			t.Errorf("prompt_tokens = %v, want 9 in %s", in, c)
		}
	}
	if diff := cmp.Diff([]float64{0, 1, 2, 3, 3, 3}, got); diff != "" {
		t.Errorf("running totals (-want +got):\n%s", diff)
	}

	list, done := chunks(t, s, chatUsage, "X-Mock-Usage", "none")
	if last := list[len(list)-1]; get(t, last, "usage") != nil || !done {
		t.Errorf("a stream without usage ends with %s, done %v", last, done)
	}
}

func TestChatStreamOfChoicesToolsAndReasoning(t *testing.T) {
	s := start(t, Options{})
	list, _ := chunks(t, s, strings.Replace(chatUsage, "{", `{"n":2,"tools":[{"type":"function","function":{"name":"look"}}],`, 1),
		"X-Mock-Output-Tokens", "6", "X-Mock-Reasoning-Tokens", "2")
	arguments := map[float64]string{}
	pieces := 0
	for _, c := range list {
		if len(get(t, c, "choices").([]any)) == 0 {
			continue
		}
		delta, _ := get(t, c, "choices", 0, "delta").(map[string]any)
		if delta["tool_calls"] == nil {
			continue
		}
		pieces++
		part, _ := get(t, c, "choices", 0, "delta", "tool_calls", 0, "function", "arguments").(string)
		arguments[get(t, c, "choices", 0, "index").(float64)] += part
	}
	if len(arguments) != 2 || pieces != 10 { // for each choice, a name and four of six tokens
		t.Errorf("%d pieces for %d choices, want 10 for 2", pieces, len(arguments))
	}
	for choice, a := range arguments {
		var v struct{ Text string }
		if err := json.Unmarshal([]byte(a), &v); err != nil || v.Text == "" {
			t.Errorf("arguments of choice %v are %q: %v", choice, a, err)
		}
	}
	last := list[len(list)-1]
	if out, thought := get(t, last, "usage", "completion_tokens"), get(t, last, "usage", "completion_tokens_details", "reasoning_tokens"); out != 12.0 || thought != 4.0 {
		t.Errorf("usage of %v with %v reasoning, want 12 with 4", out, thought)
	}
	if e := s.entries()[0]; e.Generated != 12 || e.Reasoning != 4 || e.Written != 8 || e.Choices != 2 {
		t.Errorf("ledger has %+v, want 12 generated, 4 reasoning, 8 written", e)
	}
}

func TestMessageStream(t *testing.T) {
	s := start(t, Options{})
	body := strings.Replace(messageBody, "{", `{"stream":true,"thinking":{"type":"enabled","budget_tokens":50},`, 1)
	response := s.post(t.Context(), "/v1/messages", body, "X-Mock-Output-Tokens", "5", "X-Mock-Reasoning-Tokens", "3", "X-Mock-Chunk-Tokens", "2", "X-Mock-Input-Tokens", "10", "X-Mock-Cached-Tokens", "4")
	var names []string
	list := events(t, response.Body)
	for _, e := range list {
		if kind := get(t, e.data, "type"); kind != e.name {
			t.Errorf("event %s has type %v", e.name, kind)
		}
		names = append(names, e.name)
	}
	want := []string{
		"message_start", "ping",
		"content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
		"content_block_start", "content_block_delta", "content_block_delta", "content_block_stop",
		"message_delta", "message_stop",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Fatalf("events (-want +got):\n%s", diff)
	}
	if in, cached := get(t, list[0].data, "message", "usage", "input_tokens"), get(t, list[0].data, "message", "usage", "cache_read_input_tokens"); in != 6.0 || cached != 4.0 {
		t.Errorf("message_start has input %v and cached %v, want 6 and 4", in, cached)
	}
	if out := get(t, list[len(list)-2].data, "usage", "output_tokens"); out != 5.0 {
		t.Errorf("message_delta has output %v, want 5", out)
	}
	if e := s.entries()[0]; e.Generated != 5 || e.Written != 5 || e.Input != 10 {
		t.Errorf("ledger has %+v, want 5 generated and written, input 10", e)
	}
}

func TestResponseStream(t *testing.T) {
	s := start(t, Options{})
	for _, test := range []struct {
		name, body string
		want       []string
	}{
		{"text", `{"model":"m","stream":true,"input":"x"}`, []string{
			"response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
			"response.output_text.delta", "response.output_text.delta", "response.output_text.done",
			"response.content_part.done", "response.output_item.done", "response.completed",
		}},
		{"a tool", `{"model":"m","stream":true,"input":"x","tools":[{"type":"function","name":"look"}]}`, []string{
			"response.created", "response.in_progress", "response.output_item.added",
			"response.function_call_arguments.delta", "response.function_call_arguments.delta", "response.function_call_arguments.done",
			"response.output_item.done", "response.completed",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			response := s.post(t.Context(), "/v1/responses", test.body, "X-Mock-Output-Tokens", "2")
			list := events(t, response.Body)
			var names []string
			for i, e := range list {
				names = append(names, e.name)
				if n := get(t, e.data, "sequence_number"); n != float64(i) {
					t.Errorf("event %d has sequence number %v", i, n)
				}
			}
			if diff := cmp.Diff(test.want, names); diff != "" {
				t.Fatalf("events (-want +got):\n%s", diff)
			}
			if out := get(t, list[len(list)-1].data, "response", "usage", "output_tokens"); out != 2.0 {
				t.Errorf("output_tokens = %v, want 2", out)
			}
		})
	}
}

func TestErrorsInStreams(t *testing.T) {
	s := start(t, Options{})
	list, done := chunks(t, s, chatUsage, "X-Mock-Error-After", "2")
	if last := list[len(list)-1]; done || get(t, last, "error", "code") != "model_failed" {
		t.Errorf("the stream ends with %s, done %v; want an error", last, done)
	}
	response := s.post(t.Context(), "/v1/chat/completions", chatUsage, "X-Mock-Disconnect-After", "2")
	got, err := readEvents(response.Body, -1)
	if err == nil || len(got) != 3 { // a role and two chunks
		t.Errorf("a broken connection gives %d events and the error %v, want 3 and one", len(got), err)
	}
	if status, text := s.ask("/v1/chat/completions", chatBody, "X-Mock-Error-After", "2"); status != http.StatusInternalServerError {
		t.Errorf("status %d: %s, want 500", status, text)
	}
	var outcomes []string
	for _, e := range s.entries() {
		outcomes = append(outcomes, string(e.Outcome))
		if e.Generated != 2 {
			t.Errorf("call %d generated %d, want 2", e.Number, e.Generated)
		}
	}
	if diff := cmp.Diff([]string{"aborted", "aborted", "aborted"}, outcomes); diff != "" {
		t.Errorf("outcomes (-want +got):\n%s", diff)
	}
}
