// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestRewrite(t *testing.T) {
	for _, tt := range []struct {
		name  string
		e     Endpoint
		body  string
		grant int64
		usage bool
		want  string
	}{
		{"nothing to do", ChatCompletions, ` { "max_tokens" : 100 } `, -1, true, ` { "max_tokens" : 100 } `},
		{"lowered", ChatCompletions, ` { "max_tokens" : 100 , "x":1.50 } `, 64, false, ` { "max_tokens" : 64 , "x":1.50 } `},
		{"not raised", ChatCompletions, `{"max_tokens":100}`, 101, false, `{"max_tokens":100}`},
		{"both lowered", ChatCompletions, `{"max_tokens":100,"max_completion_tokens":200}`, 64, false, `{"max_tokens":64,"max_completion_tokens":64}`},
		{"the higher one lowered", ChatCompletions, `{"max_completion_tokens":200,"max_tokens":100}`, 160, false, `{"max_completion_tokens":160,"max_tokens":100}`},
		{"only the one that is there", ChatCompletions, `{"max_tokens":null,"max_completion_tokens":200}`, 64, false, `{"max_tokens":null,"max_completion_tokens":64}`},
		{"added", ChatCompletions, `{"a":1}`, 64, false, `{"max_completion_tokens":64,"a":1}`},
		{"added to nothing", ChatCompletions, `{ }`, 64, false, `{"max_completion_tokens":64 }`},
		{"in place of null", ChatCompletions, `{"max_completion_tokens":null,"max_tokens":null}`, 64, false, `{"max_completion_tokens":64,"max_tokens":null}`},
		{"beside null", ChatCompletions, `{"max_tokens":null}`, 64, false, `{"max_completion_tokens":64,"max_tokens":null}`},
		{"no bound stays", ChatCompletions, `{"max_tokens":-1}`, -1, false, `{"max_tokens":-1}`},
		{"in place of no bound", ChatCompletions, `{"max_tokens": -1}`, 64, false, `{"max_tokens": 64}`},
		{"in place of no bound and null", ChatCompletions, `{"max_completion_tokens":null,"max_tokens":-1}`, 64, false, `{"max_completion_tokens":64,"max_tokens":64}`},
		{"in place of llama.cpp's no bound", Completions, `{"n_predict":-1}`, 64, false, `{"max_tokens":64,"n_predict":64}`},
		{"no bound beside a bound", ChatCompletions, `{"max_tokens":16,"n_predict":-1}`, -1, false, `{"max_tokens":16,"n_predict":16}`},
		{"no bound beside a lowered bound", ChatCompletions, `{"max_tokens":16,"n_predict":-1}`, 8, false, `{"max_tokens":8,"n_predict":8}`},
		{"no bound of Responses", Responses, `{"max_output_tokens":-1}`, 64, false, `{"max_output_tokens":64}`},
		{"a name in escapes", ChatCompletions, `{"m\u0061x_tokens":100}`, 64, false, `{"m\u0061x_tokens":64}`},
		{"completions", Completions, `{"prompt":"a"}`, 16, false, `{"max_tokens":16,"prompt":"a"}`},
		{"responses", Responses, `{"input":"a","stream":true}`, 16, true, `{"max_output_tokens":16,"input":"a","stream":true}`},
		{"messages", Messages, `{"max_tokens":99,"stream":true}`, 16, true, `{"max_tokens":16,"stream":true}`},
		{"embeddings", Embeddings, `{"input":"a"}`, 16, true, `{"input":"a"}`},
		{"usage", ChatCompletions, `{"stream":true}`, -1, true, `{"stream_options":{"include_usage":true},"stream":true}`},
		{"usage and bound", ChatCompletions, `{"stream":true}`, 16, true, `{"max_completion_tokens":16,"stream_options":{"include_usage":true},"stream":true}`},
		{"usage and a later bound", ChatCompletions, `{"stream":true,"max_tokens":99}`, 16, true, `{"stream_options":{"include_usage":true},"stream":true,"max_tokens":16}`},
		{"bound before null options", Completions, `{"stream":true,"max_tokens":99,"stream_options":null}`, 16, true, `{"stream":true,"max_tokens":16,"stream_options":{"include_usage":true}}`},
		{"usage, no stream", ChatCompletions, `{"stream":false}`, -1, true, `{"stream":false}`},
		{"usage asked for", ChatCompletions, `{"stream":true,"stream_options":{"include_usage":true}}`, -1, true, `{"stream":true,"stream_options":{"include_usage":true}}`},
		{"usage not asked for", ChatCompletions, `{"stream_options":{"a":1,"include_usage": false},"stream":true}`, -1, true, `{"stream_options":{"a":1,"include_usage": true},"stream":true}`},
		{"usage null", ChatCompletions, `{"stream_options":{"include_usage":null},"stream":true}`, -1, true, `{"stream_options":{"include_usage":true},"stream":true}`},
		{"other options", ChatCompletions, `{"stream":true,"stream_options":{ "continuous_usage_stats":true}}`, -1, true, `{"stream":true,"stream_options":{"include_usage":true, "continuous_usage_stats":true}}`},
		{"empty options", ChatCompletions, `{"stream":true,"stream_options":{}}`, -1, true, `{"stream":true,"stream_options":{"include_usage":true}}`},
		{"null options", Completions, `{"stream":true,"stream_options":null}`, -1, true, `{"stream":true,"stream_options":{"include_usage":true}}`},
	} {
		roomy := append(make([]byte, 0, len(tt.body)+SpareBytes), tt.body...)
		if r, err := Parse(tt.e, roomy); err == nil {
			if got, _ := r.Rewrite(tt.grant, tt.usage); string(got) != tt.want || &got[0] != &roomy[0] {
				t.Errorf("%s:\n got %s\nwant %s, in place", tt.name, got, tt.want)
			}
		}
		body := slices.Clip([]byte(tt.body))
		r, err := Parse(tt.e, body)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got, changed := r.Rewrite(tt.grant, tt.usage)
		if changed != (string(got) != tt.body) {
			t.Errorf("%s: changed = %v", tt.name, changed)
		}
		if string(got) != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
		if string(got) == tt.body && &got[0] != &body[0] {
			t.Errorf("%s: a copy, want the caller's slice", tt.name)
		}
		if string(body) != tt.body {
			t.Errorf("%s: the caller's body is changed to %s", tt.name, body)
		}
	}
}

var space = rapid.SampledFrom([]string{"", " ", "\n\t"})

func drawBody(t *rapid.T) (Endpoint, []byte) {
	e := Endpoint(rapid.IntRange(0, int(Messages)).Draw(t, "endpoint"))
	number := rapid.Map(rapid.Int64Range(1, 1<<53), func(n int64) string { return fmt.Sprint(n) })
	values := map[string]*rapid.Generator[string]{
		"model":  rapid.SampledFrom([]string{`"m"`, `"\u00e4"`, `null`}),
		"n":      rapid.SampledFrom([]string{"1", "2", "null"}),
		"stream": rapid.SampledFrom([]string{"true", "false", "null"}),
		"stream_options": rapid.SampledFrom([]string{
			"null", "{}", "{ }", `{"include_usage":true}`, `{"include_usage" : false}`, `{"include_usage":null,"x":[1]}`, `{"continuous_usage_stats":true}`,
		}),
		"messages": rapid.SampledFrom([]string{"[]", `[{"role":"user","content":"a\"}b"}]`, `[{"content":[{"type":"image_url","image_url":{"url":"data:"}}]}]`}),
		"tools":    rapid.SampledFrom([]string{"[]", "null", `[{"function":{"parameters":{"max_tokens":{"type":"integer"}}}}]`}),
		"future":   rapid.SampledFrom([]string{"1.50", `"max_tokens"`, `{"max_tokens":1,"stream_options":{}}`, "[[{}],null]"}),
	}
	for _, name := range []string{"max_tokens", "max_completion_tokens", "max_output_tokens", "n_predict"} {
		values[name] = rapid.OneOf(number, rapid.Just("null"), rapid.Just("-1"))
	}
	var names []string
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	names = rapid.SliceOfNDistinct(rapid.SampledFrom(names), 0, len(names), rapid.ID).Draw(t, "names")
	var b strings.Builder
	s := func() { b.WriteString(space.Draw(t, "space")) }
	s()
	b.WriteByte('{')
	for i, name := range names {
		if i > 0 {
			b.WriteByte(',')
		}
		s()
		spelled, _ := json.Marshal(name)
		if rapid.Bool().Draw(t, "escaped") {
			spelled = fmt.Appendf(nil, `"\u%04x%s"`, name[0], name[1:])
		}
		b.Write(spelled)
		s()
		b.WriteByte(':')
		s()
		b.WriteString(values[name].Draw(t, name))
		s()
	}
	s()
	b.WriteByte('}')
	s()
	return e, []byte(b.String())
}

// TestRewriteKeepsAllElse: according to encoding/json, the result differs from the body
// only in the bounds and in include_usage. All other bytes are the same.
func TestRewriteKeepsAllElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e, body := drawBody(t)
		grant := rapid.OneOf(rapid.Just(int64(-1)), rapid.Int64Range(0, 1<<53)).Draw(t, "grant")
		usage := rapid.Bool().Draw(t, "usage")
		if _, err := Parse(e, body); err != nil {
			t.Fatalf("Parse(%s): %v", body, err)
		}
		checkRewrite(t, e, body, grant, usage)
	})
}

// fataler is a *testing.T or a *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkRewrite is shared by the property test and the fuzz target.
func checkRewrite(t fataler, e Endpoint, body []byte, grant int64, usage bool) {
	t.Helper()
	r, err := Parse(e, slices.Clip(body))
	if err != nil {
		return
	}
	got, _ := r.Rewrite(grant, usage)
	inPlace, err := Parse(e, append(make([]byte, 0, len(body)+SpareBytes), body...))
	if err != nil {
		t.Fatalf("the caller's body is changed to %s: %v", body, err)
	}
	if same, _ := inPlace.Rewrite(grant, usage); string(same) != string(got) {
		t.Fatalf("%s\nbecomes %s\nand in place %s", body, got, same)
	}
	again, err := Parse(e, slices.Clip(got))
	if err != nil && grant == 0 {
		return // servers reject a bound of 0, but it is one
	}
	if err != nil {
		t.Fatalf("%s\nbecomes %s\nwhich Parse rejects: %v", body, got, err)
	}
	bounded := endpoints[e].bound != ""
	switch {
	case grant < 0 || !bounded || grant >= r.MaxOutput && r.MaxOutput >= 0:
		if again.MaxOutput != r.MaxOutput {
			t.Fatalf("%s\nbecomes %s\nthe bound is %d, want %d as before", body, got, again.MaxOutput, r.MaxOutput)
		}
	case again.MaxOutput != grant:
		t.Fatalf("%s\nbecomes %s\nthe bound is %d, want %d", body, got, again.MaxOutput, grant)
	}
	if want := r.IncludeUsage || usage && r.Stream && e.hasUsageChunk(); again.IncludeUsage != want {
		t.Fatalf("%s\nbecomes %s\nusage is asked for: %v, want %v", body, got, again.IncludeUsage, want)
	}
	before, after := masked(t, e, body), masked(t, e, got)
	for len(after) > len(before) && isAdded(after[0]) {
		after = after[1:]
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Fatalf("%s\nbecomes %s\nall else (-before +after):\n%s", body, got, diff)
	}
	if r.AddedStreamOptions() {
		without := r.WithoutStreamOptions(got)
		plain, err := Parse(e, slices.Clip(body))
		if err != nil {
			t.Fatalf("the caller's body is changed to %s: %v", body, err)
		}
		if want, _ := plain.Rewrite(grant, false); string(without) != string(want) {
			t.Fatalf("%s\nbecomes %s\nand without stream_options %s\nwant %s", body, got, without, want)
		}
	}
	if then, changed := again.Rewrite(grant, usage); string(then) != string(got) || changed {
		t.Fatalf("%s\nbecomes %s\nand then %s", body, got, then)
	}
	if len(got) > len(body)+SpareBytes {
		t.Fatalf("%s\nbecomes %s\nwhich is too long", body, got)
	}
}

// isAdded reports whether a member is one that Rewrite adds.
func isAdded(member string) bool {
	switch member {
	case `"max_tokens":?`, `"max_completion_tokens":?`, `"max_output_tokens":?`, `"stream_options":?`:
		return true
	}
	return false
}

// masked cuts a body into its members and the bytes around them. Values that Rewrite
// may change become a question mark.
func masked(t fataler, e Endpoint, body []byte) []string {
	t.Helper()
	list := cut(t, body, func(name string, value []byte) string {
		switch endpoints[e].fields[name] {
		case boundField:
			return "?"
		case streamOptionsField:
			if value[0] != '{' {
				return "?"
			}
			options := cut(t, value, func(name string, value []byte) string {
				if name == "include_usage" {
					return "?"
				}
				return string(value)
			})
			options = slices.DeleteFunc(options, func(o string) bool { return strings.HasSuffix(o, "?") })
			if len(options) == 2 { // only white space
				return "?"
			}
			return strings.Join(options, ",")
		}
		return string(value)
	})
	return list
}

// cut splits an object at its commas.
func cut(t fataler, object []byte, mask func(name string, value []byte) string) []string {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(object))
	if _, err := d.Token(); err != nil {
		t.Fatalf("%s: %v", object, err)
	}
	from := d.InputOffset()
	list := []string{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			t.Fatalf("%s: %v", object, err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			t.Fatalf("%s: %v", object, err)
		}
		before := object[from : d.InputOffset()-int64(len(value))]
		from = d.InputOffset()
		list = append(list, string(bytes.TrimPrefix(before, []byte(",")))+mask(name.(string), value))
	}
	// What stands before the first member and after the last.
	list = append(list, string(object[:bytes.IndexByte(object, '{')+1]), string(object[from:]))
	return list
}
