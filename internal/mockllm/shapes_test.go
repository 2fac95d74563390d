// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// testServer is a server with a client.
type testServer struct {
	*Server
	t      *testing.T
	url    string
	client *http.Client
}

func start(t *testing.T, o Options) *testServer {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return &testServer{s, t, server.URL, server.Client()}
}

// post sends a body. headers alternates names and values.
func (s *testServer) post(ctx context.Context, path, body string, headers ...string) *http.Response {
	s.t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer alice")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// ask sends a body and returns the status and the body of the response.
func (s *testServer) ask(path, body string, headers ...string) (int, string) {
	s.t.Helper()
	response := s.post(s.t.Context(), path, body, headers...)
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

// get returns the JSON value at a path of member names and indexes.
func get(t *testing.T, text string, path ...any) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("no %v of %v in %s", p, path, text)
			}
			v = m[p]
		case int:
			l, ok := v.([]any)
			if !ok || p >= len(l) {
				t.Fatalf("no %v of %v in %s", p, path, text)
			}
			v = l[p]
		}
	}
	return v
}

// event is an event of a stream.
type event struct{ name, data string }

// events reads a stream to its end.
func events(t *testing.T, body io.Reader) []event {
	t.Helper()
	list, err := readEvents(body, -1)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// readEvents reads at most limit events, or all if limit is negative.
func readEvents(body io.Reader, limit int) ([]event, error) {
	var list []event
	var e event
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 1<<20)
	for len(list) != limit && lines.Scan() {
		switch line := lines.Text(); {
		case line == "":
			list, e = append(list, e), event{}
		case strings.HasPrefix(line, "event: "):
			e.name = line[7:]
		case strings.HasPrefix(line, "data: "):
			e.data = line[6:]
		default:
			e.data += "not an event: " + line
		}
	}
	return list, lines.Err()
}

const (
	chatBody     = `{"model":"m","messages":[{"role":"user","content":"12345678"}]}`
	chatStream   = `{"model":"m","stream":true,"messages":[{"role":"user","content":"12345678"}]}`
	chatUsage    = `{"model":"m","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"12345678"}]}`
	messageBody  = `{"model":"m","max_tokens":100,"messages":[{"role":"user","content":"12345678"}]}`
	responseBody = `{"model":"m","input":"12345678"}`
)

func TestResponses(t *testing.T) {
	s := start(t, Options{})
	type want struct {
		path  []any
		value any
	}
	for _, test := range []struct {
		name, path, body string
		headers          []string
		wants            []want
	}{
		{"chat", "/v1/chat/completions", chatBody, []string{"X-Mock-Output-Tokens", "3", "X-Mock-Input-Tokens", "10", "X-Mock-Cached-Tokens", "4", "X-Mock-Reasoning-Tokens", "1"}, []want{
			{[]any{"object"}, "chat.completion"},
			{[]any{"choices", 0, "finish_reason"}, "stop"},
			{[]any{"choices", 0, "message", "role"}, "assistant"},
			{[]any{"usage", "prompt_tokens"}, 10.0},
			{[]any{"usage", "completion_tokens"}, 3.0},
			{[]any{"usage", "total_tokens"}, 13.0},
			{[]any{"usage", "prompt_tokens_details", "cached_tokens"}, 4.0},
			{[]any{"usage", "completion_tokens_details", "reasoning_tokens"}, 1.0},
		}},
		{"max_tokens", "/v1/chat/completions", strings.Replace(chatBody, "{", `{"max_tokens":2,`, 1), nil, []want{
			{[]any{"choices", 0, "finish_reason"}, "length"},
			{[]any{"usage", "completion_tokens"}, 2.0},
			{[]any{"usage", "prompt_tokens"}, 2.0},
		}},
		{"choices", "/v1/chat/completions", strings.Replace(chatBody, "{", `{"n":3,`, 1), []string{"X-Mock-Output-Tokens", "5"}, []want{
			{[]any{"choices", 2, "index"}, 2.0},
			{[]any{"usage", "completion_tokens"}, 15.0},
		}},
		{"a tool", "/v1/chat/completions", strings.Replace(chatBody, "{", `{"tools":[{"type":"function","function":{"name":"look"}}],`, 1), nil, []want{
			{[]any{"choices", 0, "finish_reason"}, "tool_calls"},
			{[]any{"choices", 0, "message", "content"}, nil},
			{[]any{"choices", 0, "message", "tool_calls", 0, "function", "name"}, "look"},
		}},
		{"tool_choice none", "/v1/chat/completions", strings.Replace(chatBody, "{", `{"tool_choice":"none","tools":[{"type":"function","function":{"name":"look"}}],`, 1), nil, []want{
			{[]any{"choices", 0, "finish_reason"}, "stop"},
		}},
		{"no usage", "/v1/chat/completions", chatBody, []string{"X-Mock-Usage", "none"}, []want{{[]any{"usage"}, nil}}},
		{"negative usage", "/v1/chat/completions", chatBody, []string{"X-Mock-Usage", "negative"}, []want{{[]any{"usage", "completion_tokens"}, -64.0}}},
		{"overflowing usage", "/v1/chat/completions", chatBody, []string{"X-Mock-Usage", "overflow"}, []want{{[]any{"usage", "prompt_tokens"}, 99999999999999999999999.0}}},
		{"usage of type string", "/v1/chat/completions", chatBody, []string{"X-Mock-Usage", "text"}, []want{{[]any{"usage", "prompt_tokens"}, "many"}}},
		{"best of", "/v1/completions", `{"model":"m","prompt":["a","b"],"n":2,"best_of":3}`, []string{"X-Mock-Output-Tokens", "5"}, []want{
			{[]any{"object"}, "text_completion"},
			{[]any{"choices", 3, "index"}, 3.0},
			{[]any{"usage", "completion_tokens"}, 30.0},
		}},
		{"token ids", "/v1/completions", `{"model":"m","prompt":[1,2,3]}`, nil, []want{{[]any{"usage", "prompt_tokens"}, 3.0}}},
		{"embeddings", "/v1/embeddings", `{"model":"m","input":["12345678","1234"],"dimensions":3}`, nil, []want{
			{[]any{"data", 1, "index"}, 1.0},
			{[]any{"usage", "prompt_tokens"}, 3.0},
		}},
		{"responses", "/v1/responses", responseBody, []string{"X-Mock-Output-Tokens", "3"}, []want{
			{[]any{"status"}, "completed"},
			{[]any{"output", 0, "content", 0, "type"}, "output_text"},
			{[]any{"usage", "output_tokens"}, 3.0},
			{[]any{"usage", "total_tokens"}, 5.0},
		}},
		{"max_output_tokens of responses", "/v1/responses", `{"model":"m","input":"x","max_output_tokens":16}`, nil, []want{
			{[]any{"status"}, "incomplete"},
			{[]any{"incomplete_details", "reason"}, "max_output_tokens"},
			{[]any{"usage", "output_tokens"}, 16.0},
		}},
		{"a tool in responses", "/v1/responses", `{"model":"m","input":"x","tools":[{"type":"function","name":"look"}]}`, nil, []want{
			{[]any{"output", 0, "type"}, "function_call"},
			{[]any{"output", 0, "name"}, "look"},
		}},
		{"messages", "/v1/messages", messageBody, []string{"X-Mock-Output-Tokens", "3", "X-Mock-Input-Tokens", "10", "X-Mock-Cached-Tokens", "4", "X-Mock-Cache-Write-Tokens", "2"}, []want{
			{[]any{"type"}, "message"},
			{[]any{"stop_reason"}, "end_turn"},
			{[]any{"usage", "input_tokens"}, 4.0},
			{[]any{"usage", "cache_read_input_tokens"}, 4.0},
			{[]any{"usage", "cache_creation_input_tokens"}, 2.0},
			{[]any{"usage", "output_tokens"}, 3.0},
		}},
		{"max_tokens of messages", "/v1/messages", messageBody, []string{"X-Mock-Output-Tokens", "101"}, []want{
			{[]any{"stop_reason"}, "max_tokens"},
			{[]any{"usage", "output_tokens"}, 100.0},
		}},
		{"a tool in messages", "/v1/messages", strings.Replace(messageBody, "{", `{"tools":[{"name":"look"}],"tool_choice":{"type":"any"},`, 1), []string{"X-Mock-Output-Tokens", "1"}, []want{
			{[]any{"stop_reason"}, "tool_use"},
			{[]any{"content", 0, "name"}, "look"},
		}},
		{"thinking", "/v1/messages", strings.Replace(messageBody, "{", `{"thinking":{"type":"enabled","budget_tokens":50},`, 1), []string{"X-Mock-Reasoning-Tokens", "7"}, []want{
			{[]any{"content", 0, "type"}, "thinking"},
			{[]any{"content", 1, "type"}, "text"},
		}},
		{"counting", "/v1/messages/count_tokens", messageBody, nil, []want{{[]any{"input_tokens"}, 2.0}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, text := s.ask(test.path, test.body, test.headers...)
			if status != http.StatusOK {
				t.Fatalf("status %d: %s", status, text)
			}
			for _, w := range test.wants {
				if got := get(t, text, w.path...); got != w.value {
					t.Errorf("%v = %v, want %v in %s", w.path, got, w.value, text)
				}
			}
		})
	}
}
