// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// used is a usage whose other counts are unknown.
func used(input, cached, output, reasoning int64) Usage {
	u := noUsage
	u.Input, u.CachedInput, u.Output, u.Reasoning = input, cached, output, reasoning
	return u
}

// anthropicUsed is the usage of anthropicStart with an output.
func anthropicUsed(output int64) Usage {
	u := used(60, 30, output, -1)
	u.CacheWrite = 20
	return u
}

// outcome is all that a meter reports.
type outcome struct {
	Usage         Usage
	OK            bool
	Running       Usage
	Streamed      int64
	OutputBytes   int64
	Finished      bool
	UsageRejected bool
	Truncated     bool
}

func outcomeOf(m *Meter) outcome {
	u, ok := m.Usage()
	return outcome{u, ok, m.PartialUsage(), m.StreamedTokens(), m.OutputBytes(), m.Finished(), m.UsageRejected(), m.Truncated()}
}

// run passes an answer through a meter in pieces that end at cuts.
func run(m *Meter, answer string, cuts ...int) string {
	var got strings.Builder
	from := 0
	for _, cut := range append(cuts, len(answer)) {
		piece := []byte(answer[from:cut])
		got.Write(m.Process(piece))
		clear(piece) // the meter must not keep it
		from = cut
	}
	got.Write(m.Close())
	return got.String()
}

const (
	chatDelta = `data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null}],"usage":null}` + "\n\n"
	chatStop  = `data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}` + "\n\n"
	chatUsage = `data: {"id":"c","object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11,` +
		`"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":1,"audio_tokens":0}}}` + "\n\n"
	done = "data: [DONE]\n\n"

	continuous = `data: {"choices":[{"index":0,"delta":{"content":"ab"}}],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14}}` + "\n\n"

	anthropicStart = "event: message_start\n" +
		`data: {"type":"message_start","message":{"id":"m","type":"message","content":[],"usage":{"input_tokens":10,"cache_creation_input_tokens":20,"cache_read_input_tokens":30,"output_tokens":1}}}` + "\n\n"
	anthropicDelta = "event: content_block_delta\n" +
		`data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"h\u00e4"}}` + "\n\n"
	anthropicTool = "event: content_block_delta\n" +
		`data: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"a\""}}` + "\n\n"
	anthropicPing  = "event: ping\ndata: {\"type\": \"ping\"}\n\n"
	anthropicUsage = "event: message_delta\n" + `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":15}}` + "\n\n"
	anthropicStop  = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"

	responseCreated = `data: {"type":"response.created","response":{"id":"r","instructions":"be good","output":[],"usage":null}}` + "\n\n"
	responseDelta   = `data: {"type":"response.output_text.delta","delta":"Hello","logprobs":[]}` + "\n\n"
	responseText    = `data: {"type":"response.output_text.done","text":"Hello"}` + "\n\n"
	responseEnd     = `data: {"type":"response.%s","response":{"output":[{"content":[{"text":"Hello"}]}],"usage":` +
		`{"input_tokens":8,"input_tokens_details":{"cached_tokens":2},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":1},"total_tokens":11}}}` + "\n\n"
)

var (
	streaming    = Request{Endpoint: ChatCompletions, N: 1, Stream: true, InputBytes: 10}
	asking       = Request{Endpoint: ChatCompletions, N: 1, Stream: true, InputBytes: 10, usageAsked: true}
	streamUsage  = Request{Endpoint: ChatCompletions, N: 1, Stream: true, InputBytes: 10, IncludeUsage: true}
	chatUsed     = used(9, 4, 2, 1)
	hiddenCRLF   = strings.NewReplacer("\n", "\r\n")
	hiddenCR     = strings.NewReplacer("\n", "\r")
	responseUsed = used(8, 2, 3, 1)
)

// withoutNulls removes what a caller gets because usage is asked for.
func withoutNulls(answer string) string { return strings.ReplaceAll(answer, `,"usage":null`, "") }

func TestMeterStreams(t *testing.T) {
	anthropic := Request{Endpoint: Messages, N: 1, Stream: true, InputBytes: 10}
	responses := Request{Endpoint: Responses, N: 1, Stream: true, InputBytes: 10}
	completions := Request{Endpoint: Completions, N: 1, Stream: true, InputBytes: 10, usageAsked: true}
	two := Request{Endpoint: ChatCompletions, N: 2, Stream: true, InputBytes: 10}
	multiline := "data: {\"choices\":\ndata: [],\ndata:\"usage\":{\"prompt_tokens\":9,\n: a comment\ndata: \"completion_tokens\":2}}\n\n"
	for _, tt := range []struct {
		name   string
		r      Request
		answer string
		passed string // "": all of it
		want   outcome
	}{
		{"asked for usage", streamUsage, chatDelta + chatStop + chatUsage + done, "", outcome{chatUsed, true, chatUsed, 2, 2, true, false, false}},
		{"nobody asked for usage", streaming, chatDelta + chatStop + chatUsage + done, "", outcome{chatUsed, true, chatUsed, 2, 2, true, false, false}},
		{"usage is hidden", asking, chatDelta + chatStop + chatUsage + done, chatDelta + chatStop + done, outcome{chatUsed, true, chatUsed, 2, 2, true, false, false}},
		{"CRLF", asking, hiddenCRLF.Replace(chatDelta + chatUsage + done), hiddenCRLF.Replace(chatDelta + done), outcome{chatUsed, true, chatUsed, 2, 2, true, false, false}},
		{"CR", asking, hiddenCR.Replace(chatDelta + chatUsage + done), hiddenCR.Replace(chatDelta + done), outcome{chatUsed, true, chatUsed, 2, 2, true, false, false}},
		{"byte order mark", asking, "\xef\xbb\xbf" + chatUsage + done, "\xef\xbb\xbf" + done, outcome{chatUsed, true, chatUsed, 2, 0, true, false, false}},
		{"comments", asking, ": hi\n\n" + chatDelta + ":\n" + chatUsage + ": OPENROUTER\n\n" + done, ": hi\n\n" + chatDelta + ":\n: OPENROUTER\n\n" + done, outcome{chatUsed, true, chatUsed, 2, 2, true, false, false}},
		{"other fields", asking, "id: 1\nevent: x\n" + chatUsage + "retry: 5\nid\n" + done, "retry: 5\nid\n" + done, outcome{chatUsed, true, chatUsed, 2, 0, true, false, false}},
		{"data of several lines", asking, multiline + done, done, outcome{used(9, -1, 2, -1), true, used(9, -1, 2, -1), 2, 0, true, false, false}},
		{"the last event has no end", asking, chatDelta + strings.TrimSpace(chatUsage), chatDelta, outcome{chatUsed, true, chatUsed, 2, 2, false, false, false}},
		{"no usage", streaming, chatDelta + chatDelta + chatStop + done, "", outcome{noUsage, false, noUsage, 2, 4, true, false, false}},
		{"cut", streaming, chatDelta + chatDelta[:strings.Index(chatDelta, "i\"}")], "", outcome{noUsage, false, noUsage, 2, 3, false, false, false}},
		{"continuous usage", streamUsage, continuous + continuous + chatStop + done, "", outcome{used(9, -1, 5, -1), true, used(9, -1, 5, -1), 5, 4, true, false, false}},
		{"continuous usage, cut", streamUsage, continuous, "", outcome{noUsage, false, used(9, -1, 5, -1), 5, 2, false, false, false}},
		{
			"usage with the last choice, no end", streamUsage, strings.Replace(chatStop, "]}", `],"usage":{"prompt_tokens":9,"completion_tokens":5}}`, 1), "",
			outcome{used(9, -1, 5, -1), true, used(9, -1, 5, -1), 5, 0, false, false, false},
		},
		{
			"one choice of two ended", two, strings.Replace(chatStop, "]}", `],"usage":{"prompt_tokens":9,"completion_tokens":5}}`, 1), "",
			outcome{noUsage, false, used(9, -1, 5, -1), 5, 0, false, false, false},
		},
		{
			"completions", completions, `data: {"choices":[{"text":"a\nb","logprobs":{"tokens":["a"]}}]}` + "\n\n" + chatUsage + done, `data: {"choices":[{"text":"a\nb","logprobs":{"tokens":["a"]}}]}` + "\n\n" + done,
			outcome{chatUsed, true, chatUsed, 2, 3, true, false, false},
		},
		{"Azure's first chunk", streaming, `data: {"choices":[],"prompt_filter_results":[]}` + "\n\n" + chatDelta, "", outcome{noUsage, false, noUsage, 1, 2, false, false, false}},
		{"an error", streaming, `data: {"error":{"message":"no"}}` + "\n\n", "", outcome{noUsage, false, noUsage, 0, 0, false, false, false}},
		{"no JSON", streaming, "data: hello\n\ndata: [1]\n\n", "", outcome{noUsage, false, noUsage, 2, 8, false, false, false}},
		{"broken JSON", streaming, "data: {\"choices\":[{\n\n", "", outcome{noUsage, false, noUsage, 1, 13, false, false, false}},
		{
			"reasoning and tools", streamUsage, `data: {"choices":[{"delta":{"reasoning_content":"abc","tool_calls":[{"id":"x","function":{"name":"f","arguments":"{\"a"}}]}}]}` + "\n\n", "",
			outcome{noUsage, false, noUsage, 1, 7, false, false, false},
		},

		{
			"Anthropic", anthropic, anthropicStart + anthropicPing + anthropicDelta + anthropicTool + anthropicUsage + anthropicStop, "",
			outcome{anthropicUsed(15), true, anthropicUsed(15), 15, 7, true, false, false},
		},
		{"Anthropic, cut", anthropic, anthropicStart + anthropicDelta + anthropicDelta, "", outcome{noUsage, false, anthropicUsed(1), 2, 6, false, false, false}},
		{
			"Anthropic says the input again", anthropic, anthropicStart + strings.Replace(anthropicUsage, `{"output`, `{"input_tokens":12,"cache_read_input_tokens":0,"output`, 1), "",
			outcome{used(12, 0, 15, -1), true, used(12, 0, 15, -1), 15, 0, false, false, false},
		},

		{
			"responses", responses, responseCreated + responseDelta + responseText + fmt.Sprintf(responseEnd, "completed"), "",
			outcome{responseUsed, true, responseUsed, 3, 5, true, false, false},
		},
		{"responses, incomplete", responses, responseDelta + fmt.Sprintf(responseEnd, "incomplete"), "", outcome{responseUsed, true, responseUsed, 3, 5, true, false, false}},
		{"responses, failed", responses, responseDelta + fmt.Sprintf(responseEnd, "failed"), "", outcome{responseUsed, true, responseUsed, 3, 5, true, false, false}},
		{"responses, cut", responses, responseCreated + responseDelta + responseDelta, "", outcome{noUsage, false, noUsage, 2, 10, false, false, false}},
	} {
		m := NewMeter(&tt.r, 200, "text/event-stream; charset=utf-8")
		if tt.passed == "" {
			tt.passed = tt.answer
		}
		if tt.r.usageAsked {
			tt.passed = withoutNulls(tt.passed)
		}
		if got := run(m, tt.answer); got != tt.passed {
			t.Errorf("%s: passed\n%q, want\n%q", tt.name, got, tt.passed)
		}
		if diff := cmp.Diff(tt.want, outcomeOf(m)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestMeterDocuments(t *testing.T) {
	block := `"usage":{"prompt_tokens":9,"completion_tokens":2}`
	nested := `{"choices":[{"message":` + strings.Repeat("[", 70)
	for _, tt := range []struct {
		name   string
		e      Endpoint
		status int
		kind   string
		answer string
		want   outcome
	}{
		{
			"chat", ChatCompletions, 200, "application/json", ` {"choices":[{"message":{"content":"Hello","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}],` + block + `} `,
			outcome{used(9, -1, 2, -1), true, used(9, -1, 2, -1), 2, 8, true, false, false},
		},
		{"chat, cut after the usage", ChatCompletions, 200, "application/json", `{"choices":[],` + block, outcome{used(9, -1, 2, -1), true, used(9, -1, 2, -1), 2, 0, false, false, false}},
		{"chat, cut", ChatCompletions, 200, "application/json", `{"choices":[{"message":{"content":"Hel`, outcome{noUsage, false, noUsage, 0, 3, false, false, false}},
		{"no usage", ChatCompletions, 200, "application/json", `{"choices":[{"message":{"content":"Hello"}}]}`, outcome{noUsage, false, noUsage, 0, 5, true, false, false}},
		{
			"usage elsewhere", ChatCompletions, 200, "application/json", `{"choices":[{"message":{"content":"x","usage":{"prompt_tokens":1,"completion_tokens":1}}}]}`,
			outcome{noUsage, false, noUsage, 0, 1, true, false, false},
		},
		{"usage of something else", ChatCompletions, 200, "application/json", `{"message":[{` + block + `}]}`, outcome{noUsage, false, noUsage, 0, 0, true, false, false}},
		{"completions", Completions, 200, "application/json", `{"choices":[{"text":"ab"},{"text":"\u20ac"}],` + block + `}`, outcome{used(9, -1, 2, -1), true, used(9, -1, 2, -1), 2, 5, true, false, false}},
		{
			"embeddings", Embeddings, 200, "application/json", `{"data":[{"embedding":[0.1,-2e-3]}],"usage":{"prompt_tokens":8,"total_tokens":8}}`,
			outcome{used(8, -1, 0, -1), true, used(8, -1, 0, -1), 0, 0, true, false, false},
		},
		{"embeddings, no total", Embeddings, 200, "application/json", `{"usage":{"prompt_tokens":8}}`, outcome{used(8, -1, 0, -1), true, used(8, -1, 0, -1), 0, 0, true, false, false}},
		{
			"responses", Responses, 200, "application/json", `{"instructions":"be","output":[{"type":"message","content":[{"text":"Hello"}]},{"type":"function_call","arguments":"{}"}],"usage":` +
				`{"input_tokens":8,"input_tokens_details":{"cached_tokens":2},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":1}}}`,
			outcome{responseUsed, true, responseUsed, 3, 7, true, false, false},
		},
		{
			"Anthropic", Messages, 200, "application/json", `{"type":"message","content":[{"type":"text","text":"Hello"},{"type":"tool_use","id":"i","input":{"city":"Bern"}}],` +
				`"usage":{"input_tokens":10,"cache_creation_input_tokens":20,"cache_read_input_tokens":30,"output_tokens":5}}`,
			outcome{anthropicUsed(5), true, anthropicUsed(5), 5, 9, true, false, false},
		},
		{
			"Anthropic, no cache", Messages, 200, "application/json", `{"usage":{"input_tokens":10,"cache_creation_input_tokens":null,"output_tokens":5}}`,
			outcome{used(10, -1, 5, -1), true, used(10, -1, 5, -1), 5, 0, true, false, false},
		},
		{"an error", ChatCompletions, 400, "application/json", `{"error":{"message":"no"}}`, outcome{noUsage, false, noUsage, 0, 0, true, false, false}},
		{"an error in HTML", ChatCompletions, 502, "text/html", `<h1>Bad gateway</h1>`, outcome{noUsage, false, noUsage, 0, 0, false, false, false}},
		{"no JSON", ChatCompletions, 200, "", `Hello`, outcome{noUsage, false, noUsage, 0, 5, false, false, false}},
		{"compressed", ChatCompletions, 200, "application/json", "\x1f\x8b\x08\x00abc", outcome{noUsage, false, noUsage, 0, 7, false, false, false}},
		{"too deep", ChatCompletions, 200, "application/json", nested, outcome{noUsage, false, noUsage, 0, int64(70 - 61), false, false, true}},
		{
			"usage too long", ChatCompletions, 200, "application/json", `{"usage":{"x":"` + strings.Repeat("x", maxUsageBytes) + `","prompt_tokens":9,"completion_tokens":2}}`,
			outcome{noUsage, false, noUsage, 0, 0, true, false, true},
		},
		{"problem+json", ChatCompletions, 200, "application/problem+json; charset=utf-8; q", `{` + block + `}`, outcome{used(9, -1, 2, -1), true, used(9, -1, 2, -1), 2, 0, true, false, false}},
	} {
		m := NewMeter(&Request{Endpoint: tt.e, N: 1, InputBytes: 10}, tt.status, tt.kind)
		if got := run(m, tt.answer); got != tt.answer {
			t.Errorf("%s: passed %q, want %q", tt.name, got, tt.answer)
		}
		if diff := cmp.Diff(tt.want, outcomeOf(m)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestFormats: an answer is read as what it is, whatever its content type says. The type
// decides only for an answer that begins as neither a stream nor a JSON object.
func TestFormats(t *testing.T) {
	const document = `{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}`
	for _, kind := range []string{
		"text/event-stream", "Text/Event-Stream;charset=\"", "application/json", "application/x-json", "application/problem+json; q", "text/plain", "text/html", "", "application/octet-stream",
	} {
		for _, asked := range []bool{false, true} {
			for _, answer := range []string{
				chatDelta + chatUsage + done, "\r\n\n" + chatDelta + chatUsage + done, "event: x\n" + chatDelta + chatUsage + done, ": hi\n\n" + chatDelta + chatUsage + done,
				"id: 7\n" + chatDelta + chatUsage + done, "retry: 7\n" + chatDelta + chatUsage + done, document, "\n\n" + document,
			} {
				r := Request{N: 1, Stream: asked, usageAsked: asked, InputBytes: 10}
				want := answer
				if asked && !strings.HasSuffix(answer, "}") {
					want = withoutNulls(strings.Replace(answer, chatUsage, "", 1))
					if fields, _, _ := strings.Cut(answer, chatDelta); strings.Contains(fields, ":") && !strings.Contains(fields, "\n\n") {
						want = fields + want[len(fields):]
					}
				}
				for cut := range len(answer) {
					m := NewMeter(&r, 200, kind)
					if got := run(m, answer, cut, cut); got != want {
						t.Fatalf("%q, stream %v, cut at %d: passed %q, want %q", kind, asked, cut, got, want)
					}
					if u, ok := m.Usage(); !ok || u.Input != 9 || u.Output != 2 || m.OutputBytes() != 2 || m.UsageRejected() {
						t.Fatalf("%q, stream %v, cut at %d: usage %+v, %v, %d bytes of %q", kind, asked, cut, u, ok, m.OutputBytes(), answer)
					}
				}
			}
		}
	}
	for _, tt := range []struct {
		kind   string
		asked  bool
		answer string
		text   int64
	}{
		{"text/event-stream", false, "Hello", 5},
		{"application/json", true, "Hello", 5},
		{"text/plain", false, "dat", 3},
		{"text/plain", false, "data", 4},
		{"text/plain", false, "datum: x", 8},
		{"text/plain", false, "event", 5},
		{"text/plain", false, "[1,2]", 5},
		{"application/json", false, document + document, 2 + int64(len(document))},
		{"text/event-stream", true, document + "\n" + document, 2 + int64(len(document))},
		{"application/x-ndjson", true, document + "\n" + document + "\n", 2*int64(len(document)) - 2},
		{"application/x-ndjson", false, document + "\n" + document + "\n", 2 + int64(len(document))},
	} {
		for cut := range len(tt.answer) {
			m := NewMeter(&Request{N: 1, Stream: tt.asked, InputBytes: 10}, 200, tt.kind)
			if got := run(m, tt.answer, cut); got != tt.answer {
				t.Errorf("%q: passed %q, want %q", tt.kind, got, tt.answer)
			}
			if u, ok := m.Usage(); ok || m.OutputBytes() != tt.text {
				t.Errorf("%q with stream %v, %q cut at %d: usage %+v, %v, %d bytes, want none and %d", tt.kind, tt.asked, tt.answer, cut, u, ok, m.OutputBytes(), tt.text)
			}
		}
	}
}

// TestImplausibleUsage: a usage block that cannot be true is rejected.
func TestImplausibleUsage(t *testing.T) {
	for _, tt := range []struct {
		e     Endpoint
		usage string
	}{
		{ChatCompletions, `{"prompt_tokens":-1,"completion_tokens":2}`},
		{ChatCompletions, `{"prompt_tokens":9,"completion_tokens":-2}`},
		{ChatCompletions, `{"prompt_tokens":9007199254740993,"completion_tokens":2}`},
		{ChatCompletions, `{"prompt_tokens":1e300,"completion_tokens":2}`},
		{ChatCompletions, `{"prompt_tokens":99999999999999999999999,"completion_tokens":2}`},
		{ChatCompletions, `{"prompt_tokens":1.5,"completion_tokens":2}`},
		{ChatCompletions, `{"prompt_tokens":"nine","completion_tokens":2}`},
		{ChatCompletions, `{"prompt_tokens":"-9","completion_tokens":2}`},
		{ChatCompletions, `{"prompt_tokens":"","completion_tokens":2}`},
		{ChatCompletions, `{"prompt_tokens":true,"completion_tokens":2}`},
		{ChatCompletions, `{"prompt_tokens":{},"completion_tokens":2}`},
		{ChatCompletions, `{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":10}}`},
		{ChatCompletions, `{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":-1}}`},
		{ChatCompletions, `{"prompt_tokens":9,"completion_tokens":2,"total_tokens":-11}`},
		{ChatCompletions, `{"prompt_tokens":9,"completion_tokens":9007199254740992}`},
		{ChatCompletions, `{"prompt_tokens":9,"completion_tokens":2x}`},
		{ChatCompletions, `{"prompt_tokens":0,"completion_tokens":2}`},
		{ChatCompletions, `{"prompt_tokens":9,"completion_tokens":0}`},
		{Messages, `{"input_tokens":9007199254740992,"cache_read_input_tokens":1,"output_tokens":2}`},
		{Messages, `{"input_tokens":9,"cache_creation_input_tokens":-1,"output_tokens":2}`},
		{Messages, `{"input_tokens":0,"cache_creation_input_tokens":0,"output_tokens":2}`},
		{Responses, `{"input_tokens":8,"output_tokens":3,"input_tokens_details":{"cached_tokens":9}}`},
		{Embeddings, `{"prompt_tokens":-8,"total_tokens":-8}`},
	} {
		m := NewMeter(&Request{Endpoint: tt.e, N: 1, InputBytes: 10}, 200, "application/json")
		run(m, `{"choices":[{"message":{"content":"Hi"}}],"usage":`+tt.usage+`}`)
		if u, ok := m.Usage(); ok || !m.UsageRejected() {
			t.Errorf("%v: usage %s is believed: %v, %v, lied %v", tt.e, tt.usage, u, ok, m.UsageRejected())
		}
	}
	for _, usage := range []string{
		`null`, `[]`, `{}`, `{"prompt_tokens":9}`, `{"prompt_tokens":9,"total_tokens":8}`, `{"completion_tokens":2}`, `{"prompt_tokens":null,"completion_tokens":null,"total_tokens":null}`,
	} {
		m := NewMeter(&Request{N: 1, InputBytes: 10}, 200, "application/json")
		run(m, `{"usage":`+usage+`}`)
		if u, ok := m.Usage(); ok || m.UsageRejected() {
			t.Errorf("usage %s: %v, %v, lied %v, want absent and no lie", usage, u, ok, m.UsageRejected())
		}
	}
}

// TestRejectedUsageInAStream: a rejected usage block is reported, and a later valid one
// still counts.
func TestRejectedUsageInAStream(t *testing.T) {
	lie := strings.Replace(continuous, `"completion_tokens":5`, `"completion_tokens":-5`, 1)
	m := NewMeter(&streamUsage, 200, "text/event-stream")
	run(m, continuous+lie+chatUsage+done)
	if u, ok := m.Usage(); u != chatUsed || !ok || !m.UsageRejected() || m.StreamedTokens() != 5 {
		t.Errorf("usage %v, %v, lied %v, streamed %d, want %v, true, true, 5", u, ok, m.UsageRejected(), m.StreamedTokens(), chatUsed)
	}
	m = NewMeter(&streamUsage, 200, "text/event-stream")
	run(m, continuous+lie+done)
	if u, ok := m.Usage(); ok || !m.UsageRejected() {
		t.Errorf("usage %v, %v, lied %v, want none and a lie", u, ok, m.UsageRejected())
	}
}

// TestDataLinesAreSeparated: a number does not continue in the next data line.
func TestDataLinesAreSeparated(t *testing.T) {
	m := NewMeter(&streamUsage, 200, "text/event-stream")
	run(m, "data: {\"choices\":[],\"usage\":{\"completion_tokens\":2,\"prompt_tokens\":9\ndata: 9}}\n\n")
	if u, ok := m.Usage(); ok || !m.UsageRejected() {
		t.Errorf("usage %v, %v, lied %v, want none and a lie", u, ok, m.UsageRejected())
	}
}

// TestLongChunkIsPassed: an event that is too long to hold back is passed, also if it
// comes in one piece.
func TestLongChunkIsPassed(t *testing.T) {
	pad := func(n int) string { return strings.Replace(chatUsage, "{", `{"pad":"`+strings.Repeat("x", n)+`",`, 1) }
	fits := maxHeld - len(pad(0)) + len("\n")
	for _, tt := range []struct {
		pad    int
		hidden bool
	}{{fits, true}, {fits + 1, false}} {
		answer := pad(tt.pad) + done
		want := answer
		if tt.hidden {
			want = done
		}
		for _, cut := range []int{0, 10, maxHeld, maxHeld + 1, maxHeld + 2} {
			m := NewMeter(&asking, 200, "text/event-stream")
			if got := run(m, answer, min(cut, len(answer))); got != want {
				t.Errorf("a chunk with %d bytes more, cut at %d: %d bytes are passed, want %d", tt.pad, cut, len(got), len(want))
			}
		}
	}
}

// TestOnlyUsageChunkIsHidden: nothing else is hidden, wherever the answer is cut.
func TestOnlyUsageChunkIsHidden(t *testing.T) {
	comment := ": " + strings.Repeat("x", maxHeld) + "\n"
	broken := `data: {"choices":[],"usage":{"prompt_tokens":9}` + "\n\n"
	for _, tt := range []struct{ answer, want string }{
		{comment + chatUsage + done, comment + done},
		{broken + done, broken + done},
		{strings.Replace(chatUsage, "}}", "}", 1), strings.Replace(chatUsage, "}}", "}", 1)},
	} {
		for _, cut := range []int{0, 1, 30, len(tt.answer) - 1, len(comment) + 30} {
			m := NewMeter(&asking, 200, "text/event-stream")
			if got := run(m, tt.answer, min(cut, len(tt.answer))); got != tt.want {
				t.Errorf("%.60q... cut at %d: passed %d bytes, want %d", tt.answer, cut, len(got), len(tt.want))
			}
		}
	}
}

// TestPassesAtOnce: only an event that may be the usage chunk is held back.
func TestPassesAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		r    Request
		sent string // in one piece
		want string // at once
	}{
		{"the chunk, usage not asked for", streaming, chatDelta + chatUsage, chatDelta + chatUsage},
		{"half an event, usage asked for", streamUsage, chatDelta + chatUsage[:20], chatDelta + chatUsage[:20]},
		{"events", asking, chatDelta + chatStop, chatDelta + chatStop},
		{"a choice", asking, chatDelta[:80], chatDelta[:80]},
		{"before the choices", asking, chatDelta + chatDelta[:40], chatDelta},
		{"a comment", asking, ": pi", ": pi"},
		{"a comment and more", asking, ": ping\n: ", ": ping\n: "},
		{"no JSON", asking, "data: hel", "data: hel"},
		{"a line without end", asking, "data: {\"x\":\"" + strings.Repeat("x", maxHeld), "data: {\"x\":\"" + strings.Repeat("x", maxHeld)},
		{"the chunk", asking, chatDelta + chatUsage, chatDelta},
		{"around the chunk", asking, chatDelta + chatUsage + done, chatDelta + done},
		{"only the chunk", asking, chatUsage, ""},
	} {
		m := NewMeter(&tt.r, 200, "text/event-stream")
		if tt.r.usageAsked {
			tt.want = withoutNulls(tt.want)
		}
		if got := string(m.Process([]byte(tt.sent))); got != tt.want {
			t.Errorf("%s: passes\n%q, want\n%q", tt.name, got, tt.want)
		}
	}
}

// TestHeldBytesArePassed before the bytes that follow, and at the end.
func TestHeldBytesArePassed(t *testing.T) {
	m := NewMeter(&asking, 200, "text/event-stream")
	first := string(m.Process([]byte(chatDelta[:40])))
	second := string(m.Process([]byte(chatDelta[40:] + chatStop[:20])))
	rest := string(m.Close())
	if first != "" || second != withoutNulls(chatDelta) || rest != chatStop[:20] {
		t.Errorf("passes %q, %q, %q, want nothing, then the event, then the rest", first, second, rest)
	}
}

// TestMemoryIsBounded for a line of any length.
func TestMemoryIsBounded(t *testing.T) {
	for _, line := range []string{"data: {\"usage\":{\"x\":\"", "data: ", ": ", "xxxxxxxxxx", "data: {\"", "data: {\"choices\":\""} {
		m := NewMeter(&asking, 200, "text/event-stream")
		m.Process([]byte(line))
		piece := []byte(strings.Repeat("y", 64<<10))
		for range 64 {
			m.Process(piece)
		}
		if size := cap(m.events.held) + cap(m.doc.usage) + cap(m.scan.frames) + cap(m.scan.names); size > 2*maxHeld+2*maxUsageBytes {
			t.Errorf("%d bytes are kept of a line that begins with %s", size, line)
		}
	}
}

// TestAnySplit: however an answer is cut, the meter reports the same and passes the
// same bytes.
func TestAnySplit(t *testing.T) {
	pieces := []string{
		chatDelta, chatStop, chatUsage, done, continuous, anthropicStart, anthropicDelta, anthropicTool, anthropicPing, anthropicUsage, anthropicStop,
		responseCreated, responseDelta, responseText, fmt.Sprintf(responseEnd, "completed"), ": comment\n\n", ":\n", "\n", "\r", "\r\n", "id: 1\n", "event: x\n",
		"data: hello\n\n", "data: {\"choices\":\ndata: [],\"usage\":{}}\n\n", "data\n\n", "\xef\xbb\xbf", "data:", "{", "}", `"\u00e4\\"`, `{"choices":[],` + `"usage":{"prompt_tokens":3,"completion_tokens":4}}`,
		spacedNull, firstNull, `data: {"usage":null`, `,"usage":`, "null", ` ,"usage" : null `, strings.Repeat(" ", maxNullBytes),
	}
	rapid.Check(t, func(t *rapid.T) {
		r := Request{
			Endpoint: Endpoint(rapid.IntRange(0, int(Messages)).Draw(t, "endpoint")), N: 1, InputBytes: 10,
			Stream: rapid.Bool().Draw(t, "stream"), IncludeUsage: rapid.Bool().Draw(t, "include usage"),
			usageAsked: rapid.Bool().Draw(t, "usage asked"),
		}
		answer := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 8).Draw(t, "answer"), "")
		answer = rapid.SampledFrom([]*strings.Replacer{strings.NewReplacer(), hiddenCRLF, hiddenCR}).Draw(t, "line ends").Replace(answer)
		kind := rapid.SampledFrom([]string{"text/event-stream", "application/json"}).Draw(t, "kind")
		cuts := rapid.SliceOfN(rapid.IntRange(0, len(answer)), 0, 12).Draw(t, "cuts")
		checkSplit(t, r, kind, answer, cuts)
	})
}

// TestEverySplit cuts at every byte, and into single bytes.
func TestEverySplit(t *testing.T) {
	answers := chatDelta + chatUsage + spacedNull + done
	for _, ends := range []*strings.Replacer{strings.NewReplacer(), hiddenCRLF, hiddenCR} {
		answer := ends.Replace("\xef\xbb\xbf: x\n" + answers)
		all := make([]int, len(answer))
		for i := range answer {
			all[i] = i
			checkSplit(t, streaming, "text/event-stream", answer, []int{i})
			checkSplit(t, asking, "text/event-stream", answer, []int{i})
		}
		checkSplit(t, streaming, "text/event-stream", answer, all)
		checkSplit(t, asking, "text/event-stream", answer, all)
	}
}
