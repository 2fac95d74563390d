// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"strings"
	"testing"
)

// TestUnexpectedFormatsCount: an answer in another format than expected counts as
// output.
func TestUnexpectedFormatsCount(t *testing.T) {
	const early = `data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":1}}` + "\n\n"
	const document = `{"choices":[{"message":{"content":"` + "some words" + `"}}]}`
	whole := Request{Endpoint: ChatCompletions, N: 1, InputBytes: 10}
	for name, tt := range map[string]struct {
		r       Request
		kind    string
		answer  string
		least   int64 // bytes of output
		most    int64
		chunks  int64
		hasUsed bool
	}{
		"a document, to who asked for a stream, as a text": {streaming, "text/plain", document, 10, 10, 0, false},
		"a list":                           {streaming, "", "[\n\"choices\",\n[]\n]", 10, 18, 0, false},
		"the same without an end of lines": {streaming, "", strings.Repeat("x", 1<<20), 1 << 20, 1 << 20, 0, false},
		"lines of JSON":                    {streaming, "application/x-ndjson", document + "\n" + document + "\n", 2*int64(len(document)) - 4, 2 * int64(len(document)), 0, false},
		"two documents":                    {whole, "application/json", document + "\n" + document, 9 + int64(len(document)), 9 + int64(len(document)), 0, false},
		"fields of events are no text":     {streaming, "text/event-stream", ": a comment\nevent: x\nid: 1\nretry: 10\ndata\n\n", 0, 0, 0, false},
		"text after the usage":             {streaming, "text/event-stream", early + chatDelta + chatDelta + done, 4, 4, 2, false},
		"usage after that":                 {streaming, "text/event-stream", early + chatDelta + chatDelta + chatUsage + done, 4, 4, 2, true},
		"an error":                         {streaming, "text/event-stream", chatDelta + "event: error\ndata: {\"error\":{\"message\":\"no\"}}\n\n", 2, 2, 1, false},
	} {
		m := NewMeter(&tt.r, 200, tt.kind)
		run(m, tt.answer)
		_, ok := m.Usage()
		if got := m.OutputBytes(); got < tt.least || got > tt.most || m.StreamedTokens() < tt.chunks || ok != tt.hasUsed {
			t.Errorf("%s: %d bytes, %d streamed, usage %v, want %d to %d, at least %d, %v", name, got, m.StreamedTokens(), ok, tt.least, tt.most, tt.chunks, tt.hasUsed)
		}
	}
	failed := NewMeter(&streaming, 503, "text/html")
	run(failed, "<html>busy</html>")
	if got := failed.OutputBytes(); got != 0 {
		t.Errorf("an error has %d bytes of output, want none", got)
	}
}

// TestBoundOfLlamaCPP: llama.cpp prefers n_predict to max_tokens.
func TestBoundOfLlamaCPP(t *testing.T) {
	r, err := Parse(ChatCompletions, []byte(`{"messages":[],"max_tokens":1,"n_predict":5000,"max_completion_tokens":20,"n":1,"n_cmpl":3}`))
	if err != nil || r.MaxOutput != 5000 || r.N != 3 {
		t.Fatalf("Parse = %+v, %v, want the larger bound, 5000, and 3 choices", r, err)
	}
	got, _ := r.Rewrite(10, false)
	if want := `{"messages":[],"max_tokens":1,"n_predict":10,"max_completion_tokens":10,"n":1,"n_cmpl":3}`; string(got) != want {
		t.Errorf("Rewrite(10) = %s, want %s", got, want)
	}
	r, err = Parse(Completions, []byte(`{"prompt":"x","max_tokens":9,"n_predict":-1}`))
	if err != nil {
		t.Fatal(err)
	}
	got, _ = r.Rewrite(-1, false)
	if want := `{"prompt":"x","max_tokens":9,"n_predict":9}`; string(got) != want {
		t.Errorf("Rewrite(-1) = %s, want %s: the caller must not remove the bound", got, want)
	}
}

// TestGeneratedTextCounts in every member that has some. Descriptions of it, such as
// log probabilities, do not count.
func TestGeneratedTextCounts(t *testing.T) {
	for name, tt := range map[string]struct {
		e     Endpoint
		event string
		want  int64
	}{
		"reasoning_content":              {ChatCompletions, `{"choices":[{"delta":{"reasoning_content":"abc"}}]}`, 3},
		"reasoning":                      {ChatCompletions, `{"choices":[{"delta":{"reasoning":"abc"}}]}`, 3},
		"refusal":                        {ChatCompletions, `{"choices":[{"delta":{"refusal":"abc"}}]}`, 3},
		"tool arguments":                 {ChatCompletions, `{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"{}"}}]}}]}`, 3},
		"custom tool":                    {ChatCompletions, `{"choices":[{"delta":{"tool_calls":[{"index":0,"type":"custom","custom":{"name":"f","input":"ab"}}]}}]}`, 3},
		"function_call":                  {ChatCompletions, `{"choices":[{"delta":{"function_call":{"arguments":"{}"}}}]}`, 2},
		"audio":                          {ChatCompletions, `{"choices":[{"delta":{"audio":{"id":"a","data":"AAAA","transcript":"abc"}}}]}`, 3},
		"log probabilities":              {ChatCompletions, `{"choices":[{"delta":{"content":"abc"},"logprobs":{"content":[{"token":"abc","bytes":[97],"top_logprobs":[{"token":"xyz"}]}],"refusal":null}}]}`, 3},
		"role alone":                     {ChatCompletions, `{"choices":[{"delta":{"role":"assistant","content":""}}]}`, 0},
		"of old, with log probabilities": {Completions, `{"choices":[{"text":"abc","logprobs":{"tokens":["abc"],"top_logprobs":[{"abc":-1}],"text_offset":[0]}}]}`, 3},
		"thinking":                       {Messages, `{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"abc"}}`, 3},
		"signature":                      {Messages, `{"type":"content_block_delta","delta":{"type":"signature_delta","signature":"abc"}}`, 0},
		"input_json_delta":               {Messages, `{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{}"}}`, 2},
		"responses: text":                {Responses, `{"type":"response.output_text.delta","delta":"abc","logprobs":[{"token":"abc"}]}`, 3},
		"responses: arguments":           {Responses, `{"type":"response.function_call_arguments.delta","delta":"{}"}`, 2},
		"responses: summary":             {Responses, `{"type":"response.reasoning_summary_text.delta","delta":"abc"}`, 3},
		"responses: the whole again":     {Responses, `{"type":"response.output_item.done","item":{"content":[{"text":"abc"}]}}`, 0},
	} {
		m := NewMeter(&Request{Endpoint: tt.e, N: 1, Stream: true}, 200, "text/event-stream")
		run(m, "data: "+tt.event+"\n\n")
		if got := m.OutputBytes(); got != tt.want || (m.StreamedTokens() > 0) != (tt.want > 0) {
			t.Errorf("%s: %d bytes in %d events, want %d", name, got, m.StreamedTokens(), tt.want)
		}
	}
	custom := NewMeter(&Request{Endpoint: Responses, N: 1}, 200, "application/json")
	run(custom, `{"output":[{"type":"custom_tool_call","id":"c","call_id":"d","name":"f","input":"abc"}]}`)
	if got := custom.OutputBytes(); got != 4 {
		t.Errorf("a custom tool's input has %d bytes with its name, want 4", got)
	}
}
