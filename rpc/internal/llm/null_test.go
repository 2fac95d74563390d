// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"strings"
	"testing"
)

const (
	spacedNull = `data: {"id": "c", "choices": [{"index": 0, "delta": {"content": "a, \"usage\":null"}}], "usage": null, "x": {"usage": null}}` + "\n\n"
	firstNull  = `data: { "usage" : null , "choices":[{"delta":{"content":"b"}}]}` + "\n\n"
)

// TestNullUsageIsRemoved: a member "usage":null is removed from the events of a stream
// whose usage Rewrite asked for, and nothing else is, however the answer is cut.
func TestNullUsageIsRemoved(t *testing.T) {
	for _, tt := range []struct {
		name, sent string
		want       string // "": what was sent
	}{
		{"last", `{"choices":[{"delta":{"content":"a"}}],"usage":null}`, `{"choices":[{"delta":{"content":"a"}}]}`},
		{"in the middle", `{"choices":[{"delta":{}}],"usage":null,"x":1}`, `{"choices":[{"delta":{}}],"x":1}`},
		{"before the choices", `{"id":"c","usage":null,"choices":[{"delta":{"content":"a"}}]}`, `{"id":"c","choices":[{"delta":{"content":"a"}}]}`},
		{"first", `{"usage":null,"choices":[]}`, `{"choices":[]}`},
		{"alone", `{"usage":null}`, `{}`},
		{"with spaces", `{"a": 1, "usage": null, "b": 2}`, `{"a": 1, "b": 2}`},
		{"first, with spaces", `{ "usage" : null , "b":2}`, `{ "b":2}`},
		{"space before the end", `{"a":1 , "usage":null }`, `{"a":1  }`},
		{"no choices", `{"choices":[],"prompt_filter_results":[],"usage":null}`, `{"choices":[],"prompt_filter_results":[]}`},
		{"after a number", `{"created":17,"usage":null}`, `{"created":17}`},
		{"after null", `{"x":null,"usage":null,"y":null}`, `{"x":null,"y":null}`},
		{"twice", `{"a":1,"usage":null,"usage":null}`, `{"a":1,"usage":null}`},

		{"a text", `{"choices":[{"delta":{"content":",\"usage\":null"}}]}`, ""},
		{"a text as value", `{"a":"usage","b":"null"}`, ""},
		{"in an object", `{"choices":[{"usage":null}],"x":{"a":1,"usage":null}}`, ""},
		{"another value", `{"a":1,"usage":false}`, ""},
		{"not quite null", `{"a":1,"usage":nul}`, ""},
		{"more than null", `{"a":1,"usage":nulls}`, ""},
		{"null and more", `{"a":1,"usage":null 1}`, ""},
		{"a text null", `{"a":1,"usage":"null"}`, ""},
		{"a list", `{"a":1,"usage":[null]}`, ""},
		{"running usage", `{"choices":[{}],"usage":{"prompt_tokens":1,"completion_tokens":null}}`, ""},
		{"another name", `{"a":1,"usages":null,"usag":null,"Usage":null}`, ""},
		{"an escaped name", `{"a":1,"\u0075sage":null}`, ""},
		{"a list of events", `[{"a":1,"usage":null}]`, ""},
		{"no end", `{"a":1,"usage":null`, ""},
		{"far apart", `{"a":1,` + strings.Repeat(" ", maxNullBytes) + `"usage":null}`, ""},
	} {
		sent, want := "data: "+tt.sent+"\n\n", "data: "+tt.want+"\n\n"
		if tt.want == "" {
			want = sent
		}
		for i := range len(sent) {
			for _, cuts := range [][]int{{i}, {i, min(i+1, len(sent))}, {i, min(i+7, len(sent))}} {
				m := NewMeter(&asking, 200, "text/event-stream")
				if got := run(m, sent+done, cuts...); got != want+done {
					t.Fatalf("%s, cut at %v: %q is passed for %q, want %q", tt.name, cuts, got, sent, want)
				}
			}
		}
		for name, r := range map[string]*Request{"the caller asked for usage": &streamUsage, "nobody asked for usage": &streaming} {
			if got := run(NewMeter(r, 200, "text/event-stream"), sent); got != sent {
				t.Errorf("%s: %s: %q is passed, want %q", tt.name, name, got, sent)
			}
		}
	}
}

// TestNullUsageIsRemovedAtOnce: what precedes the member passes at once, and at most
// maxNullBytes are held back.
func TestNullUsageIsRemovedAtOnce(t *testing.T) {
	const text = `data: {"choices":[{"delta":{"content":"a"}}]`
	for _, tt := range []struct{ sent, want string }{
		{text, text},
		{text + `,"us`, text},
		{text + `,"usage":nul`, text},
		{text + `,"usage":null,`, text + `,`},
		{text + `,"usage":null,"x`, text + `,"x`},
		{text + `,"usage":null}`, text + `}`},
		{text + `,"usage":{`, text + `,"usage":{`},
		{text + `,` + strings.Repeat(" ", maxNullBytes), text + `,` + strings.Repeat(" ", maxNullBytes)},
		{text + `,"` + strings.Repeat("x", maxNullBytes), text + `,"` + strings.Repeat("x", maxNullBytes)},
	} {
		m := NewMeter(&asking, 200, "text/event-stream")
		if got := string(m.Process([]byte(tt.sent))); got != tt.want {
			t.Errorf("%q: passes %q, want %q", tt.sent, got, tt.want)
		}
	}
}

// TestRewriteAsksForNulls: the nulls are removed if Rewrite asked for usage.
func TestRewriteAsksForNulls(t *testing.T) {
	for _, tt := range []struct {
		body   string
		ask    bool
		passed bool
	}{
		{`{"stream":true,"messages":[]}`, true, false},
		{`{"stream":true,"messages":[]}`, false, true},
		{`{"stream":true,"stream_options":{"include_usage":false},"messages":[]}`, true, false},
		{`{"stream":true,"stream_options":{"include_usage":true},"messages":[]}`, true, true},
	} {
		r, err := Parse(ChatCompletions, []byte(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Rewrite(-1, tt.ask)
		if got := run(NewMeter(r, 200, "text/event-stream"), chatDelta); (got == chatDelta) != tt.passed {
			t.Errorf("%s, asked for usage %v: the null is passed: %v, want %v", tt.body, tt.ask, got == chatDelta, tt.passed)
		}
	}
}
