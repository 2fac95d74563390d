// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"io"
	"net/url"
	"strings"
	"testing"
)

// TestInvalid: every invalid request gets a 400 that names the field, nothing is
// charged, and the node keeps serving.
func TestInvalid(t *testing.T) {
	n := newNode(t, nil)
	long := strings.Repeat("x", 5000)
	for _, tt := range []struct{ path, body, field, says string }{
		{"check", "", "body", "must be a JSON object, got nothing"},
		{"check", " \n", "body", "got nothing"},
		{"check", "hello", "body", "must be valid JSON: invalid character 'h' looking for beginning of value at byte 1"},
		{"check", `{"key":"k"`, "body", "unexpected end of JSON input"},
		{"check", `{"key":"k"} x`, "body", "after top-level value"},
		{"check", `{"key":"k"}{}`, "body", "after top-level value"},
		{"check", `{"key":"k",}`, "body", "must be valid JSON"},
		{"check", "\xff\xfe", "body", "must be valid JSON"},
		{"check", "\ufeff" + `{"key":"k"}`, "body", "must be valid JSON"},
		{"check", `[]`, "body", "must be a JSON object, got a list"},
		{"check", `null`, "body", "got null"},
		{"check", `"k"`, "body", `got "k"`},
		{"check", strings.Repeat("[", 20000), "body", "must be valid JSON"},
		{"check", `{"key":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`, "key", "must be a string, got a list"},

		{"check", `{}`, "key", `must not be empty, got ""`},
		{"check", `{"key":""}`, "key", "must not be empty"},
		{"check", `{"key":1}`, "key", "must be a string, got 1"},
		{"check", `{"key":null}`, "key", "must not be null: leave the field out"},
		{"check", `{"key":{"a":1}}`, "key", "must be a string, got an object"},
		{"check", `{"key":"a/b/c/d/e"}`, "key", `must have at most 4 segments, got "a/b/c/d/e"`},
		{"check", `{"key":"a//b"}`, "key", "segments must not be empty"},
		{"check", `{"key":"` + long + `"}`, "key", `at most 256 bytes, got "` + long[:64] + `"... (5000 bytes)`},
		{"check", "{\"key\":\"acme/\xff\"}", "key", `must be valid UTF-8, got "acme/` + "\ufffd" + `"`},
		{"check", `{"key":"\ud800"}`, "key", "must be valid UTF-8"},
		{"check", `{"key":"a\u0000b"}`, "key", `must be printable, got "a\x00b"`},
		{"check", `{"key":"k","key":"k"}`, "key", "is given twice"},
		{"check", `{"key":"k","input_token":1}`, "input_token", "unknown field; did you mean input_tokens?"},
		{"check", `{"key":"k","INPUT_TOKENS":1}`, "INPUT_TOKENS", "unknown field; did you mean input_tokens?"},
		{"check", `{"key":"k","max_output_tokens":1}`, "max_output_tokens", "unknown field"},
		{"check", `{"key":"k","` + long + `":1}`, `"` + long[:64] + `"... (5000 bytes)`, "unknown field; known are key, tier"},
		{"check", `{"key":"k","":1}`, `""`, "unknown field"},

		{"check", `{"key":"k","tier":"gold"}`, "tier", "gold"},
		{"check", `{"key":"k","tier":["free"]}`, "tier", "must be a string, got a list"},
		{"check", `{"key":"k","input_tokens":-1}`, "input_tokens", "must not be negative, got -1"},
		{"check", `{"key":"k","input_tokens":1.5}`, "input_tokens", "must be a whole number, got 1.5"},
		{"check", `{"key":"k","input_tokens":1e-1}`, "input_tokens", "must be a whole number, got 1e-1"},
		{"check", `{"key":"k","input_tokens":1e400}`, "input_tokens", "must be at most 2^53, got 1e400"},
		{"check", `{"key":"k","input_tokens":9007199254740993}`, "input_tokens", "must be at most 2^53, got 9007199254740993"},
		{"check", `{"key":"k","input_tokens":99999999999999999999}`, "input_tokens", "must be at most 2^53"},
		{"check", `{"key":"k","input_tokens":"12"}`, "input_tokens", `must be a number, got "12"`},
		{"check", `{"key":"k","input_tokens":true}`, "input_tokens", "must be a number, got true"},
		{"check", `{"key":"k","input_tokens":null}`, "input_tokens", "must not be null"},
		{"check", `{"key":"k","input_tokens":1` + strings.Repeat("0", 900) + `}`, "input_tokens", "... (901 digits)"},
		{"check", `{"key":"k","input_tokens":0123}`, "body", "must be valid JSON"},
		{"check", `{"key":"k","input_tokens":NaN}`, "body", "must be valid JSON"},
		{"check", `{"key":"k","requests":{}}`, "requests", "must be a number, got an object"},
		{"check", `{"key":"k","input_tokens":9007199254740992,"output_tokens":1}`, "output_tokens", "together must be at most 2^53"},
		{"check", `{"key":"k","costs":[1]}`, "costs", "must be an object of numbers, got a list"},
		{"check", `{"key":"k","costs":{"images":1.5}}`, "costs.images", "must be a whole number, got 1.5"},
		{"check", `{"key":"k","costs":{"images":null}}`, "costs.images", "must not be null"},
		{"check", `{"key":"k","costs":{"images":{"n":1}}}`, "costs.images", "must be a number, got an object"},
		{"check", `{"key":"k","costs":{"images":1,"images":2}}`, "costs.images", "is given twice"},
		{"check", `{"key":"k","costs":{"TOKENS":1}}`, "costs.TOKENS", "looks like a misspelled tokens"},
		{"check", `{"key":"k","costs":{"tokens":1}}`, "costs.tokens", "is a built-in dimension"},
		{"check", `{"key":"k","costs":{"":1}}`, "costs", "a name must not be empty"},
		{"check", `{"key":"k","request_id":"` + long + `"}`, "request_id", "at most 128 bytes"},

		{"check", `{"key":"k","max_wait_seconds":-1}`, "max_wait_seconds", "must not be negative, got -1"},
		{"check", `{"key":"k","max_wait_seconds":-0.5}`, "max_wait_seconds", "must not be negative, got -0.5"},
		{"check", `{"key":"k","max_wait_seconds":600.001}`, "max_wait_seconds", "must be at most 600, got 600.001"},
		{"check", `{"key":"k","max_wait_seconds":1e400}`, "max_wait_seconds", "must be at most 600, got 1e400"},
		{"check", `{"key":"k","max_wait_seconds":"5s"}`, "max_wait_seconds", `must be a number, got "5s"`},
		{"check", `{"key":"k","max_wait_seconds":"NaN"}`, "max_wait_seconds", `must be a number, got "NaN"`},
		{"check", `{"key":"k","max_wait_seconds":NaN}`, "body", "must be valid JSON"},
		{"check", `{"key":"k","max_wait_seconds":true}`, "max_wait_seconds", "must be a number, got true"},
		{"check", `{"key":"k","max_wait_seconds":null,"max_wait_seconds":1}`, "max_wait_seconds", "is given twice"},
		{"reserve", `{"key":"k","max_wait_seconds":601}`, "max_wait_seconds", "must be at most 600, got 601"},
		{"check", `{"key":"k","priority":"urgent"}`, "priority", `must be interactive, standard or batch, got "urgent"`},
		{"check", `{"key":"k","priority":"Batch"}`, "priority", `must be interactive, standard or batch, got "Batch"`},
		{"check", `{"key":"k","priority":1}`, "priority", "must be a string, got 1"},
		{"reserve", `{"key":"k","priority":null}`, "priority", "must not be null"},

		{"reserve", `{"key":"k","output_tokens":1}`, "output_tokens", "unknown field; known are key, tier, model, requests, input_tokens, max_output_tokens"},
		{"reserve", `{"key":"k","n":0}`, "n", "must be between 1 and 2^53, got 0"},
		{"reserve", `{"key":"k","n":1024,"max_output_tokens":9007199254740992}`, "max_output_tokens", "together must be at most 2^53"},
		{"reserve", `{"key":"k","ttl_seconds":86400}`, "ttl_seconds", "must be between 1 and 3600, got 86400"},
		{"reserve", `{"key":"k","max_output_tokens":1,"min_output_tokens":2}`, "min_output_tokens", "must be at most max_output_tokens = 1"},
		{"settle", `{"key":"k"}`, "request_id", "must not be empty"},
		{"settle", `{"key":"k","request_id":"a","final":1}`, "final", "must be true or false, got 1"},
		{"settle", `{"key":"k","request_id":"a","final":null}`, "final", "must not be null"},
		{"settle", `{"key":"k","request_id":"a","input_tokens":1,"cached_input_tokens":2}`, "cached_input_tokens", "must be at most input_tokens = 1"},
		{"cancel", `{"request_id":"a"}`, "key", "must not be empty"},
		{"cancel", `{"key":"k","request_id":"a","final":true}`, "final", "unknown field"},
	} {
		a := n.post(t, "/v1/"+tt.path, tt.body)
		p := a.problem(t)
		if a.status != 400 || p.Error != "invalid_request" || p.Field != tt.field || !strings.Contains(p.Message, tt.says) || !strings.HasPrefix(p.Message, tt.field+": ") {
			t.Errorf("POST %s %.100q = %d %s, want 400, %s: %s", tt.path, tt.body, a.status, a.body, tt.field, tt.says)
		}
		if len(a.body) > 600 {
			t.Errorf("POST %s %.100q repeats too much: %d bytes", tt.path, tt.body, len(a.body))
		}
	}
	for _, tt := range []struct{ query, field, says string }{
		{"", "key", "must not be empty"},
		{"key=", "key", "must not be empty"},
		{"key=a&key=b", "key", "is given twice"},
		{"key=a&teir=free", "teir", "did you mean tier?"},
		{"key=a;tier=free", "query", "semicolon"},
		{"key=%zz", "query", "invalid URL escape"},
		{"key=%ff", "key", "must be valid UTF-8"},
		{"key=" + url.QueryEscape("a\nb"), "key", "must be printable"},
	} {
		a := n.do(t, "GET", "/v1/limits?"+tt.query, nil)
		if p := a.problem(t); a.status != 400 || p.Field != tt.field || !strings.Contains(p.Message, tt.says) {
			t.Errorf("GET /v1/limits?%s = %d %s, want 400, %s: %s", tt.query, a.status, a.body, tt.field, tt.says)
		}
	}
	if s := n.engine.Stats(); s.Keys != 0 || s.IDs != 0 {
		t.Errorf("bad requests left %d keys and %d ids, want none", s.Keys, s.IDs)
	}
	if a := n.post(t, "/v1/check", `{"key":"k","model":"llama"}`); a.status != 200 {
		t.Errorf("a good request after the bad ones = %d %s, want 200", a.status, a.body)
	}
}

// TestLargeBody: the sender of a body that is too large sees the error.
func TestLargeBody(t *testing.T) {
	n := newNode(t, nil)
	const start, end = `{"key":"k","model":"`, `"}`
	body := func(size int64) io.Reader {
		filler := io.LimitReader(spaces{}, size-int64(len(start+end)))
		return io.MultiReader(strings.NewReader(start), filler, strings.NewReader(end))
	}
	for _, tt := range []struct {
		size   int64
		status int
		error  string
	}{
		{maxBody, 400, "invalid_request"}, // read, and its model is too long
		{maxBody + 1, 413, "body_too_large"},
		{10 << 20, 413, "body_too_large"},
		{maxDiscard, 413, "body_too_large"},
	} {
		a := n.do(t, "POST", "/v1/check", body(tt.size))
		if p := a.problem(t); a.status != tt.status || p.Error != tt.error {
			t.Errorf("POST of %d bytes = %d %.200s, want %d %s", tt.size, a.status, a.body, tt.status, tt.error)
		}
	}
	if a := n.post(t, "/v1/check", `{"key":"k","model":"llama"}`); a.status != 200 {
		t.Errorf("a good request after the large ones = %d %s, want 200", a.status, a.body)
	}
	if s := n.engine.Stats(); s.Keys != 1 {
		t.Errorf("engine has %d keys, want 1", s.Keys)
	}
}

type spaces struct{}

func (spaces) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}
