// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// ofCost compares exported fields only.
var ofCost = cmpopts.IgnoreUnexported(Request{})

func TestEndpointOf(t *testing.T) {
	for _, tt := range []struct {
		method, path string
		want         Endpoint
		ok           bool
	}{
		{"POST", "/v1/chat/completions", ChatCompletions, true},
		{"POST", "/v1/completions", Completions, true},
		{"POST", "/v1/embeddings", Embeddings, true},
		{"POST", "/v1/responses", Responses, true},
		{"POST", "/v1/messages", Messages, true},
		{"POST", "/team/llama/v1/chat/completions", ChatCompletions, true},
		{"POST", "/v1/chat/completions/", ChatCompletions, true},
		{"POST", "//v1//chat/./completions", ChatCompletions, true},
		{"POST", "/v1/x/../messages", Messages, true},
		{"GET", "/v1/chat/completions", 0, false},
		{"POST", "/v1/responses/resp_1", 0, false},
		{"POST", "/v1/responses/resp_1/cancel", 0, false},
		{"POST", "/v1/messages/count_tokens", 0, false},
		{"POST", "/v1/messages/batches", 0, false},
		{"POST", "/chat/completions", ChatCompletions, true},
		{"POST", "/v4/completions", Completions, true},
		{"POST", "/v1/responses/compact", Responses, true},
		{"POST", "/v1/xcompletions", 0, false},
		{"POST", "/v1/chatcompletions", 0, false},
		{"POST", "", 0, false},
	} {
		got, ok := EndpointOf(tt.method, tt.path)
		if got != tt.want || ok != tt.ok {
			t.Errorf("EndpointOf(%s, %s) = %v, %v, want %v, %v", tt.method, tt.path, got, ok, tt.want, tt.ok)
		}
	}
}

func TestEndpointNames(t *testing.T) {
	for e, want := range map[Endpoint]string{
		ChatCompletions: "chat_completions openai", Completions: "completions openai", Embeddings: "embeddings openai",
		Responses: "responses openai", Messages: "messages anthropic", 9: "unknown openai",
	} {
		if got := e.String() + " " + e.Dialect().String(); got != want {
			t.Errorf("endpoint %d is %s, want %s", e, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	const hi = `[{"role":"user","content":"hi"}]` // role user content hi
	for _, tt := range []struct {
		name string
		e    Endpoint
		body string
		want Request
	}{
		{"nothing said", ChatCompletions, `{}`, Request{MaxOutput: -1, N: 1}},
		{"white space", ChatCompletions, " {\r\n\t} \n", Request{MaxOutput: -1, N: 1}},
		{
			"chat", ChatCompletions, `{"model":"m","messages":` + hi + `,"max_tokens":100,"n":3,"temperature":0.5,"future":[null]}`,
			Request{Model: "m", MaxOutput: 100, N: 3, InputBytes: 17},
		},
		{"names of other objects", ChatCompletions, `{"a":{"n":3,"b":{"n":4}},"n":2,"b":[{"n":5},{"n":6}]}`, Request{MaxOutput: -1, N: 2}},
		{"both bounds", ChatCompletions, `{"max_tokens":100,"max_completion_tokens":200}`, Request{MaxOutput: 200, N: 1}},
		{"both bounds, the other way", ChatCompletions, `{"max_completion_tokens":100,"max_tokens":200}`, Request{MaxOutput: 200, N: 1}},
		{
			"null is absent", ChatCompletions, `{"max_tokens":null,"n":null,"model":null,"stream":null,"stream_options":null,"tools":null,"messages":null,"response_format":null}`,
			Request{MaxOutput: -1, N: 1},
		},
		{"no bound", ChatCompletions, `{"max_tokens":-1,"max_completion_tokens":null,"n_predict": -1}`, Request{MaxOutput: -1, N: 1}},
		{"no bound beside a bound", ChatCompletions, `{"n_predict":-1,"max_tokens":5}`, Request{MaxOutput: 5, N: 1}},
		{"other notations", ChatCompletions, `{"max_tokens":1e3,"n":2.0}`, Request{MaxOutput: 1000, N: 2}},
		{"the most", ChatCompletions, `{"max_tokens":9007199254740992}`, Request{MaxOutput: 1 << 53, N: 1}},
		{"best_of", ChatCompletions, `{"n":2,"best_of":5}`, Request{MaxOutput: -1, N: 5}},
		{
			"stream", ChatCompletions, `{"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`,
			Request{MaxOutput: -1, N: 1, Stream: true, IncludeUsage: true},
		},
		{"stream without usage", ChatCompletions, `{"stream":true,"stream_options":{"include_usage":false}}`, Request{MaxOutput: -1, N: 1, Stream: true}},
		{"names in escapes", ChatCompletions, `{"m\u0061x_tokens":7,"\u006e":2}`, Request{MaxOutput: 7, N: 2}},
		{"text in escapes", ChatCompletions, `{"messages":"\n\u00e4\u20ac\ud83d\ude00\\"}`, Request{MaxOutput: -1, N: 1, InputBytes: 1 + 2 + 3 + 4 + 1}},
		{
			"tools", ChatCompletions, `{"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}]}`,
			Request{MaxOutput: -1, N: 1, NoTruncation: true, InputBytes: int64(len("typefunctionfunctionnamefparameterstypeobject"))},
		},
		{"no tools", ChatCompletions, `{"tools":[]}`, Request{MaxOutput: -1, N: 1}},
		{"tools not to be called", ChatCompletions, `{"tools":[{"a":12}],"tool_choice":"none"}`, Request{MaxOutput: -1, N: 1, InputBytes: 3}},
		{
			"tools to be called", ChatCompletions, `{"tool_choice":{"type":"function"},"functions":[{"a":12}]}`,
			Request{MaxOutput: -1, N: 1, NoTruncation: true, InputBytes: 15},
		},
		{
			"schema", ChatCompletions, `{"response_format":{"type":"json_schema","json_schema":{"name":"s"}}}`,
			Request{MaxOutput: -1, N: 1, NoTruncation: true, InputBytes: int64(len("typejson_schemajson_schemanames"))},
		},
		{"JSON", ChatCompletions, `{"response_format":{"type":"json_object"}}`, Request{MaxOutput: -1, N: 1, NoTruncation: true, InputBytes: 15}},
		{"text", ChatCompletions, `{"response_format":{"type":"text"}}`, Request{MaxOutput: -1, N: 1, InputBytes: 8}},
		{"grammar", Completions, `{"guided_regex":"a+"}`, Request{MaxOutput: -1, N: 1, NoTruncation: true, InputBytes: 2}},
		{"min_tokens", ChatCompletions, `{"min_tokens":50,"max_tokens":60}`, Request{MaxOutput: 60, MinOutput: 50, N: 1}},

		{"prompt", Completions, `{"prompt":"hello","suffix":"!","max_tokens":5}`, Request{MaxOutput: 5, N: 1, InputBytes: 6}},
		{"prompts", Completions, `{"prompt":["a","bc","def"],"best_of":2,"n":1}`, Request{MaxOutput: -1, N: 6, InputBytes: 6}},
		{"token ids", Completions, `{"prompt":[1,2,3]}`, Request{MaxOutput: -1, N: 1, InputTokens: 3}},
		{"lists of token ids", Completions, `{"prompt":[[1,2,3],[4]],"n":2}`, Request{MaxOutput: -1, N: 4, InputTokens: 4}},
		{"no prompts", Completions, `{"prompt":[]}`, Request{MaxOutput: -1, N: 1}},
		{"nothing but the prompt's probabilities", Completions, `{"max_tokens":0,"echo":true}`, Request{N: 1}},

		{"embeddings", Embeddings, `{"model":"e","input":["ab","c"],"dimensions":3,"stream":7}`, Request{Model: "e", N: 1, InputBytes: 3}},
		{"embeddings of token ids", Embeddings, `{"input":[[1,2],[3]]}`, Request{N: 1, InputTokens: 3}},

		{
			"responses", Responses, `{"input":"abc","instructions":"de","max_output_tokens":99,"stream":true}`,
			Request{MaxOutput: 99, MinOutput: 16, N: 1, Stream: true, InputBytes: 5},
		},
		{"responses, small", Responses, `{"max_output_tokens":3}`, Request{MaxOutput: 3, MinOutput: 3, N: 1}},
		{"any notation of no bound", ChatCompletions, `{"max_tokens":-1.0,"max_completion_tokens":-1e0}`, Request{MaxOutput: -1, N: 1}},
		{"llama.cpp: until the context is full", Completions, `{"n_predict":-2}`, Request{MaxOutput: -1, N: 1}},
		{"responses go on", Responses, `{"previous_response_id":"r1","background":false}`, Request{MaxOutput: -1, MinOutput: 16, N: 1, InputBytes: 2, StoredInput: true, HiddenTokens: 2000}},
		{
			"responses with a schema", Responses, `{"text":{"verbosity":"low","format":{"type":"json_schema"}}}`,
			Request{MaxOutput: -1, MinOutput: 16, N: 1, NoTruncation: true, InputBytes: 15},
		},
		{"responses without", Responses, `{"text":{"format":null}}`, Request{MaxOutput: -1, MinOutput: 16, N: 1}},

		{"messages", Messages, `{"model":"c","system":"be","max_tokens":9,"messages":` + hi + `}`, Request{Model: "c", MaxOutput: 9, N: 1, InputBytes: 19}},
		{"to fill the cache", Messages, `{"max_tokens":0}`, Request{N: 1}},
		{"thinking", Messages, `{"max_tokens":4096,"thinking":{"type":"enabled","budget_tokens":1024}}`, Request{MaxOutput: 4096, MinOutput: 1280, N: 1}},
		{"thinking takes it all", Messages, `{"max_tokens":1100,"thinking":{"budget_tokens":1024,"type":"enabled"}}`, Request{MaxOutput: 1100, MinOutput: 1100, N: 1}},
		{"no thinking", Messages, `{"max_tokens":4096,"thinking":{"type":"disabled","budget_tokens":1024}}`, Request{MaxOutput: 4096, N: 1}},
		{
			"messages with a schema", Messages, `{"output_config":{"effort":"low","format":{"type":"json_schema"}}}`,
			Request{MaxOutput: -1, N: 1, NoTruncation: true, InputBytes: 15},
		},
	} {
		tt.want.Endpoint = tt.e
		got, err := Parse(tt.e, []byte(tt.body))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(&tt.want, got, ofCost); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestMedia: an image has the same cost however it is sent, encoded data is not text, and
// text does not pass for either.
func TestMedia(t *testing.T) {
	data := "data:image/png;base64," + strings.Repeat("A", 100_000)
	text := strings.Repeat("A", 100_000)
	prose := strings.Repeat("word ", 20_000)
	for _, tt := range []struct {
		name    string
		e       Endpoint
		content string
		least   int64
		most    int64
	}{
		{"chat image", ChatCompletions, `{"type":"image_url","image_url":{"url":"` + data + `"}}`, ImageBytes, 50},
		{"type comes last", ChatCompletions, `{"image_url":{"url":"` + data + `"},"type":"image_url"}`, ImageBytes, 50},
		{"text beside it counts", ChatCompletions, `{"type":"image_url","image_url":{"url":"x"},"text":"` + text + `"}`, ImageBytes + 100_000, 50},
		{"chat audio", ChatCompletions, `{"type":"input_audio","input_audio":{"data":"` + text + `","format":"wav"}}`, AudioBytes, 50},
		{"chat file", ChatCompletions, `{"type":"file","file":{"file_data":"` + data + `"}}`, FileBytes, 50},
		{"vLLM video", ChatCompletions, `{"type":"video_url","video_url":{"url":"` + data + `"}}`, VideoBytes, 50},
		{"a text that looks like one", ChatCompletions, `{"type":"text","text":"` + data + `"}`, 100_000, 50},
		{"a payload without a type", ChatCompletions, `{"image_url":{"url":"` + data + `"}}`, OpaqueBytes, 50},
		{"prose as a payload without a type", ChatCompletions, `{"image_url":{"url":"` + prose + `"}}`, 100_000, 50},
		{"prose in an image", ChatCompletions, `{"type":"image","caption":"` + prose + `"}`, ImageBytes + 100_000, 50},
		{"Qwen's image", ChatCompletions, `{"type":"image","image":"` + data + `"}`, ImageBytes, 50},
		{"assistant's audio", ChatCompletions, `{"type":"audio","audio":{"data":"` + text + `","transcript":"hello"}}`, AudioBytes, 50},
		{"details of reasoning", ChatCompletions, `{"reasoning_details":[{"type":"reasoning.encrypted","data":"` + text + `"}]}`, OpaqueBytes, 60},
		{"a signature of a thought", ChatCompletions, `{"extra_content":{"google":{"thought_signature":"` + text + `"}}}`, OpaqueBytes, 60},
		{"chunks of an unknown part", ChatCompletions, `{"type":"new","chunks":["` + text + `","` + text + `"]}`, 2 * OpaqueBytes, 60},
		{"base64 with lines", ChatCompletions, `{"type":"new","blob":"` + strings.Repeat(strings.Repeat("A", 76)+`\r\n`, 1000) + `=="}`, OpaqueBytes, 60},
		{"short data", ChatCompletions, `{"type":"new","blob":"` + text[:2000] + `"}`, 2000, 60},
		{"result of an image tool", Responses, `{"type":"image_generation_call","id":"i","status":"completed","result":"` + text + `"}`, ImageBytes, 80},
		{"encrypted reasoning", Responses, `{"type":"reasoning","summary":[{"type":"summary_text","text":"ok"}],"encrypted_content":"` + text + `"}`, OpaqueBytes, 100},
		{"output of a function", Responses, `{"type":"function_call_output","call_id":"c","output":"` + text + `"}`, 100_000, 80},
		{"thinking with a signature", Messages, `{"type":"thinking","thinking":"so","signature":"` + text + `"}`, OpaqueBytes, 60},
		{"thinking in base64", Messages, `{"type":"thinking","thinking":"` + text + `"}`, 100_000, 60},
		{"redacted thinking", Messages, `{"type":"redacted_thinking","data":"` + text + `"}`, OpaqueBytes, 60},
		{"search results", Messages, `{"type":"web_search_tool_result","content":[{"type":"web_search_result","title":"t","encrypted_content":"` + text + `"}]}`, OpaqueBytes, 120},
		{"a payload of a text", ChatCompletions, `{"type":"text","image_url":{"url":"` + data + `"}}`, 100_000, 60},
		{"responses image", Responses, `{"type":"input_image","image_url":"` + data + `"}`, ImageBytes, 50},
		{"responses file", Responses, `{"type":"input_file","file_data":"` + data + `","filename":"a"}`, FileBytes, 50},
		{"screenshot", Responses, `{"type":"computer_call_output","output":{"type":"computer_screenshot","image_url":"` + data + `"}}`, ImageBytes, 100},
		{"Anthropic image", Messages, `{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + text + `"}}`, ImageBytes, 50},
		{"Anthropic document", Messages, `{"type":"document","source":{"type":"base64","data":"` + text + `"}}`, FileBytes, 50},
		{"Anthropic text document", Messages, `{"type":"document","source":{"type":"text","data":"` + text + `"}}`, FileBytes + 100_000, 100},
		{"image of a tool", Messages, `{"type":"tool_result","content":[{"type":"image","source":{"data":"` + text + `"}}]}`, ImageBytes, 100},
		{"arguments of a tool", Messages, `{"type":"tool_use","input":{"type":"image","image_url":"` + text + `"}}`, 100_000, 100},
	} {
		field := "messages"
		if tt.e == Responses {
			field = "input"
		}
		r, err := Parse(tt.e, []byte(`{"`+field+`":[{"role":"user","content":[`+tt.content+`]}]}`))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if most := tt.least + tt.most; r.InputBytes < tt.least || r.InputBytes > most {
			t.Errorf("%s: %d bytes, want %d to %d", tt.name, r.InputBytes, tt.least, most)
		}
	}
}

// TestOpaqueBytes: what encoded data does not count for is known, because a call without
// reported usage is charged for it.
func TestOpaqueBytes(t *testing.T) {
	data := strings.Repeat("A", 100_000)
	for _, tt := range []struct {
		content string
		opaque  int64
		fixed   bool
	}{
		{`{"type":"redacted_thinking","data":"` + data + `"}`, 100_000 - OpaqueBytes, true},
		{`{"type":"thinking","signature":"` + data[:300] + `"}`, 0, true},
		{`{"type":"image","source":{"type":"base64","data":"` + data + `"}}`, 0, true},
		{`{"source":{"type":"base64","data":"` + data + `"},"type":"image"}`, 0, true},
		{`{"type":"text","text":"x","data":"` + data + `"}`, 0, true},
		{`{"type":"new","a":["` + data + `",{"b":"` + data + `"}]}`, 2 * (100_000 - OpaqueBytes), true},
		{`{"type":"text","text":"` + data + `"}`, 0, false},
	} {
		r, err := Parse(Messages, []byte(`{"messages":[{"role":"user","content":[`+tt.content+`]}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if r.OpaqueBytes != tt.opaque || r.FixedSize != tt.fixed {
			t.Errorf("%.40s: %d opaque bytes, fixed size %v, want %d, %v", tt.content, r.OpaqueBytes, r.FixedSize, tt.opaque, tt.fixed)
		}
	}
}

// TestKnownInputTokens: what is known of the input is never more than what the model reads,
// and is nothing if the server may leave out a part.
func TestKnownInputTokens(t *testing.T) {
	text := strings.Repeat("word ", 10*maxTokenBytes) // 50 tokens at least
	for _, tt := range []struct {
		name string
		e    Endpoint
		body string
		want int64
	}{
		{"nothing", ChatCompletions, `{}`, 0},
		{"a message", ChatCompletions, `{"messages":[{"role":"user","content":"` + text + `"}]}`, 50},
		{"parts of messages", ChatCompletions, `{"messages":[{"content":[{"type":"text","text":"` + text + `"}]},{"content":"` + text + `"}]}`, 100},
		{"reasoning of earlier turns may be left out", ChatCompletions, `{"messages":[{"content":"","reasoning_content":"` + text + `"}]}`, 0},
		{"an image is not text", ChatCompletions, `{"messages":[{"content":[{"type":"image_url","image_url":{"url":"` + text + `"}}]}]}`, 0},
		{"a prediction is output", ChatCompletions, `{"prediction":{"type":"content","content":"` + text + `"}}`, 0},
		{"tools are translated", ChatCompletions, `{"tools":[{"name":"` + text + `"}]}`, 0},
		{"vLLM truncates", ChatCompletions, `{"messages":[{"content":"` + text + `"}],"truncate_prompt_tokens":10}`, 0},
		{"vLLM does not truncate", ChatCompletions, `{"messages":[{"content":"` + text + `"}],"truncate_prompt_tokens":null}`, 50},
		{"prompts", Completions, `{"prompt":["` + text + `","` + text + `"]}`, 100},
		{"token ids", Completions, `{"prompt":[[1,2,3],[4,5]]}`, 5},
		{"token ids of an embedding", Embeddings, `{"input":[1,2,3]}`, 3},
		{"texts of embeddings may be cut", Embeddings, `{"input":"` + text + `"}`, 0},
		{"Ollama truncates", Embeddings, `{"input":[1,2,3],"truncate":true}`, 0},
		{"Ollama does not truncate", Embeddings, `{"input":[1,2,3],"truncate":false}`, 3},
		{"Responses", Responses, `{"input":"` + text + `"}`, 50},
		{"Responses drops turns", Responses, `{"input":"` + text + `","truncation":"auto"}`, 0},
		{"Responses drops nothing", Responses, `{"input":"` + text + `","truncation":"disabled"}`, 50},
		{"Anthropic", Messages, `{"system":"` + text + `","messages":[{"role":"user","content":"` + text + `"}]}`, 100},
	} {
		r, err := Parse(tt.e, []byte(tt.body))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		} else if got := r.KnownInputTokens(); got != tt.want {
			t.Errorf("%s: %d tokens are known, want %d", tt.name, got, tt.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	long := strings.Repeat("x", 100)
	many := "{"
	for i := range 100 {
		many += `"k` + strconv.Itoa(i) + `":0,`
	}
	for _, tt := range []struct {
		e          Endpoint
		body, want string
	}{
		{ChatCompletions, ``, "body: must be a JSON object, got nothing"},
		{ChatCompletions, `{"model":`, "model: must be a string, got the end of the body, which is not valid JSON"},
		{ChatCompletions, `[]`, "body: must be a JSON object, got a list"},
		{ChatCompletions, `"x"`, `body: must be a JSON object, got "x"`},
		{ChatCompletions, "\xef\xbb\xbf{}", "body: must be a JSON object, got '\\ufeff'"},
		{ChatCompletions, "{\x00}", "body: must be valid JSON: want a name at byte 1"},
		{ChatCompletions, `{"a":"` + "\xff" + `"}`, "body: must be valid UTF-8"},
		{ChatCompletions, "{}\x00", "body: must be valid JSON: want nothing after the object at byte 2"},
		{ChatCompletions, "\x00", `body: must be a JSON object, got '\x00'`},
		{ChatCompletions, `{} {}`, "body: must be valid JSON: want nothing after the object at byte 3"},
		{ChatCompletions, `{"a":1,}`, "body: must be valid JSON: want no comma before '}' at byte 7"},
		{ChatCompletions, `{"a":[1,]}`, "body: must be valid JSON: want no comma before ']' at byte 8"},
		{ChatCompletions, `{"a" 1}`, "body: must be valid JSON: want ':' at byte 5"},
		{ChatCompletions, `{"a":1 "b":2}`, "body: must be valid JSON: want ',' or '}' at byte 7"},
		{ChatCompletions, `{"a":[1 2]}`, "body: must be valid JSON: want ',' or ']' at byte 8"},
		{ChatCompletions, `{"a":}`, "body: must be valid JSON: want a value at byte 5"},
		{ChatCompletions, `{"a":NaN}`, "body: must be valid JSON: want a value at byte 5"},
		{ChatCompletions, `{"a":01}`, "body: must be valid JSON: want a value at byte 5"},
		{ChatCompletions, `{"a":1.}`, "body: must be valid JSON: want a value at byte 5"},
		{ChatCompletions, `{"a":1e}`, "body: must be valid JSON: want a value at byte 5"},
		{ChatCompletions, `{"a":-}`, "body: must be valid JSON: want a value at byte 5"},
		{ChatCompletions, `{"a":"\x"}`, "body: must be valid JSON: a wrong escape in a string at byte 6"},
		{ChatCompletions, `{"a":"\u12g4"}`, "body: must be valid JSON: a wrong escape in a string at byte 6"},
		{ChatCompletions, "{\"a\":\"\n\"}", "body: must be valid JSON: a control character in a string at byte 6"},
		{ChatCompletions, `{"a":"`, "body: must be valid JSON: a string without end at byte 6"},
		{ChatCompletions, `{"a":1`, "body: must be valid JSON: want ',' or '}' at byte 6"},
		{ChatCompletions, `{1:2}`, "body: must be valid JSON: want a name at byte 1"},

		{ChatCompletions, `{"n":1.5}`, "n: must be a whole number of at least 1, got 1.5"},
		{ChatCompletions, `{"max_tokens":-3}`, "max_tokens: must be a whole number of at least 1, got -3"},
		{ChatCompletions, `{"max_tokens":0}`, "max_tokens: must be a whole number of at least 1, got 0"},
		{ChatCompletions, `{"max_tokens":1.5}`, "max_tokens: must be a whole number of at least 1, got 1.5"},
		{ChatCompletions, `{"max_tokens":1e-400}`, "max_tokens: must be a whole number of at least 1, got 1e-400"},
		{ChatCompletions, `{"max_tokens":"5"}`, `max_tokens: must be a number, got "5"`},
		{Completions, `{"max_tokens":-2}`, "max_tokens: must be a whole number of at least 0, got -2"},
		{ChatCompletions, `{"n_predict":-1.5}`, "n_predict: must be a whole number of at least 1, got -1.5"},
		{ChatCompletions, `{"stream":"true"}`, `stream: must be true or false, got "true"`},
		{ChatCompletions, `{"stream":1}`, "stream: must be true or false, got 1"},
		{ChatCompletions, `{"stream_options":{"include_usage":1}}`, "stream_options.include_usage: must be true or false, got 1"},
		{ChatCompletions, `{"max_tokens":true}`, "max_tokens: must be a number, got true"},
		{ChatCompletions, `{"max_completion_tokens":[5]}`, "max_completion_tokens: must be a number, got a list"},
		{ChatCompletions, `{"max_tokens":9007199254740993}`, "max_tokens: must be at most 2^53, got 9007199254740993"},
		{ChatCompletions, `{"max_tokens":1e400}`, "max_tokens: must be at most 2^53, got 1e400"},
		{ChatCompletions, `{"max_tokens":18446744073709551617}`, "max_tokens: must be at most 2^53, got 18446744073709551617"},
		{ChatCompletions, `{"n":0}`, "n: must be a whole number of at least 1, got 0"},
		{ChatCompletions, `{"best_of":-1e99}`, "best_of: must be a whole number of at least 1, got -1e99"},
		{Completions, `{"n":1025,"prompt":["a","b"]}`, "n: must be at most 1024, got 1025"},
		{ChatCompletions, `{"n":9007199254740992}`, "n: must be at most 1024, got 9007199254740992"},
		{ChatCompletions, `{"model":3}`, "model: must be a string, got 3"},
		{ChatCompletions, `{"model":"a\ud800"}`, "model: must be valid UTF-8, got \"a\ufffd\""},
		{ChatCompletions, `{"stream":"` + strings.Repeat("ä", 40) + `"}`, `stream: must be true or false, got "` + strings.Repeat("ä", 32) + `"... (80 bytes)`},
		{ChatCompletions, `{"stream":"x` + strings.Repeat("ä", 40) + `"}`, `stream: must be true or false, got "x` + strings.Repeat("ä", 31) + `"... (81 bytes)`},
		{ChatCompletions, `{"n":` + strings.Repeat("9", 100) + `}`, `n: must be at most 2^53, got ` + strings.Repeat("9", 64) + `... (100 digits)`},
		{ChatCompletions, `{"model":{"` + long + `":1}}`, "model: must be a string, got an object"},
		{ChatCompletions, `{"stream_options":true}`, "stream_options: must be an object, got true"},
		{ChatCompletions, `{"stream_options":{"Include_Usage":true}}`, "stream_options.Include_Usage: must be spelled include_usage"},
		{ChatCompletions, `{"tools":{}}`, "tools: must be a list, got an object"},
		{ChatCompletions, `{"response_format":"json"}`, `response_format: must be an object, got "json"`},
		{ChatCompletions, `{"tool_choice":1}`, "tool_choice: must be an object, got 1"},
		{Responses, `{"text":1}`, "text: must be an object, got 1"},
		{Responses, `{"background":true}`, "background: must not be true: the usage of a background response cannot be metered"},
		{Messages, `{"thinking":1}`, "thinking: must be an object, got 1"},
		{Messages, `{"thinking":{"budget_tokens":-1}}`, "thinking.budget_tokens: must be a whole number of at least 1, got -1"},
		{Completions, `{"prompt":7}`, "prompt: must be a string or a list, got 7"},
		{Completions, `{"prompt":["a",true]}`, "prompt[1]: must be a string or a token id, got true"},
		{Embeddings, `{"input":[[1,-2]]}`, "input[0][1]: must be a string or a token id, got -2"},

		{ChatCompletions, `{"max_tokens":1,"max_tokens":2}`, "max_tokens: is given twice"},
		{ChatCompletions, `{"max_tokens":1,"max_\u0074okens":2}`, "max_tokens: is given twice"},
		{ChatCompletions, `{"unknown":1,"unknown":2}`, "unknown: is given twice"},
		{ChatCompletions, `{"messages":[{"a":1},{"content":"x","content":"y"}]}`, "messages[1].content: is given twice"},
		{ChatCompletions, `{"x":{"a b":{"":1,"":2}}}`, `x."a b"."": is given twice`},
		{ChatCompletions, many + `"k99":1}`, "k99: is given twice"},
		{ChatCompletions, many + `"k3":1}`, "k3: is given twice"},
		{ChatCompletions, `{"Max_Tokens":1}`, "Max_Tokens: must be spelled max_tokens"},
		{ChatCompletions, `{"\u017ftream":true}`, "\"\u017ftream\": must be spelled stream"},
		{ChatCompletions, `{"` + long + `":1,"` + long + `":1}`, `"` + long[:64] + `"... (100 bytes): is given twice`},
	} {
		_, err := Parse(tt.e, []byte(tt.body))
		if err == nil {
			t.Errorf("Parse(%s) succeeds, want %s", tt.body, tt.want)
		} else if err.Error() != tt.want {
			t.Errorf("Parse(%s)\n got %s\nwant %s", tt.body, err, tt.want)
		}
	}
	var crowd strings.Builder
	crowd.WriteString(many)
	for i := range maxMembers {
		crowd.WriteString(`"m` + strconv.Itoa(i) + `":0,`)
	}
	crowd.WriteString(`"x":0}`)
	_, err := Parse(ChatCompletions, []byte(crowd.String()))
	if want := "m65436: is one too many: an object may have 65536 members"; err == nil || err.Error() != want {
		t.Errorf("Parse of many members: %v, want %s", err, want)
	}
	_, err = Parse(ChatCompletions, []byte(`{"x":`+deep+`}`))
	if err == nil || !strings.HasSuffix(err.Error(), "is nested more than 128 deep") || len(err.Error()) > 500 {
		t.Errorf("Parse of a deep body: %v, want a short error about its depth", err)
	}
}
