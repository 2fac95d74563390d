// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"encoding/json"
	"errors"
	"testing"
)

// seeds are bodies that get a fuzzer going.
var seeds = []string{
	`{}`, `[]`, ``, `{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:"}}]}],"max_tokens":100,"n":2}`,
	`{"m\u0061x_tokens":1e3,"stream":true,"stream_options":{"include_usage":false,"x":null}}`,
	`{"prompt":[[1,2],[3]],"best_of":3}`, `{"input":"a","max_output_tokens":null,"text":{"format":{"type":"json_schema"}}}`,
	`{"thinking":{"type":"enabled","budget_tokens":1024},"tools":[{"name":"f"}],"tool_choice":{"type":"none"}}`,
	`{"a":1,"a":2}`, `{"Max_Tokens":1}`, "{\"a\":\"\\ud83d\\ude00\"}", `{"prompt":["a",{"b":[true,null,-0.5e-7]}]}`,
}

// FuzzParse: what is read is JSON, what is refused has a name and a short reason,
// and the numbers are in their bounds.
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
			t.Fatalf("Parse(%q) succeeds, and it is not JSON", body)
		}
		if r.MaxOutput < -1 || r.MaxOutput > maxAmount || r.N < 1 || r.N > maxAmount || r.MinOutput < 0 || r.MaxOutput >= 0 && r.MinOutput > r.MaxOutput ||
			r.InputBytes < 0 || r.InputTokens < 0 || r.InputTokens > int64(len(body)) {
			t.Fatalf("Parse(%q) = %+v", body, r)
		}
	})
}

// FuzzRewrite: a rewritten body says what it should, and is otherwise the same.
func FuzzRewrite(f *testing.F) {
	for _, s := range seeds {
		for e := range endpoints {
			f.Add(uint8(e), []byte(s), int64(64), true)
		}
	}
	f.Fuzz(func(t *testing.T, endpoint uint8, body []byte, grant int64, usage bool) {
		checkRewrite(t, Endpoint(endpoint%uint8(len(endpoints))), body, max(-1, min(grant, maxAmount)), usage)
	})
}

// FuzzMeter: an answer that is cut anywhere is metered and passed as if it was not.
func FuzzMeter(f *testing.F) {
	for _, s := range []string{
		chatDelta + chatStop + chatUsage + done, hiddenCRLF.Replace(continuous + chatUsage), hiddenCR.Replace(chatDelta + chatUsage),
		anthropicStart + anthropicDelta + anthropicUsage + anthropicStop, responseCreated + responseDelta + responseText,
		"\xef\xbb\xbf: x\n\nid: 1\n" + chatUsage, `{"choices":[{"message":{"content":"x"}}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`,
	} {
		for e := range endpoints {
			f.Add(uint8(e), true, true, []byte(s), []byte{3, 50, 0, 200})
		}
	}
	f.Add(uint8(1), true, false, []byte("\xefdata:{\"choices\",\"usage\"0{}}"), []byte("0")) // a byte order mark that is none
	f.Fuzz(func(t *testing.T, endpoint uint8, events, asked bool, answer, steps []byte) {
		r := Request{Endpoint: Endpoint(endpoint % uint8(len(endpoints))), N: 1, Stream: events, IncludeUsage: asked, InputBytes: 1}
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
