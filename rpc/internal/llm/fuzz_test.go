// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/amount"
)

// seeds are bodies to start fuzzing with.
var seeds = []string{
	`{}`, `[]`, ``, `{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}],"max_tokens":100,"n":2}`,
	`{"m\u0061x_tokens":1e3,"stream":true,"stream_options":{"include_usage":false,"x":null}}`,
	`{"prompt":[[1,2],[3]],"best_of":3}`, `{"input":"a","max_output_tokens":null,"text":{"format":{"type":"json_schema"}}}`,
	`{"thinking":{"type":"enabled","budget_tokens":1024},"tools":[{"name":"f"}],"tool_choice":{"type":"none"}}`,
	`{"max_tokens":-1,"n_predict":-1,"max_completion_tokens":null,"stream":true}`, `{"max_tokens":7,"n_predict":-1,"stream":true,"stream_options":null}`,
	`{"messages":[{"content":[{"type":"redacted_thinking","data":"` + strings.Repeat("Ab+/", 80) + `=="},{"source":{"type":"text","data":"` + strings.Repeat("Ab-_", 80) + `"},"type":"document"}]}]}`,
	`{"a":1,"a":2}`, `{"Max_Tokens":1}`, "{\"a\":\"\\ud83d\\ude00\"}", `{"prompt":["a",{"b":[true,null,-0.5e-7]}]}`,
}

// FuzzParse: an accepted body is JSON and its numbers are within bounds. An error has
// a field and a short problem.
func FuzzParse(f *testing.F) {
	for _, s := range seeds {
		for e := range endpoints {
			f.Add(uint8(e), []byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, endpoint uint8, body []byte) {
		e := Endpoint(endpoint % uint8(len(endpoints)))
		r, err := Parse(e, body)
		if err != nil {
			field, ok := errors.AsType[*FieldError](err)
			if !ok || field.Field == "" || field.Problem == "" || len(err.Error()) > 1<<10 {
				t.Fatalf("Parse(%q) = %v (%T)", body, err, err)
			}
			return
		}
		if !json.Valid(body) {
			t.Fatalf("Parse(%q) succeeds, want an error: it is not JSON", body)
		}
		if r.MaxOutput < -1 || r.MaxOutput > amount.Max || r.N < 1 || r.N > amount.Max || r.MinOutput < 0 || r.MaxOutput >= 0 && r.MinOutput > r.MaxOutput ||
			r.InputBytes < 0 || r.OpaqueBytes < 0 || r.OpaqueBytes > int64(len(body)) || r.InputTokens < 0 || r.InputTokens > int64(len(body)) {
			t.Fatalf("Parse(%q) = %+v", body, r)
		}
	})
}

// FuzzRewrite: a rewritten body has the new bounds and is otherwise the same.
func FuzzRewrite(f *testing.F) {
	for _, s := range seeds {
		for e := range endpoints {
			f.Add(uint8(e), []byte(s), int64(64), true)
		}
	}
	f.Fuzz(func(t *testing.T, endpoint uint8, body []byte, grant int64, usage bool) {
		checkRewrite(t, Endpoint(endpoint%uint8(len(endpoints))), body, max(-1, min(grant, amount.Max)), usage)
	})
}

// FuzzUsage: whatever two usage blocks say, what is read of them can be charged, and the
// second one takes no output away.
func FuzzUsage(f *testing.F) {
	for _, file := range answerFiles {
		for _, c := range answerCases(f, file) {
			if _, block, ok := strings.Cut(c.Answer, `"usage":`); ok {
				for e := range endpoints {
					f.Add(uint8(e), []byte(block), []byte(`{"prompt_tokens":"7","completion_tokens":2,"total_tokens":30}`))
				}
			}
		}
	}
	f.Add(uint8(Other), []byte(`{"reasoning_tokens":10}`), []byte(`{"total_tokens":30}`))
	f.Fuzz(func(t *testing.T, endpoint uint8, first, second []byte) {
		e := Endpoint(endpoint % uint8(len(endpoints)))
		var s scanner
		sum := noUsage
		for _, text := range [][]byte{first, second} {
			var b usageBlock
			b.read(&s, text)
			u, ok := b.usage(e, false)
			if !ok {
				continue
			}
			checkUsage(t, u, text)
			before := sum
			sum = combine(sum, u, e)
			checkUsage(t, sum, first, second)
			if sum.Output < before.Output || sum.Searches < before.Searches || sum.Images < before.Images || before.Input > 0 && sum.Input <= 0 {
				t.Fatalf("%v: %q then %q: %+v becomes %+v", e, first, second, before, sum)
			}
		}
	})
}

// checkUsage fails if a usage cannot be charged.
func checkUsage(t *testing.T, u Usage, text ...[]byte) {
	t.Helper()
	for _, n := range []int64{u.Input, u.CachedInput, u.CacheWrite, u.CacheWrite1h, u.Output, u.Reasoning, u.Images, u.Searches} {
		if n < -1 || n > amount.Max {
			t.Fatalf("%q has usage %+v", text, u)
		}
	}
	if u.Input >= 0 && u.inputParts() > u.Input || u.Reasoning > max(u.Output, 0) && u.Output >= 0 || max(u.Input, 0)+max(u.Output, 0) > amount.Max {
		t.Fatalf("%q has usage %+v", text, u)
	}
}

// FuzzMeter: the pieces in which an answer comes do not matter.
func FuzzMeter(f *testing.F) {
	for _, s := range []string{
		chatDelta + chatStop + chatUsage + done, hiddenCRLF.Replace(continuous + chatUsage), hiddenCR.Replace(chatDelta + chatUsage),
		anthropicStart + anthropicDelta + anthropicUsage + anthropicStop, responseCreated + responseDelta + responseText,
		"\xef\xbb\xbf: x\n\nid: 1\n" + chatUsage, spacedNull + firstNull + chatDelta, `{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`,
	} {
		for e := range endpoints {
			f.Add(uint8(e), true, true, []byte(s), []byte{3, 50, 0, 200})
		}
	}
	f.Add(uint8(1), true, false, []byte("\xefdata:{\"choices\",\"usage\"0{}}"), []byte("0")) // only the first byte of a byte order mark
	f.Fuzz(func(t *testing.T, endpoint uint8, events, asked bool, answer, steps []byte) {
		r := Request{Endpoint: Endpoint(endpoint % uint8(len(endpoints))), N: 1, Stream: events, IncludeUsage: asked, usageAsked: !asked, InputBytes: 1}
		kind := "application/json"
		if events {
			kind = "text/event-stream"
		}
		var cuts []int
		for at, i := 0, 0; i < len(steps); i++ {
			if at += int(steps[i]); at > len(answer) {
				break
			}
			cuts = append(cuts, at)
		}
		checkSplit(t, r, kind, string(answer), cuts)
	})
}
